"""Captions that name the degradation: with them a test is not blind restoration."""

from collections.abc import Iterable

from unildiff.data.tools.captioner import leaks

# First letters of the words by which captions name a degradation; keys are parts of our degradations' names.
_LOW_LIGHT = ("dark", "dim", "low-light", "low light", "underexposed", "under-exposed")
_STEMS: dict[str, tuple[str, ...]] = {
    "low": _LOW_LIGHT,
    "lowlight": _LOW_LIGHT,
    "haze": ("haz", "fog", "mist", "smog"),
    "rain": ("rain", "drizzl"),
    "snow": ("snow",),
    "raindrop": ("raindrop",),
    "blur": ("blur",),
    "noise": ("nois", "grain"),
}
_ENOUGH = 0.5  # share of a degradation's captions that counts as naming it; coats can be dark, too (our choice)


def names_degradation(caption: str, degradation: str) -> bool:
    """Return whether a caption names one of the degradations of its image, e.g. "a hazy street" for low_haze."""
    stems = tuple(stem for part in degradation.split("_") for stem in _STEMS.get(part, ()))
    return bool(stems) and any(word.startswith(stems) for word in leaks(caption))


def told_degradations(captions: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Find the degradations that captions name.

    Args:
        captions: (degradation, caption) of each image.

    Returns:
        By degradation, how many of its captions name it and how many it has; only those where at least half do.
    """
    named: dict[str, list[bool]] = {}
    for degradation, caption in captions:
        named.setdefault(degradation, []).append(names_degradation(caption, degradation))
    counts = {degradation: (sum(found), len(found)) for degradation, found in named.items()}
    return {
        degradation: (found, total)
        for degradation, (found, total) in counts.items()
        if found and found >= _ENOUGH * total
    }
