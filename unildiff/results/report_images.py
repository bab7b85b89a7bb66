"""A report's images as data URIs, small enough that one HTML file can hold them all, each kept once."""

import base64
import hashlib
import io
import math
from pathlib import Path

from PIL import Image

from unildiff.data.images import read_rgb

_BUDGET = 48 * 2**20  # bytes of images in one file: what a phone's browser still opens
_BYTES_PER_PIXEL = 0.3  # WebP at this quality, on photographs with rain and noise
_SIDES = (160, 640)
_QUALITY = 85


def image_side(count: int) -> int:
    """Return how long the longer side of each of ``count`` images may be, in pixels, for them to fit the budget."""
    side = math.sqrt(_BUDGET / max(count, 1) / _BYTES_PER_PIXEL)
    return int(min(max(side, _SIDES[0]), _SIDES[1]))


class ImageStore:
    """Pictures by identifier; the same pixels (a ground truth shared by eleven degradations) are stored once."""

    def __init__(self, side: int) -> None:
        """Args: the longest side to keep; larger images are reduced, smaller ones stay as they are."""
        self.side = side
        self.uris: dict[str, str] = {}
        self._seen: dict[Path, tuple[str, int, int]] = {}

    def add(self, path: Path) -> tuple[str, int, int]:
        """Add an image file.

        Returns:
            (identifier, width, height), the size being that of the file.

        Raises:
            UserError: the file is not an image.
        """
        path = path.resolve()
        if path not in self._seen:
            pixels = read_rgb(path)
            name = hashlib.blake2b(pixels.tobytes() + bytes(str(pixels.shape), "ascii"), digest_size=8).hexdigest()
            if name not in self.uris:
                self.uris[name] = image_uri(Image.fromarray(pixels), self.side)
            self._seen[path] = name, pixels.shape[1], pixels.shape[0]
        return self._seen[path]


def image_uri(image: Image.Image, side: int) -> str:
    """Return a WebP data URI of an RGB image, reduced so that its longer side has at most ``side`` pixels."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
