"""Training and evaluation pairs from clean images alone: each is degraded as it is read.

Axis letters: C channels, H W pixels. Images are uint8 RGB; arrays are (H, W, C).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unildiff.data.augment import Augment
from unildiff.data.batch import RestorationSample, SampleSet, image_tensor
from unildiff.data.datasets import EpochOrder
from unildiff.data.images import read_rgb
from unildiff.data.pair import Pair, Which
from unildiff.degradations import tasks
from unildiff.utils.keys import generator, sample_key


@dataclass(frozen=True)
class Clean:
    """A clean image, uint8 (H, W, C), its depth, float32 (H, W) in [0, 1] or None, and its caption."""

    image: np.ndarray
    depth: np.ndarray | None
    caption: str


class MadePairs:
    """Some clean images, each under several degradations, which are applied when a pair is read."""

    def __init__(self, clean: Mapping[str, Clean], degradations: Sequence[str], seed: int, each: int = 0) -> None:
        """List the pairs.

        Args:
            clean: clean images by name.
            degradations: their names.
            seed: of the degradations' random numbers.
            each: how many of the degradations each image gets, in turn; 0: all of them.
        """
        total = len(degradations)
        self.pairs = [
            Pair(degradation, degradation, name, None, None, clean[name].caption)
            for number, degradation in enumerate(degradations)
            for image, name in enumerate(clean)
            if (number - image * each) % total < (each or total)
        ]
        self._clean = clean
        self._seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, which: Which) -> np.ndarray:
        """See :class:`unildiff.data.pair.PairSource`."""
        pair = self.pairs[index]
        clean = self._clean[pair.name]
        if which == "gt":
            return clean.image
        return tasks.apply(
            clean.image, pair.degradation, sample_key(self._seed, pair.name, pair.degradation), clean.depth
        )


def lower_light(image: np.ndarray, key: int) -> np.ndarray:
    """Return a uint8 (H, W, C) image as of a dark evening, J max(J)^(g - 1) with g from 1.2 to 3, drawn from the key.

    J is the image in [0, 1], max(J) the brightest channel of a pixel.

    Source: our choice. It is CDD-11's low light with the image's own brightness as light map and without noise, so that
    noise and not darkness tells a degraded image from a dark scene.
    """
    gamma = np.float32(generator(key, "evening").uniform(1.2, 3))
    values = image.astype(np.float32)
    brightest = values.max(axis=2, keepdims=True) / 255
    return np.asarray(np.rint(values * brightest ** (gamma - 1)), dtype=np.uint8)


def fit_within(image: np.ndarray, longest: int, multiple: int = 1) -> np.ndarray:
    """Return an image whose long side has at most ``longest`` pixels, cut about the centre to a multiple in both sides."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    height, width = image.shape[:2]
    top, left = height % multiple // 2, width % multiple // 2
    return np.ascontiguousarray(
        image[top : top + height // multiple * multiple, left : left + width // multiple * multiple]
    )


def kind_of(file: Path) -> str:
    """Return the caption that a file's name gives: its stem without digits, ``snow field`` for ``snow_field-12.jpg``."""
    return " ".join(re.sub(r"[\d_\-.]+", " ", file.stem).split())


class CleanTrainSet:
    """Clean files at positions of an endless stream: scaled, cut, degraded (a task is a degradation)."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        order: EpochOrder,
        augment: Augment,
        scale: tuple[float, float] = (1.0, 1.0),
        evening: float = 0.0,
    ) -> None:
        """Set where samples come from and how they are made.

        Args:
            pairs: one for each file, in ``gt``, with its caption.
            order: of degradations and files.
            augment: crops and flips.
            scale: bounds of the random scale. An image is never made smaller than the crop.
            evening: share of the clear samples that are made dark and stay so.
        """
        self.pairs = pairs
        self._order, self._augment = order, augment
        self._scale, self._evening = scale, evening

    def __len__(self) -> int:
        return self._order.per_epoch

    def listed_captions(self) -> set[str]:
        """Return every caption that a sample can have."""
        return {pair.caption for pair in self.pairs}

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position.

        Raises:
            UserError: the file cannot be read.
        """
        degradation, item, key = self._order(position)
        pair = self.pairs[item]
        assert pair.gt is not None
        image = self._scaled(read_rgb(pair.gt), key)
        original_size, crop = self._augment.place(image.shape[0], image.shape[1], key)
        (gt,) = self._augment([image], key)
        if degradation == tasks.CLEAR and generator(key, "dark").random() < self._evening:
            gt = lower_light(gt, key)
        return {
            "lq": image_tensor(tasks.apply(gt, degradation, key)),
            "gt": image_tensor(gt),
            "caption": pair.caption,
            "degradation": degradation,
            "name": f"{pair.name}_{key:016x}",
            "key": key,
            "original_size": original_size,
            "crop": crop,
        }

    def _scaled(self, image: np.ndarray, key: int) -> np.ndarray:
        height, width = image.shape[:2]
        factor = max(generator(key, "scale").uniform(*self._scale), min(1.0, self._augment.crop / min(height, width)))
        if factor >= 1:
            return image
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        import cv2  # several times as fast as Pillow

        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


class MixedTrainSet:
    """Two endless streams in one: a share of the positions takes its sample from the second."""

    def __init__(self, first: SampleSet, second: SampleSet, share: float, seed: int) -> None:
        """Set the streams, of equal length an epoch, the share of the second, and the seed of the choice."""
        self._first, self._second, self._share, self._seed = first, second, share, seed

    @property
    def pairs(self) -> list[Pair]:
        """What of both lies in files."""
        return [*self._first.pairs, *self._second.pairs]

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position."""
        draw = generator(sample_key(self._seed, "mixed", position), "source").random()
        chosen = self._second if draw < self._share else self._first
        return chosen[position]  # type: ignore[return-value]
