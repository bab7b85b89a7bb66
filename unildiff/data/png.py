"""PNG encoding, four times as fast as OpenCV's and ten times as fast as Pillow's, in files as small.

Axis letters: H W pixels, C channels (1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha).
Measured on 1080x720 degraded photographs (one core, benchmarks/synthesis.py): 7 ms per image instead of 27 and 60 to 100.
Nearly all of it is deflate, which Intel's ISA-L does; no library writes PNGs with it.
"""

import struct
from collections.abc import Iterable

import numpy as np
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # filter type: each row is stored as its difference from the row above; smaller files than "left" on all kinds tried
_LEVEL = 1  # of ISA-L; 2 and 3 take longer and save 1 per cent
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type


def encode_png(image: np.ndarray, chunks: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the PNG file of an image (PNG specification, ISO/IEC 15948).

    Args:
        image: uint8 or uint16, (H, W) grey or (H, W, C).
        chunks: (kind, content) of metadata, written between header and pixels.

    Raises:
        ValueError: the array is not of such a type and shape, or has no pixels.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or channels not in _COLOUR_TYPES:
        raise ValueError(f"expected uint8 or uint16, (H, W) or (H, W, 1 to 4), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"an image without pixels cannot be a PNG: {image.shape}")
    height, width = image.shape[:2]
    values = np.ascontiguousarray(image, image.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    rows = np.empty((height, 1 + values.shape[1]), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(rows, _LEVEL)
    extra = b"".join(_chunk(kind, content) for kind, content in chunks)
    return _SIGNATURE + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join(
        (struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind))))
    )
