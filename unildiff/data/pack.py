"""Reading packed datasets: images decoded once, uint8, in a store (:mod:`unildiff.utils.store`).

``image/FILE`` holds the height and the width of an image (two 32-bit integers) and its (H, W, 3) uint8 RGB pixels;
``entry/FILE`` the size and time of the file it was made from and its checksum; ``index`` all pairs and captions. The index is
written last: without it a pack is unfinished. :mod:`unildiff.data.tools.pack_writer` makes packs.

Axis letters: H W pixels.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unildiff.data.pair import Pair, Which
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder, parse_json
from unildiff.utils.store import DATABASE, Store

FORMAT = 3
INDEX, IMAGE, ENTRY = "index", "image/", "entry/"
AGAIN = "run the same `unildiff data pack` command again"
_SHAPE = struct.Struct("<II")


class Entry(NamedTuple):
    """Size and time of the file that an image was made from; height, width and checksum of the image."""

    source_bytes: int
    source_mtime: int
    height: int
    width: int
    checksum: str

    @property
    def size(self) -> str:
        """Width and height, for messages."""
        return f"{self.width}x{self.height}"


class Pack:
    """An opened pack.

    Attributes:
        folder: where it is.
        dataset: what it holds, a name of the catalogue or "folder".
        root: folder that it was made from.
        sample: the dataset of which it is a sample set, else None.
        files: its images, as paths relative to ``root``.
        pairs: for each split, (task, degradation, name, number of the degraded image, of its ground truth, caption) of each
            pair; -1 where there is none.
        bytes: how many bytes the images take on disk, and in memory once they have all been read.
        checksum: a hash of all pixels, pairs and captions, equal for packs of equal data from any folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the index.

        Raises:
            UserError: not a pack, unfinished, of another version, or damaged.
        """
        self.folder = input_folder(folder, "a pack made by `unildiff data pack`")
        if not (self.folder / DATABASE).is_file():
            raise UserError(f"not a pack of this version: no {DATABASE} in {folder}; {AGAIN}, into a new folder")
        self._store = Store(self.folder)
        index = read_index(self._store)
        if index is None:
            raise UserError(f"an unfinished pack: {folder}; {AGAIN}")
        self.dataset: str = index["dataset"]
        self.root: str = index["root"]
        self.sample: str | None = index["sample"]
        self.files: list[str] = index["files"]
        self.pairs: dict[str, list[list[Any]]] = index["pairs"]
        self.bytes: int = index["bytes"]
        self.checksum: str = index["checksum"]
        self._verified = bytearray(len(self.files))

    @property
    def splits(self) -> list[str]:
        """The names of the splits, e.g. train and test."""
        return list(self.pairs)

    @property
    def contents(self) -> str:
        """What a datamodule that reads this pack reports of its data."""
        return f"pack {self.checksum}"

    def source(self, split: str, keep: Callable[[Pair], bool] | None = None) -> "PackedPairs":
        """Return the pairs of a split, or those for which ``keep`` returns True.

        Raises:
            UserError: no such split.
        """
        if split not in self.pairs:
            raise UserError(f"{self.folder} has no {split} pairs; it has {', '.join(self.splits)}: pack the set again")
        pairs: list[Pair] = []
        numbers: list[tuple[int, int]] = []
        for task, degradation, name, lq, gt, caption in self.pairs[split]:
            pair = Pair(task, degradation, name, self._path(lq), self._path(gt), caption)
            if keep is None or keep(pair):
                pairs.append(pair)
                numbers.append((lq, gt))
        return PackedPairs(self, pairs, np.array(numbers, np.int64).reshape(-1, 2))

    def image(self, number: int) -> np.ndarray:
        """Return image ``number`` as a read-only (H, W, 3) uint8 view of the mapped file, without a copy.

        Each process reads an image completely the first time and compares its checksum; after that nothing is read here.

        Raises:
            UserError: the image is missing or damaged.
        """
        file = self.files[number]
        data = self._store.get(IMAGE + file)
        if data is not None and len(data) > _SHAPE.size:
            height, width = _SHAPE.unpack_from(data)
            if len(data) == _SHAPE.size + 3 * height * width and (
                self._verified[number] or self._is_intact(file, data)
            ):
                self._verified[number] = 1
                return np.frombuffer(data, np.uint8, offset=_SHAPE.size).reshape(height, width, 3)
        raise UserError(f"broken pack: {file} in {self.folder} is missing or damaged; {AGAIN}, which packs it again")

    def _is_intact(self, file: str, data: bytes | memoryview) -> bool:
        entry = read_entry(self._store, file)
        return entry is not None and entry.checksum == checksum(data)

    def _path(self, number: int) -> Path | None:
        return None if number < 0 else self.folder / self.files[number]


class PackedPairs:
    """Pairs of a pack, a :class:`unildiff.data.pair.PairSource`.

    The paths in ``pairs`` are below the pack's folder, as they were below the dataset's; there are no such files.
    """

    def __init__(self, pack: Pack, pairs: Sequence[Pair], numbers: np.ndarray) -> None:
        """Args: the pack, the pairs, and (N, 2) numbers of their degraded and ground-truth images, -1 for none."""
        self.pack = pack
        self.pairs = pairs
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """Return image ``which`` of pair ``index``: a read-only (H, W, 3) uint8 view, without a copy."""
        number = int(self._numbers[index, 0 if which == "lq" else 1])
        if number < 0:
            raise ValueError(f"pair {self.pairs[index].name} has no {which} image")
        return self.pack.image(number)


def packed_image(image: np.ndarray) -> bytes:
    """Return an (H, W, 3) uint8 image as it is stored."""
    return _SHAPE.pack(*image.shape[:2]) + image.tobytes()


def checksum(data: bytes | memoryview) -> str:
    """Return the checksum of a value: BLAKE2b, 8 bytes, hexadecimal."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_entry(store: Store, file: str) -> Entry | None:
    """Return what is stored about an image, or None where that is missing or damaged."""
    values = store.get_json(ENTRY + file)
    if not isinstance(values, list) or [type(value) for value in values] != [int, int, int, int, str]:
        return None
    return Entry(*values)


