"""Examines data folders before a training run is spent on them.

It looks for deviations from the layout and the published counts, files without a partner or with the same name, images that
cannot be read, pairs of two sizes, images of one colour, degraded images that equal their ground truth, and images that are in
two splits (by their pixels, whatever their names and formats).
"""

import contextlib
import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from unildiff.data.catalogue import DATASETS, image_sets
from unildiff.data.images import read_rgb
from unildiff.data.layouts import ImageSet, list_folder, read_pairs, recognise, wrong_counts
from unildiff.data.lmdb_folders import file_of
from unildiff.data.pair import SUFFIXES, Pair, Split
from unildiff.data.pairing import Fault, rule_named
from unildiff.data.patterns import Half, all_patterns, matching, pair_by_folder
from unildiff.data.raw import read_raw
from unildiff.data.sources import every_image
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder
from unildiff.utils.parallel import cores, ordered, progress
from unildiff.utils.paths import cache_folder
from unildiff.utils.store import Store

_LOG = logging.getLogger(__name__)
FLAT = 2  # an image whose values differ by no more than this shows nothing


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of an image after decoding it: hash of its RGB pixels and size, height, width, lowest and highest value."""

    content: str
    height: int
    width: int
    low: int
    high: int


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one set.

    Attributes:
        kind: layout, count, orphan, duplicate, unreadable, size, flat, undegraded or leak.
        where: set and split, e.g. "CDD-11 test".
        text: the fault in words.
        files: the files concerned, relative to the root.
    """

    kind: str
    where: str
    text: str
    files: tuple[str, ...] = ()


@dataclass
class Part:
    """One split of one set as it was found."""

    title: str
    split: Split
    layout: str
    pairs: list[Pair]
    expected: int | None
    expected_source: str

    @property
    def where(self) -> str:
        """Set and split, for messages."""
        return f"{self.title} {self.split}"

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs of each degradation."""
        return dict(Counter(pair.degradation for pair in self.pairs))


@dataclass
class Report:
    """What :func:`check` found."""

    name: str
    root: Path
    parts: list[Part] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    looked_at: int = 0  # images that were not known from an earlier check

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain values, for JSON."""
        return {
            "dataset": self.name,
            "root": str(self.root),
            "images": self.images,
            "splits": [
                {
                    "set": part.title,
                    "split": part.split,
                    "layout": part.layout,
                    "pairs": part.counts,
                    "expected": part.expected,
                    "expected_source": part.expected_source,
                }
                for part in self.parts
            ],
            "absent": self.absent,
            "findings": [asdict(found) for found in self.findings],
        }


def check(name: str, root: Path) -> Report:
    """Examine the folder of a dataset of the catalogue, or of one of its sets.

    Raises:
        UserError: no such set, no such folder, or nothing of the set in it.
    """
    sets = image_sets(name)
    root = input_folder(root, f"{name} (see `unildiff data layout {name}`)").absolute()
    report = Report(name, root)
    optional = {images.name for images in DATASETS[name].optional} if name in DATASETS else set()
    refusal: UserError | None = None
    for images in sets:
        for split in get_args(Split):
            if not _is_there(root, images, split):
                if images.has(split) and split in images.expected and images.name not in optional:
                    report.absent.append(f"{images.title} {split}")
                continue
            try:
                found = recognise(root, images, split)
            except UserError as error:
                refusal = error
                report.findings.append(Finding("layout", f"{images.title} {split}", str(error)))
                continue
            pairs, faults = read_pairs(root, images, found)
            expected = images.expected.get(split)
            part = Part(images.title, split, found.layout, pairs, expected, images.expected_source)
            report.findings += [Finding("count", part.where, line) for line in wrong_counts(pairs, images, split)]
            _add(report, part, faults)
    if not report.parts:
        raise refusal or UserError(f"nothing of {name} in {root}; see `unildiff data layout {name}`")
    _examine(report, root)
    return report


def check_folder(root: Path, patterns: Mapping[Split, Half], rule: str = "same") -> Report:
    """Examine your own folder: the pairs of its patterns, or all images in it where there are no pairs.

    ``patterns`` are those of :func:`unildiff.data.patterns.all_patterns`, ``rule`` that of
    :func:`unildiff.data.pairing.rule_named`.

    Raises:
        UserError: no such folder or rule, a pattern that matches nothing, or no image at all.
    """
    pairing = rule_named(rule)
    root = input_folder(root, "the images").absolute()
    report = Report("folder", root)
    for split, pair in all_patterns(root, patterns).items():
        paired = pair_by_folder(matching(root, pair[0]), matching(root, pair[1]), pairing)
        pairs = [Pair("folder", "folder", lq.stem, lq, gt) for lq, gt in paired.pairs]
        _add(report, Part("folder", split, f"{pair[0]} + {pair[1]}", pairs, None, ""), paired.faults)
    skipped: list[str] = []
    if not report.parts:
        pairs = list(every_image(root, "folder", skipped).pairs)
        _add(report, Part("folder", "predict", "images without ground truth", pairs, None, ""), [])
    report.findings.extend(Finding("unreadable", "folder", text) for text in skipped)
    _examine(report, root)
    return report


def _add(report: Report, part: Part, faults: Iterable[Fault]) -> None:
    report.parts.append(part)
    for fault in faults:
        files = tuple(_below(report.root, file) for file in fault.files)
        report.findings.append(Finding(fault.kind, part.where, fault.text, files))


def _is_there(root: Path, images: ImageSet, split: str) -> bool:
    """Return whether any folder of any layout of the split has an image: if not, the split is absent, not wrong."""
    return any(
        list_folder(root / prefix, pattern, images.suffixes)
        for folders in images.folders
        if folders.split == split
        for prefix in folders.prefixes
        for pattern in folders.patterns()
    )


