"""Reading packed datasets: images decoded once, uint8, in a store (:mod:`unildiff.utils.store`).

A pack holds each image as raw (H, W, 3) uint8 RGB, an entry that says of which state of its file it is, and an index of all
pairs and captions, written last: without it a pack is unfinished. :mod:`unildiff.data.tools.pack_writer` makes packs.

Axis letters: H W pixels.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unildiff.data.pair import Pair, Which
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder, some
from unildiff.utils.store import DATABASE, Store, prefetch

FORMAT = 2
INDEX, IMAGE, ENTRY = "index", "image/", "entry/"
COLUMNS = ("task", "degradation", "name", "lq", "gt", "caption")  # of a split's pairs; lq and gt are image numbers
AGAIN = "run the same `unildiff data pack` command again"


class Pack:
    """An opened pack. Opening it verifies the index; :meth:`verify` compares every image with its checksum."""

    def __init__(self, folder: str | Path) -> None:
        """Read the index.

        Raises:
            UserError: not a pack, unfinished, of an earlier version, or damaged.
        """
        self.folder = Path(folder)
        self._store = _open_store(self.folder)
        index = _read_index(self._store, self.folder)
        try:
            self.dataset: str = index["dataset"]
            self.root: str = index["root"]
            self.sample: str | None = index["sample"]  # the dataset that it is a sample of
            self.entries: list[dict[str, Any]] = index["entries"]
            self.files: list[str] = [entry["file"] for entry in self.entries]
            self.checksums: list[str] = [entry["checksum"] for entry in self.entries]
            self._sizes = [(int(entry["height"]), int(entry["width"])) for entry in self.entries]
            self._pairs: dict[str, dict[str, list[Any]]] = index["pairs"]
            numbers = [n for columns in self._pairs.values() for key in ("lq", "gt") for n in columns[key]]
            lengths = {len(columns[key]) for columns in self._pairs.values() for key in COLUMNS}
            whole = len(lengths) <= len(self._pairs) and all(-1 <= n < len(self.files) for n in numbers)
        except (KeyError, TypeError, ValueError, AttributeError):
            whole = False
        if not whole:
            raise UserError(f"broken pack: the index of {self.folder} is not one of a pack; delete it and {AGAIN}")

    @property
    def splits(self) -> list[str]:
        """The names of the splits, e.g. train and test."""
        return list(self._pairs)

    @property
    def bytes(self) -> int:
        """How many bytes the images take on disk, and in memory once they have all been read."""
        return sum(height * width * 3 for height, width in self._sizes)

    @property
    def checksum(self) -> str:
        """A hash of all pixels, pairs and captions: equal for packs of equal data, wherever the data lay."""
        body = {"files": self.files, "checksums": self.checksums, "pairs": self._pairs}
        return hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()

    @property
    def contents(self) -> str:
        """What a datamodule that reads this pack says of its data."""
        return f"pack {self.checksum}"

    @property
    def pairs(self) -> dict[str, dict[str, list[Any]]]:
        """The columns of the pairs of each split."""
        return self._pairs

    def source(self, split: str, keep: Callable[[Pair], bool] | None = None) -> "PackedPairs":
        """Return the pairs of a split, or those for which ``keep`` returns True.

        Raises:
            UserError: no such split.
        """
        if split not in self._pairs:
            raise UserError(f"{self.folder} has no {split} pairs; it has {', '.join(self.splits)}: pack the set again")
        columns = self._pairs[split]
        pairs: list[Pair] = []
        numbers: list[tuple[int, int]] = []
        for task, degradation, name, lq, gt, caption in zip(*(columns[key] for key in COLUMNS), strict=True):
            pair = Pair(task, degradation, name, self._path(lq), self._path(gt), caption)
            if keep is None or keep(pair):
                pairs.append(pair)
                numbers.append((lq, gt))
        return PackedPairs(self, pairs, np.array(numbers, np.int64).reshape(-1, 2))

    def image(self, number: int) -> np.ndarray:
        """Return image ``number`` as a read-only (H, W, 3) uint8 view of the mapped file, nothing read or copied yet.

        Raises:
            UserError: the image is missing, or not of the length that the index says.
        """
        height, width = self._sizes[number]
        data = self._store.get(IMAGE + self.files[number])
        if data is None or len(data) != height * width * 3:
            raise UserError(f"broken pack: {self.folder} lacks {self.files[number]}; {AGAIN}")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def broken(self) -> list[str]:
        """Read everything and return the files whose images are not those that were written."""
        from unildiff.utils.parallel import progress

        wrong = []
        for number in progress(range(len(self.files)), len(self.files), "Verifying"):
            try:
                if image_checksum(self.image(number)) != self.checksums[number]:
                    wrong.append(self.files[number])
            except UserError:
                wrong.append(self.files[number])
        return wrong

    def verify(self) -> None:
        """Read everything and compare the checksums.

        Raises:
            UserError: images that differ from what was written, by name.
        """
        if wrong := self.broken():
            raise UserError(
                f"broken pack: {self.folder}: wrong checksum of {some(wrong)}; {AGAIN}, which packs them again"
            )

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _path(self, number: int) -> Path | None:
        return None if number < 0 else self.folder / self.files[number]


def open_pack(folder: Path, dataset: str) -> Pack:
    """Return the pack in a folder.

    Args:
        folder: given as ``--data.packed``.
        dataset: name of the dataset that it must hold.

    Raises:
        UserError: it holds another dataset; and as :class:`Pack`.
    """
    pack = Pack(folder)
    if pack.dataset != dataset:
        raise UserError(f"packed: {folder} is a pack of {pack.dataset}, not {dataset}; give --data {pack.dataset}")
    return pack


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
        return self.pack.image(self._number(index, which))

    def crop(self, index: int, which: Which, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a contiguous copy of a window; from the disk only the rows that it covers are read.

        Raises:
            ValueError: the window is not within the image.
        """
        image = self.read(index, which)
        if min(top, left) < 0 or top + height > image.shape[0] or left + width > image.shape[1]:
            raise ValueError(f"window {height}x{width} at ({top}, {left}) is not within {image.shape[:2]}")
        view = image[top : top + height, left : left + width]
        prefetch([view])
        return view.copy()

    def _number(self, index: int, which: Which) -> int:
        number = int(self._numbers[index, 0 if which == "lq" else 1])
        if number < 0:
            raise ValueError(f"pair {self.pairs[index].name} has no {which} image")
        return number


