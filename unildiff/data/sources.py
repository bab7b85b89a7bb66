"""From folders to pair sources: reading layouts, reporting faults, leaving out what cannot be read."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from unildiff.data.datasets import FilePairs, OnError, Reader, check_sizes
from unildiff.data.images import image_size, read_rgb
from unildiff.data.layouts import PictureSet, read_pairs, recognise, sample_of
from unildiff.data.pair import Pair, PairSource, Split, Which
from unildiff.data.pairing import Fault, Rule, pair_by_name, size_faults
from unildiff.data.walk import files_below, find_images, is_image
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder
from unildiff.utils.parallel import progress

_LOG = logging.getLogger(__name__)


class View:
    """Some pairs of another source, in another order or with other descriptions."""

    def __init__(self, source: PairSource, picks: Sequence[tuple[int, Pair]]) -> None:
        """Args: the other source; index there and description here of each pair."""
        self.pairs = [pair for _, pair in picks]
        self._source = source
        self._indices = [index for index, _ in picks]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """See :class:`unildiff.data.datasets.PairSource`."""
        return self._source.read(self._indices[index], which)


def disk_source(
    roots: Iterable[tuple[Path, PictureSet]],
    split: Split,
    layout: str | None = None,
    sizes: bool = True,
    reader: Reader = read_rgb,
) -> tuple[FilePairs, list[Fault]]:
    """Return the pairs of a split of some sets, and what is wrong with their files.

    Args:
        roots: the folder of each set.
        split: the split.
        layout: the layout to take where a folder holds several.
        sizes: compare the sizes of each pair, by their headers.
        reader: what decodes a file; where it is not the usual one, sizes are those that it gives.

    Raises:
        UserError: a root is missing, empty or a file, or no layout is recognised.
    """
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for root, pictures in roots:
        found = recognise(root, pictures, split, layout)
        more, wrong = read_pairs(root, pictures, found)
        if sizes:
            files = [(pair.lq, pair.gt) for pair in more if pair.lq is not None and pair.gt is not None]
            bad = list(size_faults(files, image_size if reader is read_rgb else partial(_decoded_size, reader)))
            wrong += bad
            broken = {file for fault in bad for file in fault.files}
            more = [pair for pair in more if broken.isdisjoint({pair.lq, pair.gt})]
        wanted = pictures.expected.get(split)
        if wanted is not None and sample_of(root) is None:
            _compare_counts(f"{pictures.title} ({split})", more, wanted)
        pairs += more
        faults += wrong
    return FilePairs(pairs, reader), faults


def pattern_source(root: Path, lq: str, gt: str, rule: Rule, degradation: str) -> tuple[FilePairs, list[Fault]]:
    """Return the pairs of two glob patterns below ``root``, and what is wrong with the other files.

    Raises:
        UserError: no such folder, or a pattern that matches no picture.
    """
    input_folder(root, "the pictures")
    paired = pair_by_name(_matching(root, lq), _matching(root, gt), rule)
    faults = [*paired.faults, *size_faults(paired.pairs, image_size)]
    bad = {file for fault in faults for file in fault.files}
    good = [pair for pair in paired.pairs if bad.isdisjoint(pair)]
    return FilePairs([Pair(degradation, degradation, a.stem, a, b) for a, b in good]), faults


def every_image(root: Path, degradation: str, skipped: list[str]) -> FilePairs:
    """Return the images in a folder and below it, as pairs without a ground truth.

    Args:
        root: the folder.
        degradation: what the pairs are called.
        skipped: gets one line when there are image files of formats that cannot be read.

    Raises:
        UserError: no such folder, or no image in it.
    """
    found = find_images(input_folder(root, "the images to restore"))
    if not found.images:
        raise UserError(f"no images in {root}; {found.warning or 'give a folder that holds some (png, jpg, tif, ...)'}")
    if found.warning:
        skipped.append(found.warning)
        _LOG.warning(found.warning)
    return FilePairs([Pair(degradation, degradation, path.stem, path, None) for path in found.images])


MEND = "mend them (`unildiff data check`), or give --data.on_error skip"


def report(faults: Sequence[Fault], on_error: OnError, skipped: list[str], remedy: str = MEND) -> None:
    """Raise for the first fault, saying what can be done, or note all of them as skipped.

    Raises:
        UserError: there is a fault and ``on_error`` is "raise".
    """
    if faults and on_error == "raise":
        more = f" (and {len(faults) - 1} more findings)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; {remedy}")
    for line in map(str, faults):
        if line not in skipped:
            skipped.append(line)
            _LOG.warning("skipped: %s", line)


def readable(source: PairSource, skipped: list[str]) -> PairSource:
    """Decode every picture once and return the pairs that survive, of one size each; the others are noted as skipped."""
    picks = []
    for index in progress(range(len(source)), len(source), "Reading"):
        pair = source.pairs[index]
        try:
            read = {which: source.read(index, which) for which in _on_disk(pair)}
            if len(read) == 2:
                check_sizes(pair, read["lq"], read["gt"])
            picks.append((index, pair))
        except UserError as error:
            skipped.append(str(error))
            _LOG.warning("skipped: %s", error)
    return View(source, picks)


def _compare_counts(where: str, pairs: Sequence[Pair], published: int) -> None:
    """Warn of each number of pairs a degradation (noise level, kind of CDD-11) that is not the published one."""
    found: dict[int, list[str]] = {}
    for degradation, count in Counter(pair.degradation for pair in pairs).items():
        found.setdefault(count, []).append(degradation)
    for count, degradations in (found or {0: []}).items():
        if count != published:
            of = f" of {', '.join(degradations)}" if len(found) > 1 else ""
            _LOG.warning("%s: %d found%s, %d published", where, count, of, published)


def _matching(root: Path, pattern: str) -> list[Path]:
    parts = Path(pattern).parts
    if not parts or Path(pattern).is_absolute():
        raise UserError(f"pattern {pattern!r}: give it relative to {root}, e.g. 'lq/*'")
    if wrong := [part for part in parts if "**" in part and part != "**"]:
        raise UserError(f"pattern {pattern!r}: ** stands for folders and not in {wrong[0]!r}; write '**/' or '*'")
    files = sorted(path for path in _expanded(root, parts) if is_image(path))
    if not files:
        raise UserError(f"no pictures match {pattern!r} in {root}; give other patterns for lq and gt")
    return files


def _expanded(root: Path, parts: tuple[str, ...]) -> set[Path]:
    """Return what a glob pattern matches; its ``**`` enters linked folders too, as ``predict`` does."""
    files = set(root.glob("/".join(parts)))
    if "**" not in parts:
        return files
    seen = {_lies(path) for path in files}  # a folder and a link to it are one place
    first = parts.index("**")
    for folder in list(root.glob("/".join(parts[:first]))) if first else [root]:
        for path in files_below(folder) if folder.is_dir() else ():
            if _fits(path.relative_to(folder).parts, parts[first:]) and _lies(path) not in seen:
                seen.add(_lies(path))
                files.add(path)
    return files


def _fits(names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Return whether a path fits a glob pattern, both by their parts."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return _fits(names, parts[1:]) or _fits(names[1:], parts)
    return fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _lies(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def _decoded_size(reader: Reader, path: Path) -> tuple[int, int]:
    height, width = reader(path).shape[:2]
    return height, width


def _on_disk(pair: Pair) -> list[Which]:
    files: dict[Which, Path | None] = {"lq": pair.lq, "gt": pair.gt}
    return [which for which, path in files.items() if path is not None]
