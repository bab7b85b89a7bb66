"""Making packs: every picture of a set decoded once into shards, to be taken up again after any interruption.

While it works a pack has a journal, one line a picture, written after the picture's bytes. A new run believes the
journal only as far as the checksums agree; the index, which makes a pack readable, is written when all is there.

Axis letters: H W pixels.
"""

import json
import os
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
from unildiff.data.pack import COLUMNS, FORMAT, INDEX, Pack, index_bytes, picture_checksum
from unildiff.data.pair import PairSource, Split, Which
from unildiff.data.pairing import RULES
from unildiff.data.patterns import all_patterns, pattern_source
from unildiff.data.sources import disk_source, report
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, some, write_failure, write_whole
from unildiff.utils.journal import Journal
from unildiff.utils.parallel import cores, ordered, progress

JOURNAL = "journal.jsonl"
SHARD_BYTES = 1 << 30
_Row = tuple[str, str, str, str | None, str | None, str]  # as COLUMNS, the pictures by file
_SAMPLED = 200  # headers read to say beforehand how large a pack will be


@dataclass(frozen=True)
class Entry:
    """Where one picture lies, and of which state of its file it is the picture."""

    file: str
    source_bytes: int
    source_mtime: int
    shard: int
    offset: int
    height: int
    width: int
    checksum: str