def index_bytes(index: dict[str, Any]) -> bytes:
    """Return an index as it is stored, after its own checksum."""
    text = json.dumps(index).encode()
    return checksum(text).encode() + text


def read_index(store: Store) -> dict[str, Any] | None:
    """Return the index of a pack, or None where the pack is unfinished.

    Raises:
        UserError: it is damaged, or of another version.
    """
    if (data := store.get(INDEX)) is None:
        return None
    if checksum(data[16:]).encode() != data[:16]:
        raise UserError(f"broken pack: the index of {store.folder} is damaged; delete it and {AGAIN}")
    try:
        index = parse_json(bytes(data[16:]))
    except ValueError as error:
        raise UserError(
            f"broken pack: the index of {store.folder} is not JSON ({error}); delete it and {AGAIN}"
        ) from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{store.folder} was packed by another version; delete it and {AGAIN}")
    if not _is_complete(index):
        raise UserError(f"broken pack: the index of {store.folder} lacks a part; delete it and {AGAIN}")
    return index


def _is_complete(index: dict[str, Any]) -> bool:
    """Whether an index has every part, each of its type, and pairs of images that it lists."""
    parts = {
        "dataset": str,
        "root": str,
        "sample": str | None,
        "files": list,
        "pairs": dict,
        "bytes": int,
        "checksum": str,
    }
    if not all(isinstance(index.get(name), kind) for name, kind in parts.items()):
        return False
    files, rows = index["files"], list(index["pairs"].values())
    if not all(isinstance(each, str) for each in files) or not all(isinstance(each, list) for each in rows):
        return False
    kinds = [str, str, str, int, int, str]
    return all(
        isinstance(row, list)
        and [type(value) for value in row] == kinds
        and -1 <= min(row[3:5]) <= max(row[3:5]) < len(files)
        for split in rows
        for row in split
    )
