"""Fetches the photographs that the shipped model is trained and validated on: 162 files of a Debian package.

They are in the public domain (most were donated at morguefile.com or unsplash.com, some are by USGS and NASA) and lie in
``endless-sky-data``, the images of a game. ``photographs.sha256`` beside this module names each with its hash and split.
"""

import hashlib
import lzma
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_failure, write_whole

PACKAGE = "endless-sky-data_0.9.8-1.2_all.deb"
POOL = f"pool/main/e/endless-sky/{PACKAGE}"
SHA256 = "e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13"
SIZE = 69_735_632
ARCHIVES = ("http://deb.debian.org/debian", "https://snapshot.debian.org/archive/debian/20250520T000000Z")
_INSIDE = "./usr/share/games/endless-sky/images/land/"
_APT = Path("/etc/apt")
_README = """# Photographs for training (`train`) and validation (`validation`)

Fetched by `unildiff data photographs` from Debian's package {package}, folder
`usr/share/games/endless-sky/images/land/`. Its copyright file places these files in the public domain: most were donated at
morguefile.com or unsplash.com, `lava0` is by the USGS, `station1` to `station4` are by NASA. The split is fixed.
"""


def hashes() -> dict[str, str]:
    """Return the SHA-256 of each photograph by its place, e.g. ``train/forest0.jpg``."""
    lines = Path(__file__).with_suffix(".sha256").read_text(encoding="ascii").splitlines()
    return {place: digest for digest, place in (line.split("  ") for line in lines)}


def mirrors() -> list[str]:
    """Return the Debian archives that apt is configured with, then the public ones."""
    found = []
    for file in sorted([_APT / "sources.list", *_APT.glob("sources.list.d/*")]):
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        found += re.findall(r"^(?:URIs:|deb(?: \[[^]]*\])?) *(https?://\S+/debian)/?(?= |$)", text, re.MULTILINE)
    return list(dict.fromkeys([*found, *ARCHIVES]))


def fetch(root: Path, package: Path | None = None, say: Callable[[str], object] = print) -> int:
    """Write the photographs that are missing or damaged in ``train`` and ``validation`` below ``root``; return their number.

    Without ``package``, the Debian package file, it is downloaded; ``say`` receives a line about each download beforehand.

    Raises:
        UserError: no archive can be reached, the package differs from the one known, or the folder cannot be written.
    """
    missing = {place: digest for place, digest in hashes().items() if _digest(root / place) != digest}
    if not missing:
        return 0
    output_folder(root)
    partial = root / f".{PACKAGE}.part"
    source = package or _download(partial, say)
    if _digest(source) != SHA256:
        if package is None:
            partial.unlink()
        raise UserError(f"{source} is not {PACKAGE} (its SHA-256 differs); download it again")
    wanted = {place.rpartition("/")[2]: place for place in missing}
    for name, data in _members(source):
        if (place := wanted.get(name)) is not None and hashlib.sha256(data).hexdigest() == missing[place]:
            output_folder((root / place).parent)
            write_whole(root / place, data)
            del wanted[name]
    if wanted:
        raise UserError(f"{source} lacks {next(iter(wanted))}; download it again")
    write_whole(root / "README.md", _README.format(package=PACKAGE).encode())
    partial.unlink(missing_ok=True)
    return len(missing)


def _download(partial: Path, say: Callable[[str], object]) -> Path:
    """Download the package, continuing an interrupted download, from the first archive that has it."""
    failures = []
    for archive in mirrors():
        have = partial.stat().st_size if partial.is_file() else 0
        if have >= SIZE:
            return partial
        say(f"{archive}/{POOL}: {(SIZE - have) / 1e6:.1f} MB to download")
        request = urllib.request.Request(f"{archive}/{POOL}", headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                resumes = answer.status == 206
                with open(partial, "ab" if resumes else "wb") as file:
                    while block := answer.read(1 << 20):
                        file.write(block)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            failures.append(f"{archive}: {error}")
        except OSError as error:
            raise write_failure(partial, error) from None
        if partial.is_file() and partial.stat().st_size >= SIZE:
            return partial
    raise UserError(
        f"cannot download {PACKAGE} ({'; '.join(failures) or 'the connection ended early'}). Run it again to continue, or "
        "give --package, the file from another machine"
    )


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in the photographs' folder of a Debian package."""
    with open(package, "rb") as file, _data(file) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(_INSIDE) and (content := archive.extractfile(member)):
                yield member.name.removeprefix(_INSIDE), content.read()


def _data(file: IO[bytes]) -> tarfile.TarFile:
    """Return the data archive of a Debian package: an ar archive, whose third member it is."""
    file.seek(8)  # "!<arch>\n"
    while header := file.read(60):
        name, size = header[:16].decode().strip(), int(header[48:58])
        if name.startswith("data.tar.xz"):
            return tarfile.open(fileobj=lzma.open(file), mode="r|")
        file.seek(size + size % 2, 1)
    raise UserError(f"{file.name} holds no data.tar.xz; it is not {PACKAGE}")


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