class PackWriter:
    """One pack being made from the pairs of one set."""

    def __init__(
        self,
        sources: Mapping[str, PairSource],
        out: Path,
        dataset: str,
        root: Path,
        captions: Captions | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Args: pairs of each split, the folder to write, name and folder of the set, captions, length of a shard."""
        self.out = out
        self.shard_bytes = shard_bytes
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
            UserError: pictures that cannot be read, pairs of two sizes, no space, or a folder that holds something else.
        """
        if not self._wanted:
            raise UserError(f"nothing to pack: no pictures found in {self._root}; run `unildiff data check`")
        output_folder(self.out)
        if (self.out / INDEX).exists():
            return self._finished()
        if (strange := sorted(path.name for path in self.out.iterdir())) and JOURNAL not in strange:
            raise UserError(f"not a pack: {self.out} holds {some(strange)}; give a new or an empty folder to --out")
        try:
            with Journal(self.out / JOURNAL, self._header) as journal:
                entries = self._resume(journal)
                missing = [file for file in self._wanted if file not in entries]
                self._check_space(missing)
                entries |= self._write(journal, missing)
                self._check_sizes(entries)
                self._seal(entries)
        except OSError as error:  # of a shard
            raise write_failure(self.out, error) from None
        (self.out / JOURNAL).unlink()
        return Pack(self.out)

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
            return -1, -1  # decoding it will say what is wrong
        return found.st_size, found.st_mtime_ns

    def _finished(self) -> Pack:
        pack = Pack(self.out)
        index = json.loads((self.out / INDEX).read_text(encoding="utf-8"))
        states = zip(index["pictures"]["source_bytes"], index["pictures"]["source_mtime"], strict=True)
        held = dict(zip(pack.files, states, strict=True))
        changed = [file for file in self._wanted if file not in held or held[file] != self._state(file)]
        if changed or pack.dataset != self._header["dataset"] or index["pairs"] != self._columns(pack.files):
            what = f"; changed: {some(changed)}" if changed else ""
            raise UserError(
                f"{self.out} is a pack of another state of the data ({pack.dataset} from {pack.root}{what}); "
                "delete it or give another --out"
            )
        pack.verify()
        return pack

    def _resume(self, journal: Journal) -> dict[str, Entry]:
        """Return the entries that hold and are of files that have not changed; cut the shards down to what holds."""
        entries = [Entry(**fields) for fields in journal.resume(self._holds)]
        last = entries[-1].shard if entries else -1
        for path in self.out.glob("shard-*.u8"):
            if int(path.stem.removeprefix("shard-")) > last:
                path.unlink()
        if entries:
            os.truncate(self.out / _shard_name(last), _end(entries[-1]))
        return {
            entry.file: entry
            for entry in entries
            if entry.file in self._wanted and self._state(entry.file) == (entry.source_bytes, entry.source_mtime)
        }

    def _holds(self, fields: dict[str, Any]) -> bool:
        try:
            entry = Entry(**fields)
            with open(self.out / _shard_name(entry.shard), "rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.height * entry.width * 3)
        except (OSError, TypeError):
            return False
        return picture_checksum(np.frombuffer(data, np.uint8)) == entry.checksum

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
                f"disk full: {len(missing):,} pictures need about {needed / 1e9:.1f} GB unpacked, {self.out} has "
                f"{free / 1e9:.1f} GB free; free space or give another --out"
            )

    def _write(self, journal: Journal, missing: Sequence[str]) -> dict[str, Entry]:
        shard = max(0, len(list(self.out.glob("shard-*.u8"))) - 1)
        entries: dict[str, Entry] = {}
        broken: list[str] = []
        data = open(self.out / _shard_name(shard), "ab")  # noqa: SIM115  # replaced as shards fill
        try:
            with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without holding the interpreter's lock
                decoded = ordered(pool, self._decode, missing, ahead=2 * cores())
                for file, (picture, state) in progress(decoded, len(missing), "Packing"):
                    if isinstance(picture, UserError):
                        broken.append(str(picture))
                        continue
                    if data.tell() and data.tell() + picture.nbytes > self.shard_bytes:
                        data.close()
                        shard += 1
                        data = open(self.out / _shard_name(shard), "ab")  # noqa: SIM115
                    height, width = picture.shape[:2]
                    entry = Entry(file, *state, shard, data.tell(), height, width, picture_checksum(picture))
                    data.write(picture.data)
                    data.flush()
                    journal.append(asdict(entry))
                    entries[file] = entry
        finally:
            data.close()
        if broken:
            raise UserError(f"{len(broken)} of {len(self._wanted):,} pictures cannot be packed: {some(broken, 3)}")
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

    def _seal(self, entries: Mapping[str, Entry]) -> None:
        held = [entries[file] for file in self._wanted]
        shards = []
        for path in sorted(self.out.glob("shard-*.u8")):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            shards.append({"file": path.name, "bytes": path.stat().st_size})
        columns = {key: [getattr(entry, key) for entry in held] for key in Entry.__dataclass_fields__}
        sample = sample_of(self._root)
        kind = {} if sample is None else {"sample": sample}
        body = {
            **self._header,
            **kind,
            "shards": shards,
            "pictures": columns,
            "pairs": self._columns(list(self._wanted)),
        }
        write_whole(self.out / INDEX, index_bytes(body))


def pack_set(name: str, root: Path, out: Path) -> Pack:
    """Pack every split of a data set that is there, those sets included that only join its test when asked for.

    Raises:
        UserError: no such set, nothing of it in ``root``, files that do not pair, and as :meth:`PackWriter.run`.
    """
    data = dataset(name)
    sources: dict[str, PairSource] = {}
    for split in get_args(Split):
        there = [pictures for pictures in data.all_sets if is_there(root, pictures, split)]
        if there:
            sources[split], faults = disk_source([(root, pictures) for pictures in there], split, sizes=False)
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
        rule: how names pair, a key of ``RULES``.

    Raises:
        UserError: no such rule, no pattern, one that matches nothing, files that do not pair, and as :meth:`PackWriter.run`.
    """
    if rule not in RULES:
        raise UserError(f"rule: no {rule!r}; choose from {', '.join(RULES)}")
    sources: dict[str, PairSource] = {}
    for split, (lq, gt) in all_patterns(root, patterns).items():
        sources[split], faults = pattern_source(root, lq, gt, RULES[rule], "folder")
        report(faults, "raise", [], "mend or move them, or narrow the patterns")
    if not sources:
        raise UserError("no pairs to pack; give --lq and --gt, or --train_lq and --train_gt, e.g. 'lq/*' 'gt/*'")
    return PackWriter(sources, out, "folder", root, Captions.find([root], upwards=True)).run()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.u8"


def _size(entry: Entry) -> str:
    return f"{entry.width}x{entry.height}"


def _end(entry: Entry) -> int:
    return entry.offset + entry.height * entry.width * 3
