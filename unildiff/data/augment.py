"""Crops, flips and rotations, the same on every image of a sample.

Arrays are (H, W, ...) and share H and W; the random draws come from the sample's key alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unildiff.utils.keys import generator
from unildiff.utils.store import prefetch


@dataclass(frozen=True)
class Augment:
    """How training images are cut and turned.

    Attributes:
        crop: side of the square crop in pixels (512 in the paper).
        hflip: flip left-right half of the time (the authors' only augmentation).
        vflip: flip upside down half of the time.
        rotate: turn by 0, 90, 180 or 270 degrees, each equally often.
    """

    crop: int
    hflip: bool = True
    vflip: bool = False
    rotate: bool = False

    def __call__(self, arrays: Sequence[np.ndarray], key: int) -> list[np.ndarray]:
        """Return the crops, contiguous copies of side ``crop``, all cut and turned alike.

        Raises:
            ValueError: the arrays differ in height or width.
        """
        if len({array.shape[:2] for array in arrays}) != 1:
            raise ValueError(f"images of a sample differ in size: {[array.shape for array in arrays]}")
        top, left, hflip, vflip, turns = self._draw(arrays[0].shape[0], arrays[0].shape[1], key)
        views = [array[top : top + self.crop, left : left + self.crop] for array in arrays]
        prefetch(views)
        return [self._turn(self._pad(view), hflip, vflip, turns) for view in views]

    def place(self, height: int, width: int, key: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the size of the flipped and turned original, and the crop's top and left pixel in it.

        That is what SDXL's own training feeds as size conditioning: its images are flipped first and cropped then.
        """
        top, left, hflip, vflip, turns = self._draw(height, width, key)
        below, right = max(height - self.crop - top, 0), max(width - self.crop - left, 0)
        if hflip:
            left, right = right, left
        if vflip:
            top, below = below, top
        for _ in range(turns):  # a quarter counterclockwise: the right edge becomes the top one
            top, left, below, right = right, top, left, below
        return (width, height) if turns % 2 else (height, width), (top, left)

    def _draw(self, height: int, width: int, key: int) -> tuple[int, int, bool, bool, int]:
        """Return the crop's top and left pixel in the image as stored, the flips, and the quarter turns."""
        draw = generator(key, "crop")
        top = int(draw.integers(max(height - self.crop, 0) + 1))
        left = int(draw.integers(max(width - self.crop, 0) + 1))
        hflip, vflip = draw.random(2) < 0.5
        turns = int(draw.integers(4)) if self.rotate else 0
        return top, left, bool(self.hflip and hflip), bool(self.vflip and vflip), turns

    def _pad(self, array: np.ndarray) -> np.ndarray:
        """Reflect an image that is smaller than the crop, as often as needed."""
        below, right = self.crop - array.shape[0], self.crop - array.shape[1]
        if below <= 0 and right <= 0:
            return array
        return np.pad(
            array,
            [(0, below), (0, right)] + [(0, 0)] * (array.ndim - 2),
            mode="edge" if 1 in array.shape[:2] else "reflect",
        )

    @staticmethod
    def _turn(array: np.ndarray, hflip: bool, vflip: bool, turns: int) -> np.ndarray:
        """Return a contiguous copy, flipped, then turned counterclockwise by quarters; in as few passes as it takes."""
        odd = turns % 2 == 1
        if odd:  # a transposition and a flip; flips before a transposition are the other flips after it
            hflip, vflip = vflip != (turns == 3), hflip != (turns == 1)
        elif turns == 2:
            hflip, vflip = not hflip, not vflip
        if not (odd or hflip or vflip):
            return np.ascontiguousarray(array)
        import cv2  # numpy's copy of a turned view takes four times as long (flips, measured), or eight (quarters)

        if odd:
            array = np.asarray(cv2.transpose(array))
        return np.asarray(cv2.flip(array, -1 if hflip and vflip else int(hflip))) if hflip or vflip else array


def centre_cut(image: np.ndarray, multiple: int) -> np.ndarray:
    """Return a contiguous array of the central part whose sides are multiples of ``multiple``."""
    height, width = image.shape[:2]
    top, left = height % multiple // 2, width % multiple // 2
    return np.ascontiguousarray(image[top : top + height - height % multiple, left : left + width - width % multiple])
