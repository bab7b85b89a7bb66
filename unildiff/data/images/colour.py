"""ICC profiles: stored colours to sRGB, which the networks and every metric work in, and back.

Axis letters: H W pixels, C colour channels.
sRGB itself, whatever profile names it, and images without a profile are left as they are, bit for bit.
"""

from functools import lru_cache

import numpy as np
from PIL import ImageCms

from unildiff.data.images.files import decoder
from unildiff.data.images.stored import StoredImage, cmyk_to_rgb

_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_EXACT = 0x0100  # cmsFLAGS_NOOPTIMIZE: its tables are off by up to 8% of the range in 16 bits, by 0.8 of 255 in 8 bits
_STRIP = 2**20  # pixels that are converted at once in floating point


@lru_cache(1)
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB."""
    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def profile_space(icc: bytes) -> str:
    """Return the colour space of a profile (bytes 16 to 20 of its header, ICC.1:2022), e.g. ``RGB``."""
    return icc[16:20].decode("latin-1").strip()


@lru_cache(64)
def differs_from_srgb(icc: bytes, channels: int) -> bool:
    """Return whether a profile of ``channels`` colours shows other colours than sRGB, by more than rounding.

    Raises:
        ValueError: the profile is damaged or of another number of colours.
    """
    if profile_space(icc) != _SPACES[channels]:
        raise ValueError(f"colour profile of {profile_space(icc) or 'nothing'}, the image is {_SPACES[channels]}")
    steps = np.linspace(0, 255, 18 if channels < 4 else 6).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), -1).reshape(1, -1, channels)
    try:
        converted = _transform(grid, icc, srgb_profile(), _SPACES[channels])
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"colour profile cannot be used ({error})") from None
    return channels == 4 or bool(np.abs(converted.astype(int) - grid).max() > 1)


def to_srgb(stored: StoredImage) -> tuple[np.ndarray, bool]:
    """Return the image's colours as sRGB (H, W, 3) of its own type, and whether its profile was applied.

    A profile that cannot be used is noted in ``stored.warnings`` and ignored.
    """
    samples, icc = stored.samples, stored.metadata.icc
    channels = samples.shape[2]
    if icc is not None:
        try:
            if differs_from_srgb(icc, channels):
                return _transform(samples, icc, srgb_profile(), _SPACES[channels]), True
        except ValueError as error:
            stored.warnings.append(str(error))
    if channels == 4:
        return cmyk_to_rgb(samples), False
    return (np.repeat(samples, 3, axis=2) if channels == 1 else samples), False


def from_srgb(restored: np.ndarray, seen: np.ndarray, stored: np.ndarray, icc: bytes) -> np.ndarray:
    """Return restored colours in the profile of the file that they came from.

    What the stored colours had beyond what the network saw (colours outside of sRGB, fractions of a level) is added again,
    so that an image which the network leaves alone keeps its colours.

    Args:
        restored: sRGB (H, W, 3), float32 in 0..255.
        seen: sRGB (H, W, 3), uint8 or uint16, as :func:`to_srgb` gave it to the network.
        stored: RGB samples of the file (H, W, 3) of the same type.
        icc: its profile.

    Returns:
        (H, W, 3), float32 in 0..255, in the profile's space.
    """
    result = np.empty_like(restored, dtype=np.float32)
    top = np.float32(np.iinfo(stored.dtype).max)
    rows = max(1, _STRIP // restored.shape[1])
    for first in range(0, len(restored), rows):
        part = slice(first, first + rows)
        unbounded = _transform(stored[part] / top, icc, srgb_profile(), "RGB", np.float32)
        wanted = restored[part] / np.float32(255) + (unbounded - seen[part] / top)
        result[part] = _transform(wanted, srgb_profile(), icc, "RGB", np.float32)
    return 255 * result.clip(0, 1)


def _transform(
    samples: np.ndarray, source: bytes, target: bytes, space: str, kind: type[np.generic] | None = None
) -> np.ndarray:
    """Return colours converted by LittleCMS (relative colorimetric where the profiles are matrices)."""
    flat = samples[..., 0] if space == "GRAY" else samples
    converted = decoder("imagecodecs").cms_transform(
        np.ascontiguousarray(flat),
        source,
        target,
        colorspace=space.lower(),
        outcolorspace="rgb",
        outdtype=kind,
        flags=None if flat.dtype == np.uint8 and space != "GRAY" else _EXACT,
    )
    return np.asarray(converted)
