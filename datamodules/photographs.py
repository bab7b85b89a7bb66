"""Any folder of clean images as training data: degraded on the fly, mixed with generated scenes if wanted."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from unildiff.data.batch import SampleSet
from unildiff.data.captions import Captions
from unildiff.data.clean_images import Clean, CleanTrainSet, MadePairs, MixedTrainSet, ScaledFiles, fit_within, kind_of
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import EpochOrder, EvalSet
from unildiff.data.images import list_images, read_rgb
from unildiff.data.pair import Pair
from unildiff.data.shipped_photographs import load, photographs
from unildiff.deadleaves.cache import SceneCache
from unildiff.deadleaves.renderer import MIN_SIDE, VERSION
from unildiff.degradations.tasks import CLEAR, EVALUATED, MADE_BY, TASKS, check_tasks
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder
from unildiff.utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PixelCount,
    PositiveInt,
    Range,
    Seed,
    Share,
    check_arguments,
)


class PhotographsDataModule(RestorationDataModule):
    """Clean images below ``root``, each sample under one of the degradations of :mod:`unildiff.degradations.tasks`.

    Only clean images are needed. Haze follows a depth estimated from the image. Validation and test: the images below
    ``val_root`` (if given) and the three photographs that installed packages ship, always degraded in the same way.
    """

    protocol: ClassVar[str] = "onerestore"

    def __init__(
        self,
        root: str = "data/photographs",
        crop_size: PixelCount = 128,
        scale: tuple[Share, Share] = (0.45, 1.0),
        degradations: list[str] | None = None,
        weights: dict[str, NonNegativeFloat] | None = None,
        count: PositiveInt = 10000,
        evening: Share = 0.0,
        captions: str | None = None,
        captions_from_names: bool = False,
        scenes: Share = 0.0,
        scene_size: PixelCount | None = None,
        scene_count: PositiveInt = 12000,
        scene_cache: str | None = None,
        scene_seed: Seed = 0,
        val_root: str | None = None,
        val_shipped: bool = True,
        val_size: Annotated[int, Range(12, 65_536)] = 384,
        val_degradations: list[str] | None = None,
        val_each: NonNegativeInt = 0,
        **kwargs: Any,
    ) -> None:
        """Choose images, degradations and the share of generated scenes.

        Args:
            root: folder of clean images to train on; folders below it are read too.
            crop_size: side of a training crop in pixels.
            scale: bounds of the random scale of an image before it is cut; never smaller than the crop.
            degradations: which to draw from; by default all of ``TASKS``.
            weights: how often each is drawn, relative to 1 for those not named.
            count: samples per epoch.
            evening: share of the clear samples that are made dark and stay so.
            captions: captions file; by default ``captions.jsonl`` in ``root``.
            captions_from_names: use a file's name without digits as its caption (``forest12.jpg``: ``forest``).
            scenes: share of samples that are generated scenes.
            scene_size: side of the generated scenes, at least 16; by default the crop's.
            scene_count: number of scenes in the cache.
            scene_cache: folder that keeps the generated scenes, on a disk of this machine; required with ``scenes``.
            scene_seed: seed of the scenes.
            val_root: folder of clean images to validate and test on.
            val_shipped: validate on the three photographs that installed packages ship, too.
            val_size: longest side of a validation image in pixels; sides are multiples of 8.
            val_degradations: which to validate and test on; by default all of ``EVALUATED``.
            val_each: number of degradations per validation image, in turn; 0 means all. Tests always use all.
            kwargs: see the base class.
        """
        check_arguments(PhotographsDataModule, locals())
        super().__init__(crop_size=crop_size, **kwargs)
        self.degradations = list(TASKS) if degradations is None else degradations
        self.val_degradations = list(EVALUATED) if val_degradations is None else val_degradations
        check_tasks("degradations", self.degradations)
        check_tasks("val_degradations", self.val_degradations)
        if evening and CLEAR not in self.degradations:
            raise UserError(f"evening is {evening}, a share of the clear samples; add {CLEAR} to degradations")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"scale is {scale}; give two factors above 0 and at most 1, the smaller first")
        if scenes and scene_cache is None:
            raise UserError(f"scenes is {scenes}; give --data.scene_cache, the folder that keeps generated scenes")
        side = crop_size if scene_size is None else scene_size
        if scenes and side < max(MIN_SIDE, crop_size):
            raise UserError(f"scene_size is {side}; give at least crop_size ({crop_size}) and {MIN_SIDE}")
        if val_each > len(self.val_degradations):
            raise UserError(f"val_each is {val_each}; there are {len(self.val_degradations)} val_degradations")
        self.root, self.val_root = Path(root), None if val_root is None else Path(val_root)
        self.scale, self.weights, self.count, self.evening = scale, weights, count, evening
        self.captions, self.captions_from_names = captions, captions_from_names
        self.scenes = scenes
        self.cache = SceneCache(Path(scene_cache), scene_seed, side, scene_count) if scenes and scene_cache else None
        self.val_shipped, self.val_size, self.val_each = val_shipped, val_size, val_each

    def prepare_data(self) -> None:
        """Render the scenes that the cache lacks; once per machine."""
        if self.cache is not None:
            self.cache.make()

    def train_set(self) -> SampleSet:
        """Return the degraded images, mixed with scenes.

        Raises:
            UserError: the folder is missing or holds no images.
        """
        pairs = self._clean_pairs(self.root, "the clean images to train on (--data.root)", self.captions)
        order = EpochOrder(dict.fromkeys(self.degradations, len(pairs)), self.weights, self.count, self.seed)
        images = CleanTrainSet(ScaledFiles(pairs, self.scale, self.augment.crop), order, self.augment, self.evening)
        if self.cache is None:
            return images
        number = self.cache.made_of["count"]
        order = EpochOrder(dict.fromkeys(self.degradations, number), self.weights, self.count, self.seed)
        scenes = CleanTrainSet(self.cache, order, self.augment, self.evening, (0.6, 1.6), 0.6)
        return MixedTrainSet(images, scenes, self.scenes, self.seed)

    def val_set(self) -> EvalSet:
        """Return the validation images, each under ``val_each`` degradations."""
        return self._eval_set(self.val_each)

    def test_set(self) -> EvalSet:
        """Return the validation images under every degradation."""
        return self._eval_set(0)

    def contents(self) -> list[str]:
        """See the base class."""
        lines = [*super().contents(), f"{MADE_BY}, {self.val_degradations}, {self.val_size} pixels"]
        if "train" in self._sets:
            lines += [
                f"{self.degradations} {self.weights} scale {self.scale} evening {self.evening}",
                f"{self.count} per epoch, seed {self.seed}, captions {self.captions} {self.captions_from_names}",
                f"scenes {self.scenes} {None if self.cache is None else self.cache.made_of} renderer {VERSION}",
            ]
        return lines

    def _eval_set(self, each: int) -> EvalSet:
        clean: dict[str, Clean] = {}
        if self.val_root is not None:
            for pair in self._clean_pairs(self.val_root, "the images to validate on (--data.val_root)"):
                assert pair.gt is not None
                clean[pair.name] = Clean(fit_within(read_rgb(pair.gt), self.val_size, 8), None, pair.caption)
        if self.val_shipped:
            for photo in photographs("val"):
                image, depth = load(photo, self.val_size, 8)
                clean[photo.name] = Clean(image, depth, photo.caption)
        if not clean:
            raise UserError("no images to validate on; give --data.val_root, or --data.val_shipped true")
        return EvalSet(MadePairs(clean, self.val_degradations, self.test_seed, each), Captions({}), self.test_seed)

    def _clean_pairs(self, folder: Path, purpose: str, captions_file: str | None = None) -> list[Pair]:
        files = list_images(input_folder(folder, purpose), recursive=True)
        if not files:
            raise UserError(f"{folder} holds no images; it must hold {purpose}")
        if captions_file is None:
            captions = Captions.find([folder])
        else:
            captions = Captions.given(Path(captions_file), [folder], files)
        pairs, names = [], set[str]()
        for file in files:
            name = file.relative_to(folder).with_suffix("").as_posix().replace("/", "_")
            if name in names:
                raise UserError(f"two images in {folder} are named {name}; rename one of them")
            names.add(name)
            caption = captions.of(file) or (kind_of(file) if self.captions_from_names else "")
            pairs.append(Pair(CLEAR, CLEAR, name, None, file, caption))
        return pairs
