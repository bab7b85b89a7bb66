"""From folders to pair sources: reading layouts, reporting faults, leaving out what cannot be read.

Axis letters: C channels, H W pixels.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from unildiff.data.images import image_size, read_rgb
from unildiff.data.layouts import ImageSet, read_pairs, recognise, sample_of, wrong_counts
from unildiff.data.pair import OnError, Pair, PairSource, Split, Which, check_sizes
from unildiff.data.pairing import Fault, size_faults
from unildiff.data.walk import find_images
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder
from unildiff.utils.parallel import progress

Reader = Callable[[Path], np.ndarray]
_LOG = logging.getLogger(__name__)


class FilePairs:
    """Pairs that are decoded from their files each time."""

    def __init__(self, pairs: Sequence[Pair], reader: Reader = read_rgb) -> None:
        """Args: the pairs, in the order of their indices; what decodes a file to (H, W, C) uint8."""
        self.pairs = pairs
        self._reader = reader

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """See :class:`unildiff.data.pair.PairSource`."""
        pair = self.pairs[index]
        path = pair.lq if which == "lq" else pair.gt
        if path is None:
            raise ValueError(f"pair {pair.name} of {pair.degradation} has no {which} file")
        return self._reader(path)


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
        """See :class:`unildiff.data.pair.PairSource`."""
        return self._source.read(self._indices[index], which)


def disk_source(
    roots: Iterable[tuple[Path, ImageSet]],
    split: Split,
    layout: str | None = None,
    sizes: bool = True,
    reader: Reader = read_rgb,
) -> tuple[FilePairs, list[Fault]]:
    """Return the pairs of a split of some sets, and what is wrong with their files.

    ``layout`` chooses where a folder holds several. ``sizes`` compares the sizes of each pair, by the headers of their files,
    or as ``reader`` decodes them where it is not the usual one.

    Raises:
        UserError: a root is missing, empty or a file, or no layout is recognised.
    """
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for root, images in roots:
        found = recognise(root, images, split, layout)
        more, wrong = read_pairs(root, images, found)
        if sizes:
            files = [(pair.lq, pair.gt) for pair in more if pair.lq is not None and pair.gt is not None]
            bad = list(size_faults(files, image_size if reader is read_rgb else partial(_decoded_size, reader)))
            wrong += bad
            broken = {file for fault in bad for file in fault.files}
            more = [pair for pair in more if broken.isdisjoint({pair.lq, pair.gt})]
        for line in wrong_counts(more, images, split) if sample_of(root) is None else ():
            _LOG.warning("%s (%s): %s", images.title, split, line)
        pairs += more
        faults += wrong
    return FilePairs(pairs, reader), faults


def every_image(root: Path, degradation: str, skipped: list[str]) -> FilePairs:
    """Return the images in a folder and below it, as pairs of ``degradation`` without a ground truth.

    ``skipped`` gets one line when there are image files of formats that cannot be read.

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
        more = {0: "", 1: " (and 1 more finding)"}.get(len(faults) - 1, f" (and {len(faults) - 1} more findings)")
        raise UserError(f"{faults[0]}{more}; {remedy}")
    for line in map(str, faults):
        if line not in skipped:
            skipped.append(line)
            _LOG.warning("skipped: %s", line)


def readable(source: PairSource, skipped: list[str]) -> PairSource:
    """Decode every image once and return the pairs that survive, of one size each; the others are noted as skipped."""
    picks = []
    for index in progress(range(len(source)), len(source), "Reading"):
        pair = source.pairs[index]
        try:
            lq = None if pair.lq is None else source.read(index, "lq")
            gt = None if pair.gt is None else source.read(index, "gt")
            if lq is not None and gt is not None:
                check_sizes(pair, lq, gt)
            picks.append((index, pair))
        except UserError as error:
            skipped.append(str(error))
            _LOG.warning("skipped: %s", error)
    return View(source, picks)


def _decoded_size(reader: Reader, path: Path) -> tuple[int, int]:
    height, width = reader(path).shape[:2]
    return height, width
