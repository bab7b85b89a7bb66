"""Metadata of a restored image: everything of the original that still holds, and a note on how it was made.

The note goes to EXIF (``Software``) and XMP. It holds no time and no path: the same input and settings give the same bytes.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import ExifTags, Image

from unildiff.data.images.files import DECODER_FAULTS
from unildiff.data.images.stored import ORIENTATION, Metadata

NAMESPACE = "urn:unildiff:provenance:1"
_SOFTWARE = 0x0131
_SIZES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
_EMPTY_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def restored_metadata(original: Metadata, size: tuple[int, int], note: dict[str, str] | None) -> Metadata:
    """Return the metadata for an upright image: orientation reset, thumbnails dropped, the note added.

    Args:
        original: metadata of the input file.
        size: (width, height) of the image that is written.
        note: what to say of its making, by name; None leaves the note out.
    """
    exif = upright_exif(original.exif, size)
    xmp = _upright_xmp(original.xmp)
    if note is not None:
        exif[_SOFTWARE] = note["software"]
        xmp = _with_note(xmp, note)
    return replace(original, exif=exif, xmp=xmp)


def upright_exif(exif: Image.Exif, size: tuple[int, int]) -> Image.Exif:
    """Return EXIF without orientation, thumbnail and tags that cannot be written; sizes are updated."""
    made = Image.Exif()
    made.endian = exif.endian
    for tag in _read(lambda: sorted(exif), []):
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            made[tag] = _directory(exif, tag)
        elif tag != ORIENTATION and _can_write(tag, value := _read(partial(exif.get, tag), None)):
            made[tag] = value
    if ORIENTATION in exif:
        made[ORIENTATION] = 1
    details = made.get(ExifTags.IFD.Exif)
    if isinstance(details, dict):
        details.update({tag: side for tag, side in zip(_SIZES, size, strict=True) if tag in details})
    return made


def exif_bytes(exif: Image.Exif) -> bytes | None:
    """Return the EXIF block without its prefix, None where there is nothing to store."""
    return exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) else None


def _read(call: Callable[[], Any], default: Any) -> Any:
    """Return what Pillow reads of a block that may be damaged."""
    try:
        return call()
    except DECODER_FAULTS:
        return default


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    """Return a directory without the tags that cannot be written."""
    found = _read(lambda: dict(exif.get_ifd(tag)), {})
    if tag == ExifTags.IFD.Exif and ExifTags.IFD.Interop in found:
        found[ExifTags.IFD.Interop] = _directory(exif, ExifTags.IFD.Interop)
    return {key: value for key, value in found.items() if isinstance(value, dict) or _can_write(key, value)}


def _can_write(tag: int, value: object) -> bool:
    """Return whether Pillow can store the value; damaged files hold values of another type than their tag has."""
    trial = Image.Exif()
    try:
        trial[tag] = value
        trial.tobytes()
    except DECODER_FAULTS:
        return False
    return value is not None


def _upright_xmp(xmp: bytes | None) -> bytes | None:
    if xmp is None:
        return None
    text = re.sub(rb'(tiff:Orientation\s*=\s*["\'])\s*\d+', rb"\g<1>1", xmp)
    text = re.sub(rb"(<tiff:Orientation[^>]*>)\s*\d+", rb"\g<1>1", text)
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", text, flags=re.DOTALL)


def _with_note(xmp: bytes | None, note: dict[str, str]) -> bytes:
    attributes = "".join(f" unildiff:{key}={quoteattr(value)}" for key, value in note.items())
    description = f'<rdf:Description rdf:about="" xmlns:unildiff="{NAMESPACE}"{attributes}/>'.encode()
    packet = xmp if xmp is not None and b"</rdf:RDF>" in xmp else _EMPTY_XMP.encode()
    packet = re.sub(rb'<rdf:Description rdf:about="" xmlns:unildiff="[^>]*/>', b"", packet)  # of an earlier restoration
    before, end, after = packet.rpartition(b"</rdf:RDF>")
    return before + description + end + after
