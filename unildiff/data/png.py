"""PNGs of uint8 pictures, encoded four times as fast as OpenCV's and ten times as fast as Pillow's, in files as small.

Axis letters: H W pixels, C channels (1 or 3).
Measured on 1080x720 degraded photographs (one core, benchmarks/synthesis.py): 7 ms a picture instead of 27 and 60 to 100.
Nearly all of it is deflate, which Intel's ISA-L does; no library writes PNGs with it.
"""

import struct

import numpy as np
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # filter: what the row above does not say; smaller files than "left" on all kinds that were tried
_LEVEL = 1  # of ISA-L; 2 and 3 take longer and save 1 per cent


def encode_png(picture: np.ndarray) -> bytes:
    """Return the file of a uint8 picture, (H, W, 3) RGB or (H, W) grey (PNG specification, ISO/IEC 15948).

    Raises:
        ValueError: the array is not uint8 of such a shape, or has no pixels.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 (H, W, 3) or (H, W), got {picture.dtype} {picture.shape}")
    if not picture.size:
        raise ValueError(f"a picture without pixels cannot be a PNG: {picture.shape}")
    height, width = picture.shape[:2]
    values = np.ascontiguousarray(picture).reshape(height, -1)
    rows = np.empty((height, 1 + values.shape[1]), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    colour_type = 2 if picture.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    data = isal_zlib.compress(rows, _LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join(
        (struct.pack(">I", len(data)), kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind))))
    )
