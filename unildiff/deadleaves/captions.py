"""Captions of dead-leaves scenes, in a small closed vocabulary; they name content, never a degradation."""

import numpy as np

from unildiff.deadleaves.colours import COLOUR_NAMES, colour_name
from unildiff.deadleaves.layout import FIRST, LOWER, UPPER, Layout
from unildiff.deadleaves.outlines import SHAPES
from unildiff.deadleaves.textures import TEXTURE_NAMES, tile_kinds

_NUMBERS = ("a", "two", "three", "several", "many")
_PLAIN = "photograph of and before above large small sky wall ground nothing with details in front".split()  # noqa: SIM905
VOCABULARY: tuple[str, ...] = (
    *_PLAIN,
    *_NUMBERS,
    *COLOUR_NAMES,
    *TEXTURE_NAMES,
    *(word for one_and_many in SHAPES for word in one_and_many),
)
"""Every word that captions use, each once."""


def describe(layout: Layout, labels: np.ndarray) -> str:
    """Return what is seen: up to three groups of like shapes, largest first, and the backdrop; labels are uint8 (S, S)."""
    shapes = layout.shapes
    seen = np.bincount(labels.ravel(), minlength=len(shapes))[: len(shapes)] / labels.size
    textures = tile_kinds()
    groups: dict[tuple[str, int], list[int]] = {}
    sizes = np.where(shapes["part"], 0.0, seen)
    sizes[:FIRST] = 0
    for label in np.argsort(-sizes)[:24]:
        if sizes[label] < 0.004:
            break
        groups.setdefault((colour_name(shapes["colour"][label]), int(shapes["kind"][label])), []).append(int(label))
    largest = sorted(groups.items(), key=lambda item: -sizes[item[1]].sum())[:3]
    phrases = []
    for (colour, kind), members in largest:
        share = sizes[members[0]]
        size = ["large"] if share > 0.1 else ["small"] if share < 0.015 else []
        number = _NUMBERS[min(len(members), 4) - 1 if len(members) < 7 else 4]
        texture = TEXTURE_NAMES[textures[shapes["tile"][members[0]]]]
        phrases.append(" ".join((number, *size, texture, colour, SHAPES[kind][len(members) > 1])))
    things = " and ".join(phrases) or "nothing"
    if shapes["part"].any() and seen[shapes["part"]].sum() > 0.02:
        things += " with small details"

    def backdrop(label: int, noun: str) -> str:
        return f"a {TEXTURE_NAMES[textures[shapes['tile'][label]]]} {colour_name(shapes['colour'][label])} {noun}"

    if layout.horizon == 1:
        return f"a photograph of {things} in front of {backdrop(UPPER, 'wall')}"
    behind = f"{backdrop(UPPER, 'sky')} above {backdrop(LOWER, 'ground')}"
    return f"a photograph of {things} before {behind}"
