"""The chunks of a PNG (ISO/IEC 15948): header, metadata anywhere in the file, and the pixels.

Text and profiles are decompressed up to a limit, so that a small file cannot fill memory ("chunk bomb"). Pixels are decoded
from a copy without ancillary chunks: what is wrong with these never makes an image unreadable.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from unildiff.data.images.stored import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_ANCILLARY = 2**24  # bytes of one chunk's content, decompressed
_MAX_TEXT = 2**22  # bytes of all text together
_INCH = 0.0254


@dataclass
class PngHeader:
    """What stands in a PNG beside its pixels.

    Attributes:
        width: in pixels.
        height: in pixels.
        depth: bits per sample.
        metadata: profile, EXIF, XMP, text.
        warnings: what was left out, one line each.
    """

    width: int
    height: int
    depth: int
    metadata: Metadata = field(default_factory=Metadata)
    warnings: list[str] = field(default_factory=list)


def read_header(file: BinaryIO, metadata: bool = True) -> PngHeader:
    """Return header and metadata of an open PNG; only what is needed is read.

    Args:
        file: at its beginning.
        metadata: read profile, text and XMP, too; EXIF is always read, as it turns the image.

    Raises:
        ValueError: it is not a PNG, or its header is damaged.
    """
    header: PngHeader | None = None
    text_left = _MAX_TEXT
    file.seek(len(SIGNATURE))
    for kind, length, place in _chunks(file):
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise ValueError("the first chunk is not a PNG header")
            header = PngHeader(*struct.unpack(">IIB", file.read(9)))
        elif kind == b"eXIf" or (metadata and kind in (b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"pHYs")):
            if length > _MAX_ANCILLARY:
                header.warnings.append(f"metadata chunk {kind.decode()} of {length} bytes left out")
                continue
            file.seek(place)
            try:
                text_left = _take(header, kind, file.read(length), text_left)
            except (ValueError, zlib.error, struct.error, SyntaxError, OSError, LookupError, TypeError) as error:
                header.warnings.append(f"metadata chunk {kind.decode()} left out ({error})")
    if header is None:
        raise ValueError("no PNG header")
    return header


def pixels_only(data: bytes) -> bytes:
    """Return a PNG with the chunks that make its pixels, and no others; a last one that is cut off is left out.

    Some decoders allocate the length that a chunk claims, up to 4 GB, before they read it.
    """
    parts = [SIGNATURE]
    view, place = memoryview(data), len(SIGNATURE)
    while place + 8 <= len(data):
        length = int.from_bytes(view[place : place + 4], "big")
        end = place + 12 + length
        if end <= len(data) and bytes(view[place + 4 : place + 8]) in _PIXELS:
            parts.append(view[place:end])  # type: ignore[arg-type]  # join takes any buffer
        place = end
    return b"".join(parts)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, length, position of the content) of each chunk; a damaged end ends the list."""
    place = file.tell()
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, length, place + 8
        if kind == b"IEND":
            return
        place += 12 + length


def _take(header: PngHeader, kind: bytes, content: bytes, text_left: int) -> int:
    """Note one metadata chunk; return how many bytes of text may follow."""
    metadata = header.metadata
    if kind == b"eXIf":
        metadata.exif.load(b"Exif\0\0" + content)
    elif kind == b"iCCP":
        metadata.icc = _inflate(content.split(b"\0", 1)[1][1:], _MAX_ANCILLARY)
    elif kind == b"pHYs":
        across, down, unit = struct.unpack(">IIB", content[:9])
        metadata.dpi = (across * _INCH, down * _INCH) if unit == 1 else None
    else:
        keyword, text = _text(kind, content, text_left)
        text_left -= len(text)
        if keyword == "XML:com.adobe.xmp":
            metadata.xmp = text
        elif keyword.startswith("Raw profile type "):  # how ImageMagick stores EXIF in old PNGs
            if keyword.split()[-1] in ("exif", "APP1") and not len(metadata.exif):
                metadata.exif.load(bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])))
        else:
            metadata.text[keyword] = text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
    return text_left


def _text(kind: bytes, content: bytes, limit: int) -> tuple[str, bytes]:
    keyword, rest = content.split(b"\0", 1)
    if kind == b"zTXt":
        rest = _inflate(rest[1:], limit)
    elif kind == b"iTXt":
        compressed, rest = rest[0], rest[2:].split(b"\0", 2)[2]
        rest = _inflate(rest, limit) if compressed else rest
    if len(rest) > limit:
        raise ValueError(f"more than {_MAX_TEXT} bytes of text")
    return keyword.decode("latin-1"), rest


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(data, limit)
    if stream.unconsumed_tail:
        raise ValueError(f"it decompresses to more than {limit} bytes")
    return plain
