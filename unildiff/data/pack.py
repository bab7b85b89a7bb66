"""Reading packed sets: pictures decoded once, uint8, in memory-mapped shards with an index.

A pack is a folder with ``shard-00000.u8`` and so on (raw (H, W, 3) uint8 RGB pictures of any size, one after another),
``index.json`` (written last: without it a pack is unfinished), which holds the pairs and their captions too.
:mod:`unildiff.data.tools.pack_writer` makes them.

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
from unildiff.utils.mapped import map_file, prefetch

INDEX = "index.json"
FORMAT = 1
COLUMNS = ("task", "degradation", "name", "lq", "gt", "caption")  # of a split's pairs; lq and gt are picture numbers
AGAIN = "run the same `unildiff data pack` command again"


class Pack:
    """An opened pack. What it holds is checked by size here, byte by byte in :meth:`verify`."""

    def __init__(self, folder: str | Path) -> None:
        """Read the index.

        Raises:
            UserError: not a pack, unfinished, of another format, or a shard is missing or of the wrong length.
        """
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.dataset: str = index["dataset"]
        self.root: str = index["root"]
        self.sample: str | None = index.get("sample")  # the data set that it is a sample of; older packs do not say
        self.files: list[str] = index["pictures"]["file"]
        self.checksums: list[str] = index["pictures"]["checksum"]
        # (N, 4): shard, offset in bytes, height, width
        self.places = np.array([index["pictures"][key] for key in ("shard", "offset", "height", "width")], np.int64).T
        self._pairs: dict[str, dict[str, list[Any]]] = index["pairs"]
        self._shards: list[dict[str, Any]] = index["shards"]
        self._maps: dict[int, np.ndarray] = {}
        for shard in self._shards:
            path = self.folder / shard["file"]
            found = path.stat().st_size if path.is_file() else None
            if found != shard["bytes"]:
                state = "missing" if found is None else f"{found:,} bytes, {shard['bytes']:,} expected"
                raise UserError(f"broken pack: {path} is {state}; delete {self.folder / INDEX} and {AGAIN}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a loader process that is spawned maps the shards itself

    @property
    def splits(self) -> list[str]:
        """The names of the splits, e.g. train and test."""
        return list(self._pairs)

    @property
    def bytes(self) -> int:
        """How many bytes the pictures take on disk, and in memory once they have all been read."""
        return sum(int(shard["bytes"]) for shard in self._shards)

    @property
    def checksum(self) -> str:
        """A hash of all pixels, pairs and captions: equal for packs of equal data, wherever it lay when it was packed."""
        body = {"files": self.files, "checksums": self.checksums, "pairs": self._pairs}
        return hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()

    @property
    def contents(self) -> str:
        """What a datamodule that reads this pack says of its data."""
        return f"pack {self.checksum}"

    def source(self, split: str, keep: Callable[[Pair], bool] | None = None) -> "PackedPairs":
        """Return the pairs of a split, or those of them that ``keep`` says yes to.

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

    def picture(self, number: int) -> np.ndarray:
        """Return picture ``number`` as a read-only (H, W, 3) uint8 view of the shard, nothing read or copied yet."""
        shard, offset, height, width = self.places[number].tolist()
        return self._map(shard)[offset : offset + height * width * 3].reshape(height, width, 3)

    def broken(self, number: int) -> bool:
        """Return whether a picture's bytes are not those that were written."""
        return picture_checksum(self.picture(number)) != self.checksums[number]

    def verify(self) -> None:
        """Read everything and compare the checksums.

        Raises:
            UserError: pictures that differ from what was written, by name.
        """
        from unildiff.utils.parallel import progress

        numbers = progress(range(len(self.files)), len(self.files), "Verifying")
        if wrong := [self.files[number] for number in numbers if self.broken(number)]:
            raise UserError(
                f"broken pack: {self.folder}: wrong checksum of {some(wrong)}; delete its index.json and {AGAIN}"
            )

    def _path(self, number: int) -> Path | None:
        return None if number < 0 else self.folder / self.files[number]

    def _map(self, shard: int) -> np.ndarray:
        if (made := self._maps.get(shard)) is None:
            path = self.folder / self._shards[shard]["file"]
            try:
                made = self._maps[shard] = map_file(path)
            except OSError as error:
                raise UserError(f"cannot read the pack: {path} ({error.strerror}); change its rights") from None
        return made


