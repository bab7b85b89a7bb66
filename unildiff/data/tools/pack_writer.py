"""Making packs: every image of a dataset decoded once into a store; an interrupted run is resumed.

An image and the entry that says of which state of its file it is are written in one transaction. A new run keeps what it
finds for files that have not changed. The index, which makes a pack readable, is written when everything is there.

Axis letters: H W pixels.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from unildiff.data.captions import Captions
from unildiff.data.catalogue import dataset
from unildiff.data.images import image_size
from unildiff.data.layouts import is_there, recognise, sample_of
from unildiff.data.pack import AGAIN, COLUMNS, ENTRY, FORMAT, IMAGE, INDEX, Pack, image_checksum, index_bytes
from unildiff.data.pair import PairSource, Split, Which
from unildiff.data.pairing import rule_named
from unildiff.data.patterns import all_patterns, pattern_source
from unildiff.data.sources import disk_source, report
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, some
from unildiff.utils.parallel import cores, ordered, progress
from unildiff.utils.store import DATABASE, Store

_BATCH = 1 << 26  # bytes of images per transaction
_Row = tuple[str, str, str, str | None, str | None, str]  # as COLUMNS, the images by file
_SAMPLED = 200  # headers read to say beforehand how large a pack will be


@dataclass(frozen=True)
class Entry:
    """One image, and of which state of its file it is."""

    file: str
    source_bytes: int
    source_mtime: int
    height: int
    width: int
    checksum: str


class PackWriter:
    """One pack being made from the pairs of one dataset."""

    def __init__(
        self,
        sources: Mapping[str, PairSource],
        out: Path,
        dataset: str,
        root: Path,
        captions: Captions | None = None,
    ) -> None:
        """Args: pairs of each split, the folder to write, name and folder of the dataset, captions."""
        self.out = out
        self._root = root
        self._header = {"kind": "unildiff pack", "format": FORMAT, "dataset": dataset, "root": str(root.absolute())}
        self._wanted: dict[str, tuple[PairSource, int, Which, Path]] = {}
        self._pairs: dict[str, list[_Row]] = {}
        captions = captions or Captions({})
        for split, source in sources.items():
            rows = self._pairs[split] = []
            for index, pair in enumerate(source.pairs):
                lq = self._want(source, index, "lq", pair.lq)
                gt = self._want(source, index, "gt", pair.gt)
                caption = pair.caption or captions.of(pair.lq, pair.gt)
                rows.append((pair.task, pair.degradation, pair.name, lq, gt, caption))

    def run(self) -> Pack:
        """Write what is missing and the index; return the finished pack.

        Raises:
            UserError: images that cannot be read, pairs of two sizes, no space, or a folder that holds something else.
        """
        if not self._wanted:
            raise UserError(f"nothing to pack: no images found in {self._root}; run `unildiff data check`")
        if (self.out / "index.json").exists():
            raise UserError(f"{self.out} was packed by an earlier version; delete it and {AGAIN}")
        output_folder(self.out)
        strange = sorted(path.name for path in self.out.iterdir() if path.name not in (DATABASE, "lock.mdb", ".lock"))
        if strange:
            raise UserError(f"not a pack: {self.out} holds {some(strange)}; give a new or an empty folder to --out")
        with Store(self.out, write=True) as store:
            store.begin(self._header)
            finished = store.get(INDEX) is not None
            if finished:
                self._refuse_other_state()
            entries = self._kept(store)
            missing = [file for file in self._wanted if file not in entries]
            self._check_space(missing)
            entries |= self._write(store, missing)
            self._check_sizes(entries)
            if missing or not finished:
                self._seal(store, entries)
        pack = Pack(self.out)
        if not missing:
            pack.verify()
        return pack

    def _want(self, source: PairSource, index: int, which: Which, path: Path | None) -> str | None:
        if path is None:
            return None
        file = (path.relative_to(self._root) if path.is_relative_to(self._root) else path.absolute()).as_posix()
        self._wanted.setdefault(file, (source, index, which, path))
        return file

    def _state(self, file: str) -> tuple[int, int]:
        try:
            found = self._wanted[file][3].stat()
        except OSError:
            return -1, -1  # decoding it will report what is wrong
        return found.st_size, found.st_mtime_ns

    def _refuse_other_state(self) -> None:
        """Refuse a finished pack of other files or pairs: it may be in use."""
        pack = Pack(self.out)
        held = {entry["file"]: (entry["source_bytes"], entry["source_mtime"]) for entry in pack.entries}
        changed = [file for file in self._wanted if held.get(file) != self._state(file)]
        if changed or pack.pairs != self._columns(pack.files):
            what = f"; changed: {some(changed)}" if changed else ""
            raise UserError(
                f"{self.out} is a pack of another state of the data ({pack.dataset} from {pack.root}{what}); "
                "delete it or give another --out"
            )

    def _kept(self, store: Store) -> dict[str, Entry]:
        """Return the entries of files that have not changed and whose images are whole."""
        kept: dict[str, Entry] = {}
        for file in self._wanted:
            if (data := store.get(ENTRY + file)) is None:
                continue
            entry = Entry(**json.loads(bytes(data)))
            image = store.get(IMAGE + file)
            unchanged = (entry.source_bytes, entry.source_mtime) == self._state(file)
            if unchanged and image and image_checksum(np.frombuffer(image, np.uint8)) == entry.checksum:
                kept[file] = entry
        return kept

    def _check_space(self, missing: Sequence[str]) -> None:
        if not missing:
            return
        sampled = []
        for file in missing[:: max(1, len(missing) // _SAMPLED)]:
            try:
                height, width = image_size(self._wanted[file][3])
                sampled.append(height * width * 3)
            except UserError:
                continue  # not a file with a header of its own (RAW), or a broken one, which decoding will name
        needed = int(np.mean(sampled) * len(missing)) if sampled else 0
        free = shutil.disk_usage(self.out).free
        if needed > free:
            raise UserError(
                f"disk full: {len(missing):,} images need about {needed / 1e9:.1f} GB unpacked, {self.out} has "
                f"{free / 1e9:.1f} GB free; free space or give another --out"
            )

    def _write(self, store: Store, missing: Sequence[str]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        broken: list[str] = []
        waiting: dict[str, bytes] = {}
        with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without holding the interpreter's lock
            decoded = ordered(pool, self._decode, missing, ahead=2 * cores())
            for file, (image, state) in progress(decoded, len(missing), "Packing"):
                if isinstance(image, UserError):
                    broken.append(str(image))
                    continue
                entry = Entry(file, *state, image.shape[0], image.shape[1], image_checksum(image))
                waiting |= {IMAGE + file: image.tobytes(), ENTRY + file: json.dumps(asdict(entry)).encode()}
                entries[file] = entry
                if sum(map(len, waiting.values())) > _BATCH:
                    store.put(waiting)
                    waiting = {}
        store.put(waiting)
        if broken:
            raise UserError(f"{len(broken)} of {len(self._wanted):,} images cannot be packed: {some(broken, 3)}")
        return entries

    def _decode(self, file: str) -> tuple[np.ndarray | UserError, tuple[int, int]]:
        source, index, which, _ = self._wanted[file]
        state = self._state(file)
        try:
            return np.ascontiguousarray(source.read(index, which)), state
        except UserError as error:
            return error, state

    def _check_sizes(self, entries: Mapping[str, Entry]) -> None:
        differing = [
            f"{lq} and {gt} ({_size(entries[lq])} against {_size(entries[gt])})"
            for rows in self._pairs.values()
            for _, _, _, lq, gt, _ in rows
            if lq is not None and gt is not None and _size(entries[lq]) != _size(entries[gt])
        ]
        if differing:
            raise UserError(f"sizes differ: {some(differing, 3)}; pairs must match pixel by pixel")

    def _columns(self, files: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
        numbers: dict[str | None, int] = {file: number for number, file in enumerate(files)}
        numbers[None] = -1
        columns = {}
        for split, rows in self._pairs.items():
            numbered = [(*row[:3], numbers.get(row[3], -2), numbers.get(row[4], -2), row[5]) for row in rows]
            columns[split] = {key: [row[place] for row in numbered] for place, key in enumerate(COLUMNS)}
        return columns

    def _seal(self, store: Store, entries: Mapping[str, Entry]) -> None:
        body = {
            **self._header,
            "sample": sample_of(self._root),
            "entries": [asdict(entries[file]) for file in self._wanted],
            "pairs": self._columns(list(self._wanted)),
        }
        store.put({INDEX: index_bytes(body)})


def pack_set(name: str, root: Path, out: Path) -> Pack:
    """Pack every split of a data set that is there, those sets included that only join its test when asked for.

    Raises:
        UserError: no such set, nothing of it in ``root``, files that do not pair, and as :meth:`PackWriter.run`.
    """
    data = dataset(name)
    sources: dict[str, PairSource] = {}
    for split in get_args(Split):
        there = [images for images in data.all_sets if is_there(root, images, split)]
        if there:
            sources[split], faults = disk_source([(root, images) for images in there], split, sizes=False)
            report(faults, "raise", [], "mend them, see `unildiff data check`")
    if not sources:
        recognise(root, data.sets[0], "test")  # says what is wrong
    return PackWriter(sources, out, name, root, Captions.find([root])).run()


def pack_folder(
    root: Path, out: Path, patterns: Mapping[Split, tuple[str | None, str | None]], rule: str = "same"
) -> Pack:
    """Pack the pairs of your own folder.

    Args:
        root: the folder.
        out: folder to write.
        patterns: of degraded and ground-truth images, for each split; those of the default folders where none is given.
        rule: how names pair, see :func:`unildiff.data.pairing.rule_named`.

    Raises:
        UserError: no such rule, no pattern, one that matches nothing, files that do not pair, and as :meth:`PackWriter.run`.
    """
    pairing = rule_named(rule)
    sources: dict[str, PairSource] = {}
    for split, (lq, gt) in all_patterns(root, patterns).items():
        sources[split], faults = pattern_source(root, lq, gt, pairing, "folder")
        report(faults, "raise", [], "mend or move them, or narrow the patterns")
    if not sources:
        raise UserError("no pairs to pack; give --lq and --gt, or --train_lq and --train_gt, e.g. 'lq/*' 'gt/*'")
    return PackWriter(sources, out, "folder", root, Captions.find([root], upwards=True)).run()


def _size(entry: Entry) -> str:
    return f"{entry.width}x{entry.height}"
