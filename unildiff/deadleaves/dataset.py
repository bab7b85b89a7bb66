"""Sample sets over generated dead-leaves scenes.

Axis letters: C channels, H W pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unildiff.data.augment import Augment
from unildiff.data.batch import RestorationSample, image_tensor
from unildiff.data.clean_images import lower_light
from unildiff.data.datasets import EpochOrder
from unildiff.data.pair import Pair
from unildiff.deadleaves.renderer import Scene, render
from unildiff.degradations import tasks
from unildiff.degradations.tasks import CLEAR
from unildiff.utils.keys import generator, sample_key


def vary_colour(image: np.ndarray, key: int, low: float, high: float) -> np.ndarray:
    """Return a uint8 (H, W, C) picture with another saturation and tint, drawn from its key.

    Args:
        image: uint8 (H, W, C).
        key: of the sample.
        low: least factor on the distance from grey.
        high: largest one; the factor is log-uniform between them.

    Source: our choice. An autoencoder trained on pictures that are nearly grey learns to leave colour out.
    """
    rng = generator(key, "colour")
    factor = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    tint = np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    picture = image.astype(np.float32)
    grey = picture.mean(axis=2, keepdims=True)
    return np.asarray(np.clip((grey + factor * (picture - grey)) * tint, 0, 255), dtype=np.uint8)


class SceneSource(Protocol):
    """Where a scene comes from: rendered when asked for, or from the cache."""

    def scene(self, item: int, key: int) -> Scene:
        """Return scene ``item`` (of a finite store) or the scene of ``key`` (when there is no end of them)."""
        ...


@dataclass(frozen=True)
class Rendered:
    """Scenes rendered on demand: each key its own, so no two samples of a run share a scene."""

    side: int

    def scene(self, item: int, key: int) -> Scene:
        """See :class:`SceneSource`."""
        return render(sample_key("train", key), self.side)


class SceneTrainSet:
    """Degraded scenes at positions of an endless stream; a task is a degradation (see :class:`EpochOrder`)."""

    def __init__(
        self,
        source: SceneSource,
        order: EpochOrder,
        augment: Augment,
        saturation: tuple[float, float],
        estimated_depth: float,
        evening: float,
    ) -> None:
        """Set where samples come from and what becomes of them.

        Args:
            source: the scenes.
            order: of degradations and scenes.
            augment: crops and turns.
            saturation: bounds of the saturation's factor.
            estimated_depth: share of samples whose haze follows an estimated depth.
            evening: share of the clear samples whose scene is dark.
        """
        self.pairs: list[Pair] = []  # nothing of it lies in files
        self._saturation = saturation
        self._estimated_depth = estimated_depth
        self._evening = evening
        self._source = source
        self._order = order
        self._augment = augment

    def __len__(self) -> int:
        return self._order.per_epoch

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position; it is cut first and degraded then."""
        degradation, item, key = self._order(position)
        scene = self._source.scene(item, key)
        original_size, crop = self._augment.place(scene.image.shape[0], scene.image.shape[1], key)
        gt, depth = self._augment([scene.image, scene.depth], key)
        gt = vary_colour(gt, key, *self._saturation)
        if degradation == CLEAR and generator(key, "dark").random() < self._evening:
            gt = lower_light(gt, key)
        estimated = generator(key, "depth").random() < self._estimated_depth
        lq = tasks.apply(gt, degradation, key, None if estimated else depth)
        return {
            "lq": image_tensor(lq),
            "gt": image_tensor(gt),
            "caption": scene.caption,
            "degradation": degradation,
            "name": f"{key:016x}",
            "key": key,
            "original_size": original_size,
            "crop": crop,
        }
