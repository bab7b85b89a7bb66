"""Raw sensor data: reading mosaics, and the step between linear RGB and an 8-bit RAW mosaic and back.

Axis letters: H W pixels of the RGB image. A mosaic is (H, W), one colour per site, the colours arranged by a 2x2 Bayer
pattern named row by row, e.g. "RGGB": R at (0, 0), G at (0, 1) and (1, 0), B at (1, 1).
"""

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from unildiff.data.images.decode import header_size
from unildiff.data.images.files import check_pixels
from unildiff.data.images.png_chunks import SIGNATURE, pixels_only
from unildiff.utils.errors import UserError

Bayer = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
_CHANNEL = {"R": 0, "G": 1, "B": 2}
# Bilinear weights: a colour at half the sites (G) averages 4 neighbours, one at a quarter 2 or 4.
_QUARTER = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_KERNELS = {"G": np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4, "R": _QUARTER, "B": _QUARTER}


def sites(height: int, width: int, pattern: Bayer) -> np.ndarray:
    """Return (H, W) with the channel (0 R, 1 G, 2 B) that each site of a mosaic measures.

    Raises:
        UserError: the pattern is none of the four, or a side is odd.
    """
    if pattern not in get_args(Bayer):
        raise UserError(
            f"bayer: {pattern!r} is not a Bayer pattern; choose RGGB, BGGR, GRBG or GBRG (see the camera's notes)"
        )
    if height % 2 or width % 2:
        raise UserError(f"a Bayer mosaic has even sides, got {width}x{height}; cut the image to even sides")
    cell = np.array([_CHANNEL[letter] for letter in pattern]).reshape(2, 2)
    return np.tile(cell, (height // 2, width // 2))


def mosaic(rgb: np.ndarray, pattern: Bayer) -> np.ndarray:
    """Return the (H, W) mosaic of a linear RGB image (H, W, 3), unchanged at each site; UserErrors as in :func:`sites`."""
    channels = sites(rgb.shape[0], rgb.shape[1], pattern)
    return np.take_along_axis(rgb, channels[..., None], axis=2)[..., 0]


def demosaic(raw: np.ndarray, pattern: Bayer) -> np.ndarray:
    """Return a linear RGB image (H, W, 3) of a mosaic (H, W), same dtype.

    Missing colours are bilinear means of their neighbours; what a site measured is unchanged, so that
    ``mosaic(demosaic(raw, p), p)`` is ``raw`` exactly. UserErrors as in :func:`sites`.
    """
    from scipy.ndimage import correlate

    channels = sites(raw.shape[0], raw.shape[1], pattern)
    planes = []
    for letter, channel in _CHANNEL.items():
        here = (channels == channel).astype(np.float64)
        total = correlate(raw * here, _KERNELS[letter], mode="mirror")
        mean = total / correlate(here, _KERNELS[letter], mode="mirror")
        if np.issubdtype(raw.dtype, np.integer):
            mean = np.rint(mean)
        planes.append(np.where(channels == channel, raw, mean.astype(raw.dtype)))
    return np.stack(planes, axis=-1)


def read_raw(path: Path) -> np.ndarray:
    """Return the uint16 mosaic (H, W) that a PNG, TIFF, npy or mat file holds.

    Packed planes (H/2, W/2, 4), the four sites of each cell in reading order, are laid out again.

    Raises:
        UserError: the file cannot be read, holds no or several arrays, or none of that shape and type.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; check the path")
    try:
        raw = _load(path)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  numpy and scipy raise nearly anything for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"unreadable raw file: {path} ({reason}); replace or remove it") from None
    if raw.ndim == 3 and raw.shape[2] == 4:
        height, width = raw.shape[:2]
        raw = raw.reshape(height, width, 2, 2).transpose(0, 2, 1, 3).reshape(2 * height, 2 * width)
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise UserError(
            f"not a 16-bit mosaic: {path} holds {raw.dtype} {raw.shape}; expected uint16 (H, W) or (H/2, W/2, 4)"
        )
    return raw


def raw_to_rgb(raw: np.ndarray, pattern: Bayer, white: int) -> np.ndarray:
    """Return a linear uint8 RGB image (H, W, 3) of a uint16 mosaic; ``white``, at least 1, becomes 255, more is clipped."""
    eight = np.rint(np.minimum(raw, white).astype(np.float64) * 255 / white).astype(np.uint8)
    return demosaic(eight, pattern)


def _load(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        held = np.load(path, mmap_mode="r", allow_pickle=False)  # the header may claim any size
        if not isinstance(held, np.ndarray):
            raise ValueError("an archive of arrays")
        return np.array(held)
    if suffix == ".mat":
        from scipy.io import loadmat, whosmat

        check_pixels(path, 1, max((math.prod(shape) for _, shape, _ in whosmat(path)), default=1))
        held = loadmat(path)
        arrays = {name: value for name, value in held.items() if not name.startswith("__")}
        if len(arrays) != 1:
            raise ValueError(f"{len(arrays)} variables, one expected: {', '.join(sorted(arrays))}")
        return np.asarray(next(iter(arrays.values())))
    import cv2

    header_size(path)  # refuses what is larger than the limit
    data = path.read_bytes()
    data = pixels_only(data) if data.startswith(SIGNATURE) else data
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("not an image, or truncated")
    # OpenCV reverses the order of R G B (A); four planes are kept in reading order
    return np.asarray(image[..., [2, 1, 0, 3]] if image.ndim == 3 and image.shape[2] == 4 else image)
