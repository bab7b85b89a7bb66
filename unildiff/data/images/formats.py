"""Encoders of the formats that restored images are written in.

Axis letters: H W pixels, C channels (3, or 4 with alpha).
Every encoder takes (image (H, W, C), metadata, settings of the original's encoder) and returns the file.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from isal import isal_zlib
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from unildiff.data.images.provenance import exif_bytes
from unildiff.data.images.stored import Metadata
from unildiff.data.png import encode_png

HAS_ALPHA = frozenset({"PNG", "TIFF", "WEBP", "AVIF"})
HAS_SIXTEEN_BITS = frozenset({"PNG", "TIFF"})
_QUALITY = 95
_STRIP_BYTES = 2**22
_METRE = 39.3701  # inches


def _png(image: np.ndarray, metadata: Metadata, settings: dict[str, Any]) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    if metadata.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi is not None:
        across, down = (round(value * _METRE) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    if (exif := exif_bytes(metadata.exif)) is not None:
        chunks.append((b"eXIf", exif))
    texts = {keyword: text.encode("utf-8", "replace") for keyword, text in metadata.text.items()}
    texts |= {"XML:com.adobe.xmp": metadata.xmp} if metadata.xmp else {}
    for keyword, content in texts.items():
        chunks.append((b"iTXt", keyword.encode("latin-1", "replace") + b"\0\0\0\0\0" + content))
    return encode_png(image, chunks)


def _jpeg(image: np.ndarray, metadata: Metadata, settings: dict[str, Any]) -> bytes:
    """Keep tables and subsampling of the original where they are finer than quality 95."""
    tables, subsampling = settings.get("qtables"), settings.get("subsampling", 0)
    quality: dict[str, Any] = {"quality": _QUALITY, "subsampling": max(0, subsampling)}
    if tables is not None and len(tables) >= 2 and _finer(tables):
        quality = {"qtables": [list(tables[key]) for key in sorted(tables)], "subsampling": max(0, subsampling)}
    return _pillow(image, "JPEG", metadata, **quality)


def _finer(tables: dict[int, list[int]]) -> bool:
    """Return whether quantisation tables are at least as fine as those of quality 95, by their sums."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=_QUALITY)
    with Image.open(buffer) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        return all(sum(tables[key]) <= sum(values) for key, values in image.quantization.items() if key in tables)


def _webp(image: np.ndarray, metadata: Metadata, settings: dict[str, Any]) -> bytes:
    lossless = bool(settings.get("lossless", not settings))
    return _pillow(image, "WEBP", metadata, lossless=lossless, quality=80 if lossless else _QUALITY, exact=True)


def _avif(image: np.ndarray, metadata: Metadata, settings: dict[str, Any]) -> bytes:
    return _pillow(image, "AVIF", metadata, quality=_QUALITY, subsampling="4:4:4", max_threads=1)


def _pillow(image: np.ndarray, format: str, metadata: Metadata, **settings: Any) -> bytes:
    extra: dict[str, Any] = {"icc_profile": metadata.icc, "xmp": metadata.xmp, "dpi": metadata.dpi}
    exif = exif_bytes(metadata.exif)
    if exif is not None:
        extra["exif"] = b"Exif\0\0" + exif
    buffer = io.BytesIO()
    given = {key: value for key, value in extra.items() if value is not None}
    Image.fromarray(image).save(buffer, format, **given, **settings)
    return buffer.getvalue()


def _tiff(image: np.ndarray, metadata: Metadata, settings: dict[str, Any]) -> bytes:
    """Deflated strips with horizontal prediction (TIFF 6.0, section 14); EXIF keeps its own directories."""
    height, width, channels = image.shape
    rows = max(1, _STRIP_BYTES // (width * channels * image.itemsize))
    strips = [_predicted(image[top : top + rows]) for top in range(0, height, rows)]
    tags: dict[int, Any] = {256: width, 257: height, 258: (8 * image.itemsize,) * channels, 259: 8, 262: 2}
    tags |= {277: channels, 278: rows, 279: tuple(map(len, strips)), 284: 1, 317: 2}
    tags |= {338: 2} if channels == 4 else {}
    tags |= {34675: metadata.icc} if metadata.icc else {}
    tags |= {700: metadata.xmp} if metadata.xmp else {}
    if metadata.dpi is not None and 282 not in metadata.exif:
        tags |= {282: metadata.dpi[0], 283: metadata.dpi[1], 296: 2}

    tags[273] = tuple(
        sum(map(len, strips[:index])) for index in range(len(strips))
    )  # Pillow adds the directory's length
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    directory.tagtype.update({273: 4, 279: 4, 34675: 7, 700: 1})
    for tag, value in sorted({**dict(metadata.exif), **tags}.items()):
        directory[tag] = value
    return b"II*\0\x08\0\0\0" + bytes(directory.tobytes(8)) + b"".join(strips)


def _predicted(rows: np.ndarray) -> bytes:
    flat = rows.astype(rows.dtype.newbyteorder("<"))
    flat[:, 1:] -= rows[:, :-1]
    return bytes(isal_zlib.compress(np.ascontiguousarray(flat), 2))


Encoder = Callable[[np.ndarray, Metadata, dict[str, Any]], bytes]
ENCODERS: dict[str, Encoder] = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp, "AVIF": _avif}
