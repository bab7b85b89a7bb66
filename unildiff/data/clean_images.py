"""Training and evaluation pairs from clean images alone: each is degraded as it is read.

Axis letters: C channels, H W pixels. Images are uint8 RGB; arrays are (H, W, C).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from unildiff.data.augment import Augment, centre_cut
from unildiff.data.batch import RestorationSample, SampleSet, make_sample
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
        """List the pairs of clean images, by name; each gets ``each`` of the degradations in turn, or all of them (0)."""
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


def vary_colour(image: np.ndarray, key: int, low: float, high: float) -> np.ndarray:
    """Return a uint8 (H, W, C) image with another saturation and tint, drawn from its key.

    The factor on the distance from grey is log-uniform between ``low`` and ``high``.

    Source: our choice. An autoencoder trained on images that are nearly grey learns to leave colour out.
    """
    rng = generator(key, "colour")
    factor = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    tint = np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    values = image.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    return np.asarray(np.clip((grey + factor * (values - grey)) * tint, 0, 255), dtype=np.uint8)


def fit_within(image: np.ndarray, longest: int, multiple: int = 1) -> np.ndarray:
    """Return an image whose long side has at most ``longest`` pixels, cut about the centre to a multiple in both sides."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return centre_cut(image, multiple)


def kind_of(file: Path) -> str:
    """Return the caption that a file's name gives: its stem without digits, ``snow field`` for ``snow_field-12.jpg``."""
    return " ".join(re.sub(r"[\d_\-.]+", " ", file.stem).split())


class CleanSource(Protocol):
    """Where clean training images come from: files or generated scenes."""

    pairs: Sequence[Pair]  # one per file, in ``gt``; none for images that are not in files

    def clean(self, item: int, key: int) -> Clean:
        """Return image ``item`` for the sample of a key."""
        ...


class ScaledFiles:
    """Images in files, each read at a random scale."""

    def __init__(self, pairs: Sequence[Pair], scale: tuple[float, float], crop: int) -> None:
        """Args: a pair per file, with its caption; bounds of the scale; the crop, which no image is made smaller than."""
        self.pairs = pairs
        self._scale, self._crop = scale, crop

    def clean(self, item: int, key: int) -> Clean:
        """See :class:`CleanSource`.

        Raises:
            UserError: the file cannot be read.
        """
        pair = self.pairs[item]
        assert pair.gt is not None
        image = read_rgb(pair.gt)
        height, width = image.shape[:2]
        factor = max(generator(key, "scale").uniform(*self._scale), min(1.0, self._crop / min(height, width)))
        if factor < 1:
            import cv2  # several times as fast as Pillow

            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        return Clean(image, None, pair.caption)


class CleanTrainSet:
    """Clean images at positions of an endless stream: cut, then degraded; a task is a degradation (:class:`EpochOrder`)."""

    def __init__(
        self,
        source: CleanSource,
        order: EpochOrder,
        augment: Augment,
        evening: float = 0.0,
        saturation: tuple[float, float] | None = None,
        estimated_depth: float = 0.0,
    ) -> None:
        """Set where samples come from and how they are made; the shares and bounds are those of ``DeadLeavesDataModule``."""
        self.pairs = source.pairs
        self._source, self._order, self._augment = source, order, augment
        self._evening, self._saturation, self._estimated_depth = evening, saturation, estimated_depth

    def __len__(self) -> int:
        return self._order.per_epoch

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position.

        Raises:
            UserError: the image cannot be read.
        """
        degradation, item, key = self._order(position)
        clean = self._source.clean(item, key)
        place = self._augment.place(clean.image.shape[0], clean.image.shape[1], key)
        gt, *depth = self._augment([clean.image] if clean.depth is None else [clean.image, clean.depth], key)
        if self._saturation is not None:
            gt = vary_colour(gt, key, *self._saturation)
        if degradation == tasks.CLEAR and generator(key, "dark").random() < self._evening:
            gt = lower_light(gt, key)
        known = depth and generator(key, "depth").random() >= self._estimated_depth
        lq = tasks.apply(gt, degradation, key, depth[0] if known else None)
        name = f"{self.pairs[item].name}_{key:016x}" if self.pairs else f"{key:016x}"
        return make_sample(lq, gt, clean.caption, degradation, name, key, place)


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
