"""Opening image files: the size limit, and the errors of every decoder as one line that names the file."""

import io
import logging
import os
import stat
import struct
import warnings
import zlib
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from unildiff.data.lmdb_folders import lmdb_bytes
from unildiff.data.walk import PACKAGES, install_hint
from unildiff.utils.errors import UserError

MAX_PIXELS = 2**28
"""Largest image that is decoded, 268 Mpx: phones make 108 and 200 Mpx (our choice)."""
LIMIT_VARIABLE = "UNILDIFF_MAX_PIXELS"

DECODER_FAULTS = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG chunk
    ValueError,  # TiffFileError is one
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    RuntimeError,  # every error of imagecodecs is one
)

# What decoders say of damaged tags and profiles is either harmless or becomes our own error or warning.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"PIL\.")


def max_pixels() -> int:
    """Return the largest number of pixels that an image may have: ``MAX_PIXELS``, or ``UNILDIFF_MAX_PIXELS``.

    Raises:
        UserError: the environment variable does not hold a positive integer.
    """
    value = os.environ.get(LIMIT_VARIABLE)
    if value is None:
        return MAX_PIXELS
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{LIMIT_VARIABLE}: {value!r} is not a positive number of pixels, e.g. {MAX_PIXELS}")
    return int(value)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse an image above the limit.

    Raises:
        UserError: it has more than :func:`max_pixels`, or none.
    """
    if width * height > (limit := max_pixels()):
        raise UserError(
            f"image too large: {path} is {width}x{height} ({width * height} pixels), the limit is {limit} pixels; raise it "
            f"with --max_pixels (restore) or {LIMIT_VARIABLE}={width * height} (every command), or make the image smaller"
        )
    if width < 1 or height < 1:
        raise UserError(f"unreadable image: {path} has no pixels ({width}x{height}); replace or remove it")


def open_file(path: Path) -> BinaryIO:
    """Return the open file.

    Raises:
        UserError: it is missing, not a regular file, or may not be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"not a file: {path}; remove or rename it")  # a pipe would block for ever
        return open(path, "rb")
    except FileNotFoundError:
        if (data := lmdb_bytes(path)) is not None:
            return io.BytesIO(data)
        raise UserError(f"no such file: {path}; check the path") from None
    except PermissionError:
        raise UserError(f"no permission to read {path}; change its rights") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:  # a NUL in the name
        raise unreadable(path, error) from None


def open_pillow(path: Path, file: BinaryIO) -> Image.Image:
    """Return Pillow's image of an open file, not decoded yet.

    Raises:
        UserError: it is above the limit.
    """
    limit = max_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow has no limit of one call; ours is checked below
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        if not _register_plugins():
            raise
        file.seek(0)
        image = Image.open(file)
    check_pixels(path, *image.size)
    return image


@cache
def _register_plugins() -> bool:
    """Let Pillow open HEIC and JPEG XL where the packages are installed; return whether one is."""
    modules = [import_module(name) for name in PACKAGES if find_spec(name) is not None]
    for module in modules:
        getattr(module, "register_heif_opener", bool)()  # JPEG XL's registers itself
    return bool(modules)


def decoder(name: str) -> Any:
    """Return a package that decodes rarer files; the pipeline of diffusers also runs where it is not installed.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed, which this image needs; `pip install {name}`") from None


def unreadable(path: Path, error: BaseException | str) -> UserError:
    """Return the one line for a file that a decoder does not accept."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "no image format that is read here"
    return UserError(f"unreadable image: {path} ({reason}); {install_hint(path)}replace or remove it")


def unsupported(path: Path, kind: str) -> UserError:
    """Return the one line for a file that is intact but of a kind that is not read."""
    return UserError(f"unsupported image: {path} holds {kind}; save it as 8-bit or 16-bit RGB")
