"""How visible the borders of tiles are in a restored image.

Axis letters: H/W pixels, L lines of pixels across an axis.
"""

import numpy as np

HIGH = 1.25
"""Scores above this are high: at tile borders brightness bends a quarter more than beside them (our choice). Of 24 photographs
that were restored in one piece, 1 scores higher at such lines."""
_BESIDE = 16
"""Lines on each side that a border is compared with, so that differences between parts of the photograph do not count."""


def seam_score(restored: np.ndarray, original: np.ndarray, rows: list[int], columns: list[int]) -> float:
    """Return how much more brightness bends at tile borders than beside them, as a ratio; 1 means that nothing shows.

    The bend of a line is the mean of |a - 2 b + c| over three neighbouring lines of the change that the restorer made
    (restored minus original): what the photograph itself holds at a border does not count.

    Args:
        restored: (H, W, 3) in 0..255.
        original: (H, W, 3) in 0..255.
        rows: first rows after horizontal borders.
        columns: first columns after vertical borders.
    """
    change = (restored - original).mean(axis=2)
    scores = []
    for lines, borders in ((change, rows), (change.T, columns)):
        if len(lines) < 8 or not borders:
            continue
        bend = np.abs(lines[:-2] - 2 * lines[1:-1] + lines[2:]).mean(axis=1)  # (L - 2): line i bends at i + 1
        at, beside = np.zeros((2, len(bend)), bool)
        for border in borders:
            at[max(0, border - 2) : border + 1] = True
            beside[max(0, border - 2 - _BESIDE) : border + 1 + _BESIDE] = True
        beside &= ~at
        if at.any() and beside.any():
            scores.append(float(bend[at].mean()) / max(float(bend[beside].mean()), 1e-3))
    return max(scores, default=1.0)
