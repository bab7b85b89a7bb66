"""What an image file stores, before colour management: samples, alpha and metadata.

Axis letters: H W pixels, C colour channels (1 grey, 3 RGB, 4 CMYK).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


@dataclass
class Metadata:
    """What travels with the pixels.

    Attributes:
        icc: ICC profile of the stored colours.
        exif: EXIF tags.
        xmp: XMP packet.
        text: PNG text by keyword.
        dpi: resolution, (horizontal, vertical) per inch.
    """

    icc: bytes | None = None
    exif: Image.Exif = field(default_factory=Image.Exif)
    xmp: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None


@dataclass
class StoredImage:
    """The samples of a file as they are stored, not rotated, not colour managed.

    Attributes:
        samples: (H, W, C) uint8 or uint16 over the whole range of the type.
        alpha: (H, W) of the same type, None without transparency; colours are never multiplied by it.
        metadata: profile, EXIF, XMP and text.
        format: Pillow's name of the file format, e.g. ``JPEG``.
        orientation: EXIF orientation 1..8 that is still to be applied.
        encoder: settings of Pillow's encoder that keep the quality (JPEG tables and subsampling).
        warnings: what was lost in reading, one line each.
    """

    samples: np.ndarray
    alpha: np.ndarray | None
    metadata: Metadata
    format: str
    orientation: int = 1
    encoder: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def orientation_of(exif: Image.Exif) -> int:
    """Return the EXIF orientation; a value that is not an integer from 1 to 8 is ignored, as viewers do."""
    value = exif.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W) or (H, W, C) with EXIF orientation 1..8 undone (Exif 2.3, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def full_range(samples: np.ndarray, largest: int) -> np.ndarray:
    """Return integer samples 0..``largest`` over the whole range: uint8 where that holds them all, else uint16; rounded."""
    target = 255 if largest <= 255 else 65535
    kind = np.uint8 if target == 255 else np.uint16
    if largest == target:
        return np.asarray(samples, kind)
    clipped = np.minimum(samples, largest).astype(np.uint64)
    return np.asarray((clipped * (2 * target) + largest) // (2 * largest), kind)


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """Return uint8 samples; 16-bit ones are rounded, not cut."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def divided_by_alpha(samples: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return (H, W, C) colours that were stored multiplied by ``alpha`` (H, W); transparent pixels are black."""
    top = np.iinfo(samples.dtype).max
    share = alpha.astype(np.float64)[..., None] / top
    with np.errstate(divide="ignore", invalid="ignore"):
        colours = np.where(share > 0, samples / share, 0)
    return np.minimum(np.rint(colours), top).astype(samples.dtype)


def cmyk_to_rgb(samples: np.ndarray) -> np.ndarray:
    """Return RGB (H, W, 3) of CMYK inks (H, W, 4) without a profile: (1 - ink) (1 - black), as Pillow does."""
    top = np.iinfo(samples.dtype).max
    light = (top - samples[..., 3:].astype(np.float64)) * (top - samples[..., :3].astype(np.float64)) / top
    return np.rint(light).astype(samples.dtype)
