"""Hand-made scenes for the tests of dead leaves."""

import numpy as np

from unildiff.deadleaves import layout as layouts
from unildiff.deadleaves.layout import Layout
from unildiff.deadleaves.outlines import BOX, DISC


class Calm(np.random.Generator):
    """A generator whose ``random`` is always 0.9: it chooses outlines that are not ragged."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *args, **kwargs):
        return 0.9


def one_disc(**changes: object) -> Layout:
    """A red disc in the middle before a grey wall, without texture."""
    shapes = np.zeros(3, layouts.SHAPE)
    shapes["kind"] = (BOX, BOX, DISC)
    shapes["centre"] = 0.5
    shapes["size"] = ((1.5, 1.5), (1.5, 1.5), (0.3, 0.3))
    shapes["depth"] = (0, 0.1, 0.9)
    shapes["colour"] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0.7, 0.1, 0.1))
    for name, values in changes.items():
        shapes[name] = values
    return Layout(1.0, 0.0, shapes)
