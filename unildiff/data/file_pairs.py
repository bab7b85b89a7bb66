"""Pairs that are read from image files.

Axis letters: C channels, H W pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unildiff.data.images import read_rgb
from unildiff.data.pair import Pair, Which

Reader = Callable[[Path], np.ndarray]


class FilePairs:
    """Pairs that are decoded from their files each time."""

    def __init__(self, pairs: Sequence[Pair], reader: Reader = read_rgb) -> None:
        """Args: the pairs, in the order of their indices; what decodes a file to (H, W, C) uint8."""
        self.pairs = pairs
        self._reader = reader

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """See :class:`PairSource`."""
        pair = self.pairs[index]
        path = pair.lq if which == "lq" else pair.gt
        if path is None:
            raise ValueError(f"pair {pair.name} of {pair.degradation} has no {which} file")
        return self._reader(path)
