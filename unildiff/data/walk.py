"""Find the image files of a folder: the one walk that datasets, ``restore`` and every other command share.

Thumbnails, trash and other folders that programs leave behind are not entered, a folder is found under its own name and
not under that of a link to it, and image files that nothing installed here can decode are listed instead of ignored.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from unildiff.data.pair import SUFFIXES
from unildiff.utils.errors import UserError
from unildiff.utils.files import no_permission, some

# Folders that cameras, file managers and network disks make: thumbnails, trash, metadata.
_PRUNED = (".*", "@eaDir", "@Recycle", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN", "System Volume Information")
# Image formats that need a plugin, and the module that brings it.
_PLUGINS = {".avif": "PIL._avif", ".heic": "pillow_heif", ".heif": "pillow_heif", ".hif": "pillow_heif"}
_PLUGINS |= {".jxl": "pillow_jxl"}
PACKAGES = {"pillow_heif": "pillow-heif", "pillow_jxl": "pillow-jxl-plugin"}
"""What to install for the modules of plugins that do not come with Pillow."""
# Image files that people keep beside their photographs and that no reader here decodes.
_FOREIGN_NAMES = """3fr arw cr2 cr3 dcr dng erf exr fff hdr iiq jxr kdc mos mrw nef nrw orf pef psb psd raf raw rw2 rwl sr2 srf
srw svg x3f xcf"""
_FOREIGN = frozenset(f".{name}" for name in _FOREIGN_NAMES.split())


@dataclass(frozen=True)
class Walk:
    """What a folder holds.

    Attributes:
        images: files that can be decoded, sorted by their path below the folder.
        unreadable: image files of formats that nothing installed here decodes (camera RAW, ...), sorted alike.
    """

    images: list[Path]
    unreadable: list[Path]

    @property
    def warning(self) -> str:
        """One line that names and counts the image files that cannot be read, or the empty string."""
        if not self.unreadable:
            return ""
        files = "file" if len(self.unreadable) == 1 else "files"
        return (
            f"{len(self.unreadable):,} image {files} of a format that cannot be read here, left out: "
            f"{some([shown(path) for path in self.unreadable])}; {install_hint(*self.unreadable)}convert them to PNG or TIFF first"
        )


def install_hint(*paths: Path) -> str:
    """Return the command that installs what these files need and " or ", or the empty string."""
    missing = {_PLUGINS.get(path.suffix.lower(), "") for path in paths}
    packages = [PACKAGES[module] for module in sorted(missing & PACKAGES.keys()) if find_spec(module) is None]
    return f"`pip install {' '.join(packages)}` or " if packages else ""


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the file name endings, in lower case, of the images that can be decoded with what is installed."""
    return SUFFIXES | {suffix for suffix, module in _PLUGINS.items() if find_spec(module) is not None}


def is_image(path: Path) -> bool:
    """Return whether the file name is that of an image that can be decoded, and not hidden."""
    return path.suffix.lower() in readable_suffixes() and not path.name.startswith(".")


def find_images(folder: Path, recursive: bool = True) -> Walk:
    """Return the images of a folder, and of those below it if ``recursive``.

    Raises:
        UserError: there is no such folder, it is a file, or a folder may not be read.
    """
    if not folder.exists():
        raise UserError(f"no such folder: {shown(folder)}; check the path")
    if not folder.is_dir():
        raise UserError(f"not a folder but a file: {shown(folder)}; give the folder that holds the images")
    files = [path for path in (files_below(folder) if recursive else _files_in(folder)) if path.name[0] != "."]
    files.sort(key=lambda path: path.relative_to(folder).as_posix())
    foreign = (_FOREIGN | set(_PLUGINS)) - readable_suffixes()
    return Walk([path for path in files if is_image(path)], [path for path in files if path.suffix.lower() in foreign])


def files_below(*folders: Path) -> Iterator[Path]:
    """Yield the files in folders and below them, each folder once, links to folders followed after all real folders.

    Folders of thumbnails, trash and metadata are not entered unless they are among ``folders``.

    Raises:
        UserError: a folder may not be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = list(folders)
    while waiting:
        links: list[Path] = []
        for start in sorted(waiting, key=lambda path: (path.is_symlink(), path)):
            yield from _real_files(start, seen, links)
        waiting = links


def _real_files(start: Path, seen: set[tuple[int, int]], links: list[Path]) -> Iterator[Path]:
    """Yield the files below ``start`` without following links to folders, which are added to ``links``."""

    def refuse(error: OSError) -> None:
        raise no_permission(Path(error.filename)) from None

    for place, folders, files in os.walk(start, onerror=refuse):
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        entered = sorted(name for name in folders if not is_pruned(name))
        links += [Path(place, name) for name in entered if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in entered if not os.path.islink(os.path.join(place, name))]
        yield from (Path(place, file) for file in files)


def is_pruned(name: str) -> bool:
    """Return whether a folder of this name is never entered."""
    return any(fnmatchcase(name, pattern) for pattern in _PRUNED)


def shown(path: Path | str) -> str:
    """Return a path as it can be printed and logged: a byte that is not UTF-8 appears as its hexadecimal escape."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _files_in(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_file())
    except PermissionError:
        raise no_permission(folder) from None
