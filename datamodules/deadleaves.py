"""Generated training images under CDD-11's degradations; validation on photographs. Nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from unildiff.data.captions import Captions
from unildiff.data.clean_images import Clean, CleanTrainSet, MadePairs
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import EpochOrder, EvalSet
from unildiff.data.shipped_photographs import load, photographs
from unildiff.deadleaves.cache import Rendered, SceneCache
from unildiff.deadleaves.renderer import MIN_SIDE, VERSION, render
from unildiff.degradations.names import DEGRADATIONS
from unildiff.degradations.tasks import CLEAR, MADE_BY, check_tasks
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.validation import (
    NonNegativeFloat,
    PixelCount,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    Share,
    check_arguments,
)

_VAL_SIZE = 12  # below it a photograph of 640x427 keeps no 8 pixels of its height


class DeadLeavesDataModule(RestorationDataModule):
    """Dead-leaves scenes (:mod:`unildiff.deadleaves.renderer`) degraded on the fly (:mod:`unildiff.degradations.cdd11`).

    Training: a new scene for each sample, or ``count`` scenes from a cache on disk. Validation: the three validation
    photographs under each degradation, the same at every run. Test: scenes that are never trained on.
    """

    protocol: ClassVar[str] = "onerestore"

    def __init__(
        self,
        crop_size: PixelCount = 128,
        picture_size: PixelCount | None = None,
        count: PositiveInt = 20000,
        cache: str | None = None,
        scene_seed: Seed = 0,
        degradations: list[str] | None = None,
        weights: dict[str, NonNegativeFloat] | None = None,
        saturation: tuple[PositiveFloat, PositiveFloat] = (0.6, 1.6),
        estimated_depth: Share = 0.6,
        evening: Share = 0.0,
        val_size: Annotated[int, Range(_VAL_SIZE, 65_536)] = 256,
        test_count: PositiveInt = 10,
        **kwargs: Any,
    ) -> None:
        """Choose the scenes.

        Args:
            crop_size: side of a training image in pixels.
            picture_size: side of the scenes that are cut, at least 16; by default the crop's, so that nothing is cut away.
            count: scenes in the cache, and samples an epoch.
            cache: folder that keeps the rendered scenes, on a disk of this machine; without it each sample renders a scene of
                its own.
            scene_seed: seed of the cached scenes; separate from ``seed``, so that runs with other seeds share a cache.
            degradations: which to draw from, see :mod:`unildiff.degradations.tasks`; by default CDD-11's eleven.
            weights: how often each is drawn, 1 where none is given.
            saturation: bounds of a random factor on the distance of training colours from grey.
            estimated_depth: share of training samples whose haze follows a depth estimated from the image, as it does
                on photographs without a depth map, and not the scene's exact one.
            evening: share of the clear training samples whose scene is dark and stays so. Only clear ones are: under haze a
                dark scene and one that has lost its light look alike.
            val_size: long side of the validation photographs in pixels, at least 12; sides are multiples of 8.
            test_count: test scenes a degradation.
            kwargs: see the base class.
        """
        check_arguments(DeadLeavesDataModule, locals())
        super().__init__(crop_size=crop_size, **kwargs)
        if saturation[0] > saturation[1]:
            raise UserError(f"saturation is {saturation}; the first factor must not be larger than the second")
        self.degradations: Sequence[str] = DEGRADATIONS if degradations is None else degradations
        check_tasks("degradations", self.degradations)
        if evening and CLEAR not in self.degradations:
            raise UserError(f"evening: {evening} of the clear samples, but degradations has no {CLEAR}; add it")
        self.side = crop_size if picture_size is None else picture_size
        if self.side < max(MIN_SIDE, crop_size):
            raise UserError(f"picture_size: {self.side}; give at least crop_size ({crop_size}) and {MIN_SIDE}")
        self.count = count
        self.weights = weights
        self.saturation = saturation
        self.estimated_depth = estimated_depth
        self.evening = evening
        self.cache = None if cache is None else SceneCache(Path(cache), scene_seed, self.side, count)
        self.val_size = val_size
        self.test_count = test_count

    def prepare_data(self) -> None:
        """Render what the cache lacks; once a machine."""
        if self.cache is not None:
            self.cache.make()

    def train_set(self) -> CleanTrainSet:
        """Return the degraded scenes."""
        order = EpochOrder(dict.fromkeys(self.degradations, self.count), self.weights, self.count, self.seed)
        source = self.cache or Rendered(self.side)
        return CleanTrainSet(source, order, self.augment, self.evening, self.saturation, self.estimated_depth)

    def val_set(self) -> EvalSet:
        """Return the validation photographs under each degradation."""
        clean = {photo.name: Clean(*load(photo, self.val_size, 8), photo.caption) for photo in photographs("val")}
        return EvalSet(MadePairs(clean, self.degradations, self.test_seed), Captions({}), self.test_seed)

    def test_set(self) -> EvalSet:
        """Return unseen scenes under each degradation."""
        clean = {}
        for number in range(self.test_count):
            scene = render(sample_key("test", self.test_seed, number), self.side)
            clean[f"scene{number:04d}"] = Clean(scene.image, scene.depth, scene.caption)
        return EvalSet(MadePairs(clean, self.degradations, self.test_seed), Captions({}), self.test_seed)

    def contents(self) -> list[str]:
        """See the base class."""
        lines = [*super().contents(), f"scenes of side {self.side}, renderer {VERSION}, {MADE_BY}: {self.degradations}"]
        if "train" in self._sets:
            lines += [
                f"scenes {'of their own' if self.cache is None else self.cache.made_of}",
                f"{self.count} an epoch, seed {self.seed}, weights {self.weights}, evening {self.evening}",
                f"saturation {self.saturation}, estimated depth {self.estimated_depth}",
            ]
        return [*lines, f"photographs of {self.val_size} pixels"] if "val" in self._sets else lines
