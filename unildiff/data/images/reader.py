"""Read an image file as upright sRGB, whatever it holds: orientation, bit depth, alpha, CMYK and profile come from its tags.

Axis letters: H W pixels.
Every command and datamodule reads through this module, training data included: no protocol of the field asks for wrong
colours, and the published sets carry no profile, so that nothing of theirs is converted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageOps

from unildiff.data.images.colour import to_srgb
from unildiff.data.images.decode import decode, header_size
from unildiff.data.images.files import DECODER_FAULTS, open_file, open_pillow, unreadable
from unildiff.data.images.stored import StoredImage, eight_bits, upright


@dataclass
class LoadedImage:
    """An image as the networks want it, with everything that its restored copy has to carry.

    Attributes:
        rgb: upright sRGB (H, W, 3), uint8 or uint16.
        alpha: (H, W) of the same type, None without transparency.
        stored: upright samples of the file where ``rgb`` was converted from its profile, else None.
        source: metadata, format and encoder settings of the file.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    stored: np.ndarray | None
    source: StoredImage

    @property
    def rgb8(self) -> np.ndarray:
        """The same rounded to uint8: what :func:`read_rgb` returns."""
        return eight_bits(self.rgb)


def load_image(path: Path) -> LoadedImage:
    """Return an image and what travels with it.

    Raises:
        UserError: see :func:`read_rgb`.
    """
    source = decode(path)
    try:
        colours, managed = to_srgb(source)
    except DECODER_FAULTS as error:
        raise unreadable(path, error) from None
    turn = source.orientation
    stored = upright(source.samples, turn) if managed else None
    alpha = None if source.alpha is None else upright(source.alpha, turn)
    source.samples, source.alpha = source.samples[:0], None  # pixels are kept once
    return LoadedImage(upright(colours, turn), alpha, stored, source)


def read_rgb(path: Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 sRGB, upright.

    16-bit values are rounded to 8 bits, grey is repeated, palettes are looked up, alpha is dropped and the stored colours
    kept (our choice; colours multiplied by alpha are divided by it), CMYK is converted.

    Raises:
        UserError: the file is missing, truncated, not an image, of a kind without a known range (floating point, signed),
            or larger than the limit; the message names the file.
    """
    return load_image(path).rgb8


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as :func:`read_rgb` will give it, from the header alone.

    Raises:
        UserError: the file is missing, not an image, or larger than the limit.
    """
    height, width, orientation = header_size(path)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def read_grey(path: Path) -> np.ndarray:
    """Return an image's luma as (H, W) uint8, for maps and masks: of a JPEG the chroma is not decoded, nor profiles used.

    Raises:
        UserError: see :func:`read_rgb`.
    """
    import cv2  # only maps and masks need it

    with open_file(path) as file:
        try:
            if file.read(2) == b"\xff\xd8":
                file.seek(0)
                with open_pillow(path, file) as image:
                    image.draft("L", None)
                    if image.mode == "L":
                        image.load()
                        return np.array(ImageOps.exif_transpose(image))
        except DECODER_FAULTS as error:
            raise unreadable(path, error) from None
    stored = decode(path)
    if stored.samples.shape[2] == 1:
        return upright(eight_bits(stored.samples[..., 0]), stored.orientation)
    return np.asarray(cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY))
