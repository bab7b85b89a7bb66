"""From a file to its stored samples, by format: PNG and TIFF by their tags, everything else through Pillow.

Axis letters: H W pixels, C channels.
"""

import io
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from unildiff.data.images.files import (
    DECODER_FAULTS,
    check_pixels,
    decoder,
    open_file,
    open_pillow,
    unreadable,
    unsupported,
)
from unildiff.data.images.png_chunks import SIGNATURE, pixels_only, read_header
from unildiff.data.images.stored import Metadata, StoredImage, divided_by_alpha, full_range, orientation_of
from unildiff.data.images.tiff import MAGIC, read_tiff, tiff_size

_RGB_LIKE = {"RGB", "RGBA", "L", "LA", "CMYK"}


def decode(path: Path) -> StoredImage:
    """Return what a file stores.

    Raises:
        UserError: it is missing, truncated, not an image, too large, or of a kind without a known range.
    """
    with open_file(path) as file:
        try:
            head = file.read(8)
            file.seek(0)
            if head == SIGNATURE:
                return _png(path, file)
            if head[:4] in MAGIC:
                return read_tiff(path, file)
            if head[:2] in (b"P5", b"P6") and (stored := _portable_map(path, file)) is not None:
                return stored
            return _pillow(path, file)
        except DECODER_FAULTS as error:
            raise unreadable(path, error) from None


def header_size(path: Path) -> tuple[int, int, int]:
    """Return (height, width, orientation) as stored, from the header alone.

    Raises:
        UserError: the file is missing, not an image, or too large.
    """
    with open_file(path) as file:
        try:
            head = file.read(8)
            file.seek(0)
            if head == SIGNATURE:
                header = read_header(file, metadata=False)
                check_pixels(path, header.width, header.height)
                return header.height, header.width, orientation_of(header.metadata.exif)
            if head[:4] in MAGIC:
                return tiff_size(path, file)
            with open_pillow(path, file) as image:
                return image.height, image.width, orientation_of(_exif(image))
        except DECODER_FAULTS as error:
            raise unreadable(path, error) from None


def _png(path: Path, file: BinaryIO) -> StoredImage:
    header = read_header(file)
    check_pixels(path, header.width, header.height)
    file.seek(0)
    pixels = pixels_only(file.read())
    if header.depth == 16:
        samples = decoder("imagecodecs").png_decode(pixels)
        samples = samples[..., None] if samples.ndim == 2 else samples
        alpha = samples[..., -1] if samples.shape[2] in (2, 4) else None
        colours = samples if alpha is None else samples[..., :-1]
        stored = StoredImage(colours, alpha, header.metadata, "PNG")
    else:
        stored = _pillow(path, io.BytesIO(pixels))
        stored.metadata = header.metadata
    stored.orientation = orientation_of(header.metadata.exif)
    stored.warnings = header.warnings
    return stored


