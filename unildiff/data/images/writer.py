"""Write images: as fast PNGs for tests and data, and as restored copies in the format of their original.

Axis letters: H W pixels, C channels.
"""

from pathlib import Path

import numpy as np

from unildiff.data.images.colour import differs_from_srgb, from_srgb, profile_space
from unildiff.data.images.formats import ENCODERS, HAS_ALPHA, HAS_SIXTEEN_BITS
from unildiff.data.images.provenance import restored_metadata
from unildiff.data.images.reader import LoadedImage
from unildiff.data.images.stored import eight_bits
from unildiff.data.png import encode_png
from unildiff.utils.files import output_folder, write_whole


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey as a PNG; the file appears whole or not at all.

    Raises:
        ValueError: see ``encode_png``.
        UserError: the file cannot be written (no permission, disk full).
    """
    encoded = encode_png(image)
    output_folder(path.parent)
    write_whole(path, encoded)


def encode_restored(
    restored: np.ndarray, original: LoadedImage, format: str, note: dict[str, str] | None = None
) -> tuple[bytes, list[str]]:
    """Return a restored image as a file of ``format``, and what could not be kept, one line each.

    The depth, alpha channel, profile and metadata are those of the original as far as the format allows.

    Args:
        restored: sRGB (H, W, 3), float32 in 0..255, upright.
        original: the image that was restored.
        format: a key of ``formats.ENCODERS``, e.g. ``JPEG``.
        note: provenance, see :func:`restored_metadata`; None leaves it out.
    """
    lost: list[str] = []
    source = original.source
    metadata = restored_metadata(source.metadata, (restored.shape[1], restored.shape[0]), note)
    if original.stored is not None and metadata.icc is not None and profile_space(metadata.icc) == "RGB":
        restored = from_srgb(restored, original.rgb, original.stored, metadata.icc)
    elif metadata.icc is not None and not _still_holds(metadata.icc):
        lost.append("colour profile: the restored image is sRGB")
        metadata.icc = None
    deep = original.rgb.dtype == np.uint16
    if deep and format not in HAS_SIXTEEN_BITS:
        lost.append(f"16 bits: {format} has 8")
    top = 65535 if deep and format in HAS_SIXTEEN_BITS else 255
    image = quantised(restored, top)
    if original.alpha is not None:
        if format in HAS_ALPHA:
            alpha = original.alpha if top == 65535 else eight_bits(original.alpha)
            image = np.dstack([image, alpha])
        else:
            lost.append(f"transparency: {format} has none")
    same = format == source.format
    return ENCODERS[format](image, metadata, source.encoder if same else {}), lost


def quantised(image: np.ndarray, top: int) -> np.ndarray:
    """Return float values 0..255 as integers 0..``top``, rounded half to even as ``core.pixels.to_uint8`` does."""
    kind = np.uint8 if top == 255 else np.uint16
    return np.rint(image * np.float32(top // 255)).clip(0, top).astype(kind)


def _still_holds(icc: bytes) -> bool:
    """Return whether a profile that was not applied describes the RGB image that is written: it is one of sRGB."""
    try:
        return not differs_from_srgb(icc, 3)
    except ValueError:
        return False
