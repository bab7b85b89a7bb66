"""Fetching sets whose home is a stable Hugging Face repository; for the others, where they were last seen.

Repositories and files as named by public code that reads them (2026-11); nothing here was checked against the hub
when it was written. ``HF_ENDPOINT`` names another hub, such as a mirror.
"""

import datetime
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from unildiff.data.tools.extract import extract
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_failure, write_whole
from unildiff.utils.parallel import progress

RECORD = "download.json"
_WORK = ".download"


@dataclass(frozen=True)
class Home:
    """Where a set lives.

    Attributes:
        repo: dataset repository on the hub.
        files: patterns of its archives.
        place: folder below the root that all images go to; None keeps the archive's own folders.
        check: the name that ``unildiff data check`` knows it by.
    """

    repo: str
    files: tuple[str, ...]
    place: str | None
    check: str


HOMES = {
    # last seen: CDD-11_train.zip 22.4 GB and CDD-11_test.zip 3.77 GB; in an earlier listing train.zip and test.zip
    "cdd11": Home("gy65896/CDD-11", ("*.zip",), None, "cdd11"),
    "cbsd68": Home("deepinv/CBSD68", ("*.tar.gz", "*.zip"), "test/denoise/bsd68", "noise"),
    "urban100": Home("eugenesiow/Urban100", ("data/*_HR.tar.gz",), "test/denoise/urban100", "urban100"),
}


@dataclass(frozen=True)
class RemoteFile:
    """One archive of a repository; ``sha256`` is None where the hub does not say it."""

    name: str
    size: int
    sha256: str | None


def download(name: str, root: Path, only: str = "", say: Callable[[str], object] = print) -> list[str]:
    """Download and unpack a set, or what is missing of it.

    Args:
        name: a key of ``HOMES``.
        root: folder to write to.
        only: take the archives whose names contain this, e.g. "test".
        say: told the size before anything is fetched.

    Returns:
        The archives that were fetched now.

    Raises:
        UserError: no network, a repository that has changed, a damaged archive, no space or permission.
    """
    home = HOMES[name]
    output_folder(root)
    revision, remote = _listing(home, root, only)
    done = _done(root)
    missing = [file for file in remote if done.get(file.name, {}).get("revision") != revision]
    total = sum(file.size for file in missing)
    sizes = ", ".join(f"{file.name} {_size(file.size)}" for file in missing) or "nothing is missing"
    say(f"{home.repo}: {sizes}; {_size(total)} to download to {root}")
    # what is unpacked takes about as much again, one archive at a time
    needed = total + max((file.size for file in missing), default=0)
    if needed > (free := shutil.disk_usage(root).free):
        raise UserError(
            f"disk full: {_size(needed)} are needed in {root} to download and unpack, {_size(free)} are free"
        )
    for file in missing:
        archive = _fetch(home, revision, file, root / _WORK)
        count = extract(archive, root, home.place)
        os.sync()  # the images are on the disk before the record says so
        archive.unlink()
        done[file.name] = {
            "repository": home.repo,
            "revision": revision,
            "bytes": file.size,
            "sha256": file.sha256,
            "files": count,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        write_whole(root / RECORD, json.dumps(done, indent=1).encode() + b"\n")
    shutil.rmtree(root / _WORK, ignore_errors=True)
    return [file.name for file in missing]


def _listing(home: Home, root: Path, only: str) -> tuple[str, list[RemoteFile]]:
    import huggingface_hub

    hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _Network(home, root):
        info: Any = hub.repo_info(home.repo, repo_type="dataset", files_metadata=True, timeout=30)
    files = [
        RemoteFile(file.rfilename, int(file.size or 0), file.lfs.sha256 if file.lfs else None)
        for file in info.siblings
        if any(fnmatch(file.rfilename, pattern) for pattern in home.files)
    ]
    chosen = [file for file in files if only in file.name]
    if not chosen:
        there = (
            ", ".join(file.name for file in files)
            or ", ".join(file.rfilename for file in info.siblings[:8])
            or "nothing"
        )
        raise UserError(f"no archive{f' named {only}' if only else ''} in {home.repo}; it has {there}")
    return info.sha, chosen


def _fetch(home: Home, revision: str, file: RemoteFile, folder: Path) -> Path:
    """Return the archive, fetched from where an earlier run left off, its checksum compared.

    ``hf_hub_download`` begins anew after an interruption (huggingface_hub 2), which for 22 GB is no good: so the pieces
    that it is made of.
    """
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    utils: Any = huggingface_hub.utils  # exported, but not for mypy
    endpoint = os.environ.get("HF_ENDPOINT")
    url = huggingface_hub.hf_hub_url(home.repo, file.name, repo_type="dataset", revision=revision, endpoint=endpoint)
    path = output_folder(folder) / file.name.replace("/", "_")
    partial = path.with_name(f"{path.name}.{revision}.part")
    if not path.exists():
        with _Network(home, partial), open(partial, "ab") as data:
            try:
                fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is downloading to {folder}; wait for it to end") from None
            headers = utils.build_hf_headers()
            http_get(url, data, resume_size=data.tell(), headers=headers, expected_size=file.size)
        partial.rename(path)
    if path.stat().st_size != file.size or (file.sha256 is not None and _sha256(path) != file.sha256):
        path.unlink()
        raise UserError(f"damaged download: {file.name} of {home.repo} differs from the hub's checksum; run it again")
    return path


class _Network:
    """Turns what goes wrong between here and the hub into one line."""

    def __init__(self, home: Home, writes: Path) -> None:
        self._home = home
        self._writes = writes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from huggingface_hub import errors

        of_the_network = (OSError, errors.XetDownloadError, vars(errors)["HTTPError"])
        if isinstance(
            error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError
        ):
            raise UserError(f"{self._home.repo} is not there any more, or needs a login: {_line(error)}") from None
        if isinstance(error, OSError) and error.filename is not None:  # a file here, not the network
            raise write_failure(Path(error.filename), error) from None
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and not isinstance(error, ConnectionError | TimeoutError)
        ):
            raise write_failure(self._writes, error) from None
        if isinstance(error, of_the_network):
            endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            raise UserError(
                f"cannot reach {self._home.repo} at {endpoint}: {_line(error)}; check the network and run it again, "
                "what was fetched is kept"
            ) from None


def _done(root: Path) -> dict[str, dict[str, Any]]:
    path = root / RECORD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); delete it to download everything again") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    step = 1 << 24
    with open(path, "rb") as file:
        for _ in progress(range(0, path.stat().st_size, step), path.stat().st_size // step, f"Verifying {path.name}"):
            digest.update(file.read(step))
    return digest.hexdigest()


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def elsewhere(sets: Sequence[Any]) -> str:
    """Return, for sets without a stable home, where each was last seen and the trees to put it in."""
    from unildiff.data.layouts import describe

    lines = []
    for images in sets:
        own = next((name for name, home in HOMES.items() if home.check == images.name), None)
        lines.append(f"{images.title} ({images.name}): {images.home or 'no public home known'}")
        if own is not None:
            lines.append(f"  its test images: `unildiff data download {own}`")
        lines += [f"  {line}" for line in describe(images)]
    return "\n".join(lines)
