"""A report's pictures as data URIs, small enough that one HTML file can hold them all, each kept once."""

import base64
import hashlib
import io
import math
from pathlib import Path

from PIL import Image

from unildiff.data.images import read_rgb

_BUDGET = 48 * 2**20  # bytes of pictures in one file: what a phone's browser still opens
_BYTES_PER_PIXEL = 0.3  # WebP at this quality, on photographs with rain and noise
_SIDES = (160, 640)
_QUALITY = 85


def picture_side(count: int) -> int:
    """Return how long the longer side of each of ``count`` pictures may be, in pixels, for them to fit the budget."""
    side = math.sqrt(_BUDGET / max(count, 1) / _BYTES_PER_PIXEL)
    return int(min(max(side, _SIDES[0]), _SIDES[1]))


class PictureStore:
    """Pictures by identifier; the same pixels (a truth shared by eleven degradations) are stored once."""

    def __init__(self, side: int) -> None:
        """Args: the longest side to keep; larger pictures are reduced, smaller ones stay as they are."""
        self.side = side
        self.uris: dict[str, str] = {}
        self._seen: dict[Path, tuple[str, int, int]] = {}

    def add(self, path: Path) -> tuple[str, int, int]:
        """Take in a picture file.

        Returns:
            (identifier, width, height), the size being that of the file.

        Raises:
            UserError: the file is no picture.
        """
        path = path.resolve()
        if path not in self._seen:
            picture = read_rgb(path)
            name = hashlib.blake2b(picture.tobytes() + bytes(str(picture.shape), "ascii"), digest_size=8).hexdigest()
            if name not in self.uris:
                self.uris[name] = picture_uri(Image.fromarray(picture), self.side)
            self._seen[path] = name, picture.shape[1], picture.shape[0]
        return self._seen[path]


def picture_uri(image: Image.Image, side: int) -> str:
    """Return a WebP data URI of an RGB image, reduced so that its longer side has at most ``side`` pixels."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
