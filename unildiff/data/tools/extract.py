"""Unpacking archives of images: nothing outside the folder, no half-written files, existing ones kept."""

import contextlib
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from unildiff.data.pair import SUFFIXES
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, part_of, write_failure
from unildiff.utils.parallel import progress
from unildiff.utils.store import check_space

MOST_BYTES = 1 << 40  # unpacked; CDD-11, the largest set that is fetched, takes 26 GB
MOST_RATIO = 100  # unpacked to packed; images hardly compress
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error)
Member = tuple[str, int, Callable[[], IO[bytes] | None]]  # path, length, and how to open it


def extract(archive: Path, root: Path, place: str | None = None) -> int:
    """Unpack the images of a zip or tar file.

    An archive whose files are not all in one folder of their own gets one, named after the archive. Files that are there
    with the right length, from an earlier run, are kept; each other one appears complete or not at all.

    With ``place`` all images go to that folder below ``root``, without their own folders. Returns the number of images.

    Raises:
        UserError: not an archive, damaged, encrypted, larger than it can be, with paths that lead outside, or no permission or
            space to write.
    """
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(archive):
                zipped = stack.enter_context(zipfile.ZipFile(archive))
                files = [info for info in zipped.infolist() if not info.is_dir()]
                members: list[Member] = [(info.filename, info.file_size, partial(zipped.open, info)) for info in files]
            else:
                tar = stack.enter_context(tarfile.open(archive))
                members = [(info.name, info.size, partial(tar.extractfile, info)) for info in tar if info.isfile()]
                while tar.fileobj is not None and tar.fileobj.read(1 << 20):  # gzip compares its checksum at the end
                    pass
            return _write(archive, members, root, place)
    except (*_DAMAGE, EOFError, NotImplementedError, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # without a number it is gzip's, for damage
            raise write_failure(root, error) from None
        raise UserError(f"damaged archive: {archive} ({error}); delete it and download it again") from None
    except RuntimeError as error:  # what zipfile raises for a password
        raise UserError(f"encrypted archive: {archive} ({error}); unpack it yourself and give the folder") from None


def _write(archive: Path, members: list[Member], root: Path, place: str | None) -> int:
    images = [(_parts(archive, name), size, opened) for name, size, opened in members if _wanted(name)]
    if not images:
        raise UserError(f"no images in {archive}; the set has changed, see `unildiff data list`")
    _check_size(archive, sum(size for _, size, _ in images), root)
    tops = {path.parts[0] for path, _, _ in images}
    own = len(tops) == 1 and all(len(path.parts) > 1 for path, _, _ in images)
    base = root if place is None and own else root / (place or archive.name.partition(".")[0])
    targets: dict[Path, str] = {}
    for path, size, opened in progress(images, len(images), f"Unpacking {archive.name}"):
        target = base / (path.name if place is not None else path)
        if target in targets:
            raise UserError(f"{archive}: {targets[target]} and {path} would both be {target}; the set has changed")
        targets[target] = str(path)
        if target.is_file() and target.stat().st_size == size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        try:
            stream = opened()
            assert stream is not None  # regular files only
            left = size + 1  # a member that is longer than it claims is not read on
            with stream, open(part, "wb") as out:
                while data := stream.read(min(left, 1 << 20)):
                    out.write(data)
                    left -= len(data)
            if left != 1:
                raise ValueError(f"{path} is not as long as it claims")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    return len(images)


def _check_size(archive: Path, size: int, root: Path) -> None:
    packed = max(archive.stat().st_size, 1 << 20)
    if size > min(MOST_BYTES, MOST_RATIO * packed):
        raise UserError(
            f"{archive} claims {size / 1e9:,.1f} GB of images in {packed / 1e6:,.1f} MB; do not use this archive"
        )
    check_space(output_folder(root), size, f"the images of {archive}")


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _parts(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"{archive} holds {name}, which leads out of its folder; do not use this archive")
    return path
