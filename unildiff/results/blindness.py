"""Whether a model was told the degradation: captions that name it make a test something else than blind restoration."""

from collections.abc import Iterable

from unildiff.data.tools.captioner import leaks

# What a caption may call a degradation, by the first letters of its words; keys are parts of our degradations' names.
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
_ENOUGH = 0.5  # share of a degradation's captions from which on naming is no chance: coats are dark, too (our choice)


def names_degradation(caption: str, degradation: str) -> bool:
    """Return whether a caption names one of the degradations that its picture has, e.g. "a hazy street" under low_haze."""
    stems = tuple(stem for part in degradation.split("_") for stem in _STEMS.get(part, ()))
    return bool(stems) and any(word.startswith(stems) for word in leaks(caption))


def told_degradations(captions: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Find the degradations that captions give away.

    Args:
        captions: (degradation, caption) of each picture.

    Returns:
        By degradation, how many of its captions name it and how many it has; only those where at least half do.
    """
    named: dict[str, list[bool]] = {}
    for degradation, caption in captions:
        named.setdefault(degradation, []).append(names_degradation(caption, degradation))
    counts = {degradation: (sum(found), len(found)) for degradation, found in named.items()}
    return {
        degradation: (told, total) for degradation, (told, total) in counts.items() if told and told >= _ENOUGH * total
    }
