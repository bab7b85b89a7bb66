"""SHA-256 of the weight files in a folder, in the format of ``sha256sum``: ``sha256sum -c SHA256SUMS`` checks it too."""

import hashlib
from functools import lru_cache
from pathlib import Path

from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole

CHECKSUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all safetensors files in a folder and below it."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _weight_files(folder)]
    write_whole(folder / CHECKSUMS, "".join(lines).encode())


def verify_checksums(folder: Path) -> None:
    """Compare the weight files of a folder with its checksums; folders of earlier releases have none and are not compared.

    Raises:
        UserError: a file is missing, differs, or has no checksum; the files are named.
    """
    path = folder / CHECKSUMS
    if path.is_file():
        seen = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _weight_files(folder))
        _verify(folder, path.stat().st_mtime_ns, seen)


@lru_cache(64)
def _verify(folder: Path, changed: int, seen: tuple[tuple[str, int, int], ...]) -> None:
    """Compare once per version of the files, which ``changed`` and ``seen`` identify."""
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines if line.strip())}
    found = {Path(name).relative_to(folder).as_posix(): name for name, _, _ in seen}
    wrong = [name for name in expected if name not in found or _sha256(Path(found[name])) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if wrong:
        raise UserError(
            f"model: {folder / wrong[0]} does not match {CHECKSUMS} ({len(wrong)} of {len(expected)} files); copy the folder "
            f"or export the model again, or delete {CHECKSUMS} if you changed the weights yourself"
        )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model: cannot read {path} ({error.strerror})") from None
