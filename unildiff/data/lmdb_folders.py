"""Images in LMDB folders of BasicSR, which are read and never written.

``NAME.lmdb`` holds ``data.mdb``, encoded images by their names without suffix, and ``meta_info.txt``, a line
``NAME.png (HEIGHT,WIDTH,CHANNELS) COMPRESSION`` per image (https://github.com/XPixelGroup/BasicSR, docs/DatasetPreparation.md).
An image is named by the path that it would have in a folder, ``NAME.lmdb/0001.png``.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from unildiff.utils.errors import UserError

if TYPE_CHECKING:
    from unildiff.utils.store import Store

SUFFIX = ".lmdb"
_DATABASE = "data.mdb"  # LMDB's own name


def listed_names(file: Path) -> list[str]:
    """Return the names in a list of BasicSR (``meta_info.txt``, ``meta_info_file``): the first word of each line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of images: {file} ({error})") from None
    return [line.split(" ")[0] for line in lines if line.strip()]


def lmdb_bytes(path: Path) -> bytes | None:
    """Return the encoded image of a path in an LMDB folder, or None if it is not in such a folder.

    Raises:
        UserError: the database is damaged.
    """
    if (folder := _lmdb_folder(path)) is None:
        return None
    database = folder / _DATABASE  # its number is another one if somebody has replaced it; Store reports a missing one
    data = _store(folder, database.stat().st_ino if database.is_file() else 0).get_raw(
        path.relative_to(folder).with_suffix("").as_posix().encode()
    )
    return None if data is None else bytes(data)


def file_of(path: Path) -> Path:
    """Return the file on disk that holds an image: the database of its LMDB folder, or the path itself."""
    folder = _lmdb_folder(path)
    return path if folder is None else folder / _DATABASE


def _lmdb_folder(path: Path) -> Path | None:
    return next((folder for folder in path.parents if folder.suffix == SUFFIX and folder.is_dir()), None)


@lru_cache(maxsize=8)
def _store(folder: Path, identity: int) -> "Store":
    from unildiff.utils.store import Store  # most images are plain files, and the pipeline of diffusers has no lmdb

    return Store(folder)
