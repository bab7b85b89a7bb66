"""Unpacking archives of pictures: nothing outside the folder, no half-written files, existing ones kept."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from unildiff.data.pair import SUFFIXES
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_failure
from unildiff.utils.parallel import progress

Member = tuple[str, int, Callable[[], IO[bytes] | None]]  # path, length, and how to open it


def extract(archive: Path, root: Path, place: str | None = None) -> int:
    """Unpack the pictures of a zip or tar file.

    An archive whose files are not all in one folder of their own gets one, named after the archive. Files that are there
    with the right length, from an earlier run, are kept; each other one appears whole or not at all.

    Args:
        archive: the file.
        root: folder to write to.
        place: folder below ``root`` that all pictures go to, without their own folders.

    Returns:
        The number of pictures.

    Raises:
        UserError: not an archive, damaged, with paths that lead outside, or no permission or space to write.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                return _write(archive, list(_zip_members(file)), root, place)
        with tarfile.open(archive) as tar:
            return _write(archive, list(_tar_members(tar)), root, place)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"damaged archive: {archive} ({error}); delete it and download it again") from None
    except OSError as error:
        if error.errno is None:  # what gzip raises for damage
            raise UserError(f"damaged archive: {archive} ({error}); delete it and download it again") from None
        raise write_failure(root, error) from None


def _zip_members(file: zipfile.ZipFile) -> Iterator[Member]:
    for info in file.infolist():
        if not info.is_dir():
            yield info.filename, info.file_size, lambda info=info: file.open(info)  # type: ignore[misc]


def _tar_members(file: tarfile.TarFile) -> Iterator[Member]:
    for info in file:
        if info.isfile():
            yield info.name, info.size, lambda info=info: file.extractfile(info)  # type: ignore[misc]


def _write(archive: Path, members: list[Member], root: Path, place: str | None) -> int:
    pictures = [(_parts(archive, name), size, opened) for name, size, opened in members if _wanted(name)]
    if not pictures:
        raise UserError(f"no pictures in {archive}; the set has changed, see `unildiff data list`")
    tops = {path.parts[0] for path, _, _ in pictures}
    own = len(tops) == 1 and all(len(path.parts) > 1 for path, _, _ in pictures)
    base = root if place is None and own else root / (place or archive.name.partition(".")[0])
    targets: dict[Path, str] = {}
    for path, size, opened in progress(pictures, len(pictures), f"Unpacking {archive.name}"):
        target = base / (path.name if place is not None else path)
        if target in targets:
            raise UserError(f"{archive}: {targets[target]} and {path} would both be {target}; the set has changed")
        targets[target] = str(path)
        if target.is_file() and target.stat().st_size == size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            stream = opened()
            assert stream is not None  # regular files only
            with stream, open(partial, "wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return len(pictures)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _parts(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"{archive} holds {name}, which leads out of its folder; do not use this archive")
    return path
