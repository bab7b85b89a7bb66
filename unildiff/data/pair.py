"""What a pair of images is, before anything heavy is loaded: commands that only list and lay out stop here.

Axis letters: C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from unildiff.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Split = Literal["train", "val", "test", "predict"]
Which = Literal["lq", "gt"]
OnError = Literal["raise", "skip"]
"""What a broken file does: end the command, or be left out and named."""
# File name endings, in lower case, of what Pillow reads without a plugin.
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".tif", ".tiff", ".webp"}
)
SUFFIXES |= {".bmp", ".dib", ".gif", ".pcx", ".pgm", ".pbm", ".pnm", ".ppm", ".qoi", ".tga"}


@dataclass(frozen=True, slots=True)
class Pair:
    """What is known of a pair before its images are read.

    Attributes:
        task: name in the weights of a datamodule, e.g. "haze"; for CDD-11 the same as ``degradation``.
        degradation: what the metrics are averaged by, e.g. "low_haze" or "noise_25".
        name: stem, unique within the degradation.
        lq: degraded image, or None when it is made from the ground truth as it is read.
        gt: ground truth, or None when it is unknown.
        caption: what is in the image, if the source knows it; else it is looked up beside the files.
    """

    task: str
    degradation: str
    name: str
    lq: Path | None
    gt: Path | None
    caption: str = ""


class PairSource(Protocol):
    """Pairs and their images: files (:class:`FilePairs`) or a pack of ``unildiff data pack``."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """What is known of each pair, in a fixed order."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int, which: Which) -> np.ndarray:
        """Return image ``which`` of pair ``index``, (H, W, C) uint8; it may be a read-only view.

        Raises:
            UserError: it cannot be read; the message names the file.
        """
        ...


def files_of(source: PairSource) -> list[Path]:
    """Return the files of all pairs, degraded and ground truth, as often as they are used."""
    return [path for pair in source.pairs for path in (pair.lq, pair.gt) if path is not None]


def refuse_unknown(setting: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UserError that names the values of a setting that are not among the known ones."""
    known = list(known)
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{setting}: no {', '.join(unknown)}; choose from {', '.join(known) or 'nothing'}")


def check_sizes(pair: Pair, lq: np.ndarray, gt: np.ndarray) -> None:
    """Raise a UserError that names both files when the images of a pair differ in size."""
    if lq.shape[:2] != gt.shape[:2]:
        sizes = f"{lq.shape[1]}x{lq.shape[0]} against {gt.shape[1]}x{gt.shape[0]}"
        raise UserError(f"sizes differ: {pair.lq} and {pair.gt} ({sizes}); pairs must match pixel by pixel")