def image_checksum(image: np.ndarray) -> str:
    """Return the checksum of an image's bytes: BLAKE2b, 8 bytes, hexadecimal."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest()


def index_bytes(body: dict[str, Any]) -> bytes:
    """Return an index as it is stored, with its own checksum in front."""
    text = json.dumps(body).encode()
    return _text_checksum(text) + text


def _open_store(folder: Path) -> Store:
    input_folder(folder, "a pack made by `unildiff data pack`")
    if (folder / "index.json").is_file():
        raise UserError(f"{folder} was packed by an earlier version; delete it and {AGAIN}")
    if not (folder / DATABASE).is_file():
        raise UserError(f"not a pack: no {DATABASE} in {folder}; {AGAIN}")
    return Store(folder)


def _read_index(store: Store, folder: Path) -> dict[str, Any]:
    data = store.get(INDEX)
    if data is None:
        raise UserError(f"an unfinished pack: {folder}; {AGAIN}")
    checksum, text = bytes(data[:16]), bytes(data[16:])
    if _text_checksum(text) != checksum:
        raise UserError(f"broken pack: the index of {folder} is damaged; delete it and {AGAIN}")
    index = json.loads(text)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{folder} was packed by another version; delete it and {AGAIN}")
    return index


def _text_checksum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()