def open_pack(folder: Path, dataset: str) -> Pack:
    """Return the pack in a folder.

    Args:
        folder: given as ``--data.packed``.
        dataset: name of the data set that it must hold.

    Raises:
        UserError: it holds another data set; and as :class:`Pack`.
    """
    pack = Pack(folder)
    if pack.dataset != dataset:
        raise UserError(f"packed: {folder} is a pack of {pack.dataset}, not {dataset}; give --data {pack.dataset}")
    return pack


class PackedPairs:
    """Pairs of a pack, a :class:`unildiff.data.datasets.PairSource`.

    The paths in ``pairs`` lie below the pack's folder, as they lay below the set's; no such files are there.
    """

    def __init__(self, pack: Pack, pairs: Sequence[Pair], numbers: np.ndarray) -> None:
        """Args: the pack, the pairs, and (N, 2) numbers of their degraded and clean pictures, -1 where there is none."""
        self.pack = pack
        self.pairs = pairs
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """Return picture ``which`` of pair ``index``: a read-only (H, W, 3) uint8 view, without a copy."""
        return self.pack.picture(self._number(index, which))

    def crop(self, index: int, which: Which, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a contiguous copy of a window; from the disk only the rows are read that it lies in.

        Raises:
            ValueError: the window does not lie in the picture.
        """
        picture = self.read(index, which)
        if min(top, left) < 0 or top + height > picture.shape[0] or left + width > picture.shape[1]:
            raise ValueError(f"window {height}x{width} at ({top}, {left}) is not within {picture.shape[:2]}")
        view = picture[top : top + height, left : left + width]
        prefetch([view])
        return view.copy()

    def _number(self, index: int, which: Which) -> int:
        number = int(self._numbers[index, 0 if which == "lq" else 1])
        if number < 0:
            raise ValueError(f"pair {self.pairs[index].name} has no {which} picture")
        return number


def picture_checksum(picture: np.ndarray) -> str:
    """Return the checksum of a picture's bytes: BLAKE2b, 8 bytes, hexadecimal."""
    return hashlib.blake2b(np.ascontiguousarray(picture).data, digest_size=8).hexdigest()


def index_bytes(body: dict[str, Any]) -> bytes:
    """Return the file contents of an index, its own checksum included."""
    text = json.dumps(body, ensure_ascii=False)
    return json.dumps({"checksum": _text_checksum(text)}).encode()[:-1] + b", " + text.encode()[1:] + b"\n"


def _read_index(folder: Path) -> dict[str, Any]:
    input_folder(folder, "a pack made by `unildiff data pack`")
    path = folder / INDEX
    if not path.is_file():
        state = "an unfinished pack" if (folder / "journal.jsonl").is_file() else "not a pack"
        raise UserError(f"{state}: no {INDEX} in {folder}; {AGAIN}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        checksum = index["checksum"]
        text = json.dumps({key: value for key, value in index.items() if key != "checksum"}, ensure_ascii=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"broken pack: cannot read {path} ({error}); delete it and {AGAIN}") from None
    if index.get("format") != FORMAT or index.get("kind") != "unildiff pack":
        raise UserError(f"{path} is of format {index.get('format')}, this version reads {FORMAT}; pack the set again")
    if _text_checksum(text) != checksum:
        raise UserError(f"broken pack: {path} was changed or damaged; delete it and {AGAIN}")
    return dict(index)


def _text_checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