def _examine(report: Report, root: Path) -> None:
    """Look at every image once and add what is wrong with it."""
    splits: dict[Path, str] = {}  # the first split of each file
    for part in report.parts:
        for pair in part.pairs:
            splits.update({path: part.where for path in (pair.lq, pair.gt) if path is not None})
    for found in list(report.findings):
        splits.update({root / file: found.where for file in found.files if (root / file) not in splits})
    looks, broken = _look(list(splits), report)
    for path in sorted(broken):
        report.findings.append(Finding("unreadable", splits[path], broken[path], (_below(root, path),)))
    for part in report.parts:
        report.findings.extend(_pair_findings(root, part, looks))
    flat = {path for path, look in looks.items() if look.high - look.low <= FLAT}
    for where in dict.fromkeys(splits[path] for path in flat):
        named = [f"{_below(root, path)} ({_colour(looks[path])})" for path in sorted(flat) if splits[path] == where]
        report.findings.append(Finding("flat", where, "images of one colour", tuple(named)))
    report.findings.extend(_leaks(root, report.parts, looks, flat))


def _look(files: Sequence[Path], report: Report) -> tuple[dict[Path, Look], dict[Path, str]]:
    """Return what each file holds, or why it cannot be read; files that have not changed since an earlier check are known.

    What is known is kept in ``$XDG_CACHE_HOME/unildiff/check``: data folders often cannot be written to.
    """
    known = _known(report.root)
    states = {path: _state(path) for path in files}
    looks: dict[Path, Look] = {}
    for path, state in states.items():
        found = None if known is None else known.get_json(str(path))
        if isinstance(found, list) and len(found) == 6 and found[0] == state:
            looks[path] = Look(*found[1:])
    new = [path for path in files if path not in looks]
    report.images, report.looked_at = len(files), len(new)
    broken: dict[Path, str] = {}
    with known or contextlib.nullcontext(), ThreadPoolExecutor(cores()) as pool:  # decoding and hashing hold no lock
        for path, seen in progress(ordered(pool, look_at, new, ahead=4 * cores()), len(new), "Checking"):
            if isinstance(seen, str):
                broken[path] = seen
                continue
            looks[path] = seen
            if known is not None:
                known.add({str(path): json.dumps([states[path], *astuple(seen)]).encode()})
    return looks, broken


class _Known(Store):
    """What earlier checks found; where it cannot be written, e.g. on a full disk, files are read again next time."""

    def flush(self) -> None:
        """Write what was added, if that is possible."""
        try:
            super().flush()
        except UserError as error:
            _LOG.info("files are read again next time: %s", error)
            self._pending = {}
            super().flush()  # starts the next batch


def _known(root: Path) -> _Known | None:
    try:
        if (base := cache_folder()) is None:
            raise UserError("no folder for caches: XDG_CACHE_HOME and HOME name none by its full path")
        return _Known(base / "check" / hashlib.blake2b(str(root).encode(), digest_size=12).hexdigest(), write=True)
    except UserError as error:
        _LOG.info("files are read again next time: %s", error)
        return None


def _state(path: Path) -> list[int] | None:
    with contextlib.suppress(OSError):  # decoding it will report what is wrong
        found = file_of(path).stat()
        return [found.st_size, found.st_mtime_ns]
    return None


def look_at(path: Path) -> Look | str:
    """Return what a file holds, or in one line why it cannot be read."""
    try:
        image = read_rgb(path) if path.suffix.lower() in SUFFIXES else read_raw(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"unreadable image: {path} ({error.strerror}); replace the file or remove it"
    digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    height, width = image.shape[:2]
    return Look(digest.hexdigest(), height, width, int(image.min()), int(image.max()))


def _pair_findings(root: Path, part: Part, looks: Mapping[Path, Look]) -> Iterator[Finding]:
    sizes: list[str] = []
    same: list[str] = []
    for pair in part.pairs:
        if pair.lq is None or pair.gt is None or pair.lq not in looks or pair.gt not in looks:
            continue
        lq, gt = looks[pair.lq], looks[pair.gt]
        if (lq.height, lq.width) != (gt.height, gt.width):
            what = f"({lq.width}x{lq.height} against {gt.width}x{gt.height})"
            sizes.append(f"{_below(root, pair.lq)} and {_below(root, pair.gt)} {what}")
        elif lq.content == gt.content and lq.high - lq.low > FLAT:
            same.append(_below(root, pair.lq))
    if sizes:
        yield Finding("size", part.where, "pairs of two sizes", tuple(sizes))
    if same:
        yield Finding("undegraded", part.where, "degraded images that equal their ground truth", tuple(same))


def _leaks(root: Path, parts: Iterable[Part], looks: Mapping[Path, Look], flat: set[Path]) -> Iterator[Finding]:
    """Yield the images that are in two splits; those of one colour are equal by accident."""
    holders: dict[str, dict[str, Path]] = defaultdict(dict)  # content -> split -> one of its files
    for part in parts:
        for pair in part.pairs:
            for path in (pair.lq, pair.gt):
                if path is not None and path in looks and path not in flat:
                    holders[looks[path].content].setdefault(part.split, path)
    shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for files in holders.values():
        if len(files) > 1:
            shared[tuple(files)].append(" = ".join(_below(root, path) for path in files.values()))
    for splits, named in shared.items():
        yield Finding("leak", " and ".join(splits), "images are in both", tuple(sorted(named)))


def _colour(look: Look) -> str:
    return "black" if look.high <= FLAT else "white" if 255 - FLAT <= look.low <= look.high <= 255 else "flat"


def _below(root: Path, path: Path) -> str:
    return os.path.relpath(path, root)
