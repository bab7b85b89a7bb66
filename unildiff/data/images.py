"""Reading pictures to RGB uint8, whatever the file holds, and writing them so that no half-written file is left.

Arrays are (H, W, 3) uint8 RGB in 0..255. Every decoder fault becomes a UserError that names the file.
"""

import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unildiff.data.png import encode_png
from unildiff.data.walk import find_images
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole

MAX_PIXELS = 89_478_485  # Pillow's own limit, at which it speaks of a decompression bomb

_DECODER_FAULTS = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG chunk
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def list_pictures(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted by their path below it; see :func:`unildiff.data.walk.find_images`."""
    return find_images(folder, recursive).images


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as :func:`read_rgb` will give it, from the header alone.

    Raises:
        UserError: the file is missing, not a picture, or larger than ``MAX_PIXELS``.
    """
    with _opened(path) as image:
        width, height = image.size
        try:
            # the base class's: a PNG's own would decode the picture to look for EXIF behind the pixels
            turned = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)
        except _DECODER_FAULTS as error:
            raise _unreadable(path, error) from None
    return (width, height) if turned else (height, width)


def read_rgb(path: Path) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8 RGB.

    16-bit values are rounded to 8 bits (not cut, as Pillow does), grey is repeated, palettes are looked up, alpha is
    dropped and the stored colours kept (our choice), CMYK is converted, and EXIF rotation is applied.

    Raises:
        UserError: the file is missing, truncated, not a picture, of a kind without a fixed range (floats), or larger
            than ``MAX_PIXELS``; the message names the file.
    """
    with _opened(path) as image:
        try:
            image.load()  # the whole file, so that a truncated one is found here
            if _bits(image) == 16:
                return _read_16bit(path, _orientation(image))
            if image.format == "PPM" and image.mode == "I":  # grey of more than 8 bits, which Pillow scales to 16
                return np.repeat(_rounded(np.asarray(image))[:, :, None], 3, axis=2)
            if image.mode in ("F", "I"):
                raise UserError(
                    f"floating-point or 32-bit picture: {path}; its range is unknown, save it as 8 or 16 bits"
                )
            if image.mode in ("LA", "La"):
                image = image.convert("L")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except _DECODER_FAULTS as error:
            raise _unreadable(path, error) from None


def read_grey(path: Path) -> np.ndarray:
    """Return a picture's brightness as (H, W) uint8; of a grey or YCbCr JPEG its colours are never decoded.

    Raises:
        UserError: as ``read_rgb``.
    """
    import cv2  # only maps and masks need it

    with _opened(path) as image:
        try:
            image.draft("L", None)  # JPEG alone follows it
            if image.mode == "L":
                image.load()
                return np.array(ImageOps.exif_transpose(image))
        except _DECODER_FAULTS as error:
            raise _unreadable(path, error) from None
    return np.asarray(cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey as a PNG; the file appears whole or not at all.

    Raises:
        ValueError: see ``encode_png``.
        UserError: the file cannot be written (no permission, disk full).
    """
    encoded = encode_png(picture)
    output_folder(path.parent)
    write_whole(path, encoded)


def _opened(path: Path) -> Image.Image:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"not a file: {path}; remove what bears a picture's name")  # a pipe would block for ever
        image = Image.open(path)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}; check the path") from None
    except PermissionError:
        raise UserError(f"no permission to read {path}; change its rights") from None
    except _DECODER_FAULTS as error:
        raise _unreadable(path, error) from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        image.close()
        raise UserError(f"picture too large: {path} is {size}, the limit is {MAX_PIXELS} pixels; make it smaller")
    return image


def _unreadable(path: Path, error: BaseException) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"unreadable picture: {path} ({reason}); replace or remove it")


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(0x0112, 1))


def _bits(image: Image.Image) -> int:
    """Return 16 for pictures with 16 bits a channel: Pillow's mode says so for grey only."""
    if image.mode.startswith("I;16"):
        return 16
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, 8)  # type: ignore[attr-defined]
        return 16 if 16 in (bits if isinstance(bits, tuple) else (bits,)) else 8
    if image.format == "PNG":
        with open(str(image.filename), "rb") as file:  # type: ignore[attr-defined]
            return int(file.read(25)[24])  # IHDR: width, height, bit depth
    return 8


def _read_16bit(path: Path, orientation: int) -> np.ndarray:
    import cv2  # only these files need it

    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if raw is None or raw.dtype != np.uint16:
        raise UserError(f"unreadable picture: {path} (16 bits expected); replace or remove it")
    picture = _rounded(raw)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    elif picture.shape[2] == 2:
        picture = np.repeat(picture[:, :, :1], 3, axis=2)
    else:
        picture = picture[:, :, 2::-1]  # OpenCV's order is B G R (A)
    return np.ascontiguousarray(_upright(picture, orientation))


def _rounded(deep: np.ndarray) -> np.ndarray:
    """Return 16-bit values as uint8, rounded."""
    return np.asarray((deep.astype(np.uint32) * 255 + 32767) // 65535, dtype=np.uint8)


def _upright(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Undo EXIF orientation 1..8 (Exif 2.3, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture
