"""Images in LMDB folders of BasicSR, which are read and never written.

``NAME.lmdb`` holds ``data.mdb``, encoded images by their names without suffix, and ``meta_info.txt``, a line
``NAME.png (HEIGHT,WIDTH,CHANNELS) COMPRESSION`` per image (https://github.com/XPixelGroup/BasicSR, docs/DatasetPreparation.md).
An image is named by the path that it would have in a folder, ``NAME.lmdb/0001.png``.
"""

from functools import lru_cache
from pathlib import Path

from unildiff.utils.errors import UserError
from unildiff.utils.store import Store

SUFFIX = ".lmdb"


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
    for folder in path.parents:
        if folder.suffix == SUFFIX and folder.is_dir():
            data = _store(folder).get_raw(path.relative_to(folder).with_suffix("").as_posix().encode())
            return None if data is None else bytes(data)
    return None


@lru_cache(maxsize=8)
def _store(folder: Path) -> Store:
    return Store(folder)