def _pillow(path: Path, file: BinaryIO) -> StoredImage:
    with open_pillow(path, file) as image:
        if (depth := _depth(image, file)) > 8:
            return _deep(image, file, depth)
        image.load()  # the whole file, so that a truncated one is found here
        stored = stored_pillow(path, image)
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            stored.format = "JPEG"  # MPO of phones, too
            stored.encoder = {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
        if image.format == "WEBP":
            file.seek(0)
            stored.encoder = {"lossless": b"VP8L" in file.read(4096)}
        return stored


def stored_pillow(path: Path, image: Image.Image) -> StoredImage:
    """Return the samples of a decoded Pillow image: palettes looked up, a transparent colour as alpha.

    Raises:
        UserError: its range is unknown (modes I and F).
    """
    info = image.info
    metadata = Metadata(info.get("icc_profile"), _exif(image), _bytes(info.get("xmp")), dpi=info.get("dpi"))
    mode, kind = image.mode, image.format or "PNG"
    if mode in ("I", "F"):
        raise unsupported(path, "floating-point or 32-bit samples, whose range is unknown")
    if mode.startswith("I;16"):
        return StoredImage(np.array(image)[..., None], None, metadata, kind, orientation_of(metadata.exif))
    if "transparency" in image.info and mode in ("1", "L", "P", "RGB"):
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    elif mode not in _RGB_LIKE:
        image = image.convert({"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode, "RGB"))
    samples = np.array(image)
    samples = samples[..., None] if samples.ndim == 2 else samples
    alpha = np.ascontiguousarray(samples[..., -1]) if image.mode in ("LA", "RGBA") else None
    colours = samples if alpha is None else np.ascontiguousarray(samples[..., :-1])
    return StoredImage(colours, alpha, metadata, kind, orientation_of(metadata.exif))


def _portable_map(path: Path, file: BinaryIO) -> StoredImage | None:
    """Return a binary PGM or PPM of more than 8 bits, which Pillow would cut to 8; None for others."""
    header: list[bytes] = []
    data = file.read()
    place = 0
    while len(header) < 4:
        end = place
        while data[end : end + 1] not in (b" ", b"\t", b"\n", b"\r", b"#", b""):
            end += 1
        if end > place:
            header.append(data[place:end])
        if data[end : end + 1] == b"#":
            end = data.index(b"\n", end)
        elif end >= len(data):
            raise ValueError("truncated header")
        place = end + 1
    width, height, largest = (int(value) for value in header[1:])
    if largest <= 255:
        file.seek(0)
        return None
    check_pixels(path, width, height)
    channels = 3 if header[0] == b"P6" else 1
    samples = np.frombuffer(data, ">u2", height * width * channels, place).reshape(height, width, channels)
    return StoredImage(full_range(samples, min(largest, 65535)), None, Metadata(), "PPM")


def _depth(image: Image.Image, file: BinaryIO) -> int:
    """Return the bits per sample of formats that Pillow cuts to 8, from their headers; 8 for others."""
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    file.seek(0)
    head = file.read(2**16) if image.format in ("JPEG2000", "AVIF") else b""
    if (place := head.find(b"\xff\x4f\xff\x51")) >= 0 and len(head) > place + 42:  # the codestream's SIZ marker
        return (head[place + 42] & 0x7F) + 1
    if (place := head.find(b"av1C")) >= 0 and len(
        head
    ) > place + 6:  # AV1 codec configuration: high_bitdepth, twelve_bit
        return {0x40: 10, 0x60: 12}.get(head[place + 6] & 0x60, 8)
    return 8


def _deep(image: Image.Image, file: BinaryIO, depth: int) -> StoredImage:
    """Return an image of more than 8 bits whose samples Pillow would cut."""
    file.seek(0)
    if image.format == "HEIF":
        heif = import_module("pillow_heif").open_heif(file, convert_hdr_to_8bit=False)  # upright
        samples, multiplied = np.asarray(heif) >> (16 - depth), "a" in heif.mode
    else:
        codecs = decoder("imagecodecs")
        decode_deep = codecs.avif_decode if image.format == "AVIF" else codecs.jpeg2k_decode
        samples, multiplied = decode_deep(file.read()), False
    samples = full_range(samples[..., None] if samples.ndim == 2 else samples, 2**depth - 1)
    alpha = samples[..., -1] if samples.shape[2] in (2, 4) else None
    colours = samples if alpha is None else samples[..., :-1]
    colours = divided_by_alpha(colours, alpha) if multiplied and alpha is not None else colours
    info = image.info
    metadata = Metadata(info.get("icc_profile"), _exif(image), _bytes(info.get("xmp")), dpi=info.get("dpi"))
    return StoredImage(colours, alpha, metadata, image.format or "PNG", orientation_of(metadata.exif))


def _exif(image: Image.Image) -> Image.Exif:
    """Return EXIF; a damaged block never makes an image unreadable."""
    try:
        exif = Image.Image.getexif(image)
        exif.get(0)
        len(exif)
        return exif
    except DECODER_FAULTS:
        return Image.Exif()


def _bytes(value: object) -> bytes | None:
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None
