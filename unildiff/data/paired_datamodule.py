"""The datamodule of image pairs: training, validation on held-out or separate pairs, and tests."""

import logging
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unildiff.data.captions import Captions
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import Degrader, EpochOrder, EvalSet, TrainSet
from unildiff.data.pair import OnError, Pair, PairSource, Split, files_of
from unildiff.data.sharding import rank_and_world
from unildiff.data.sources import View, readable
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.validation import NonNegativeFloat, NonNegativeInt, PixelCount, PositiveInt, check_arguments

if TYPE_CHECKING:
    from unildiff.data.pack import Pack

_LOG = logging.getLogger(__name__)


class PairedDataModule(RestorationDataModule):
    """Pairs on disk or in a pack.

    A subclass finds the pairs of a split (:meth:`find`) and whether there are validation pairs (:meth:`has_val`).
    It may drop or multiply pairs in :meth:`choose`, and make degraded images itself in :meth:`degrader`.

    Attributes:
        dataset: name under which a pack must hold it.
        captions_above: look for ``captions.jsonl`` in the folders above the data, too.
        most_held_out: how many scenes of each task are held out for validation by default.
        held_out_share: and at most this share of them.
    """

    dataset: ClassVar[str]
    captions_above: ClassVar[bool] = False
    most_held_out: ClassVar[int] = 4
    held_out_share: ClassVar[float] = 0.05

    def __init__(
        self,
        root: str,
        weights: dict[str, NonNegativeFloat] | None = None,
        samples_per_epoch: PositiveInt | None = None,
        val_scenes: NonNegativeInt | None = None,
        val_crop: PixelCount | None = 512,
        on_error: OnError = "raise",
        captions: str | None = None,
        packed: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose what is read.

        Args:
            root: folder of the dataset.
            weights: how often each task is drawn, 1 where none is given, so by default all equally often.
            samples_per_epoch: by default the number of training pairs.
            val_scenes: ground-truth images held out of training, with all their degraded ones, for validation, where the
                dataset has no validation images of its own; 0 holds out none. By default a few of each task.
            val_crop: longest side of the validation images in pixels, the centre of larger ones (our choice: the paper's
                crop size); null validates on complete images.
            on_error: "raise" stops at files without a partner, repeated names, unequal sizes and broken files; "skip"
                reports them and continues without them.
            captions: captions file, its names relative to its own folder or to that of the data; by default the
                ``captions.jsonl`` beside the data. With ``packed`` it replaces the captions in the pack.
            packed: folder made by ``unildiff data pack``, read instead of the images.
            kwargs: see the base class.
        """
        check_arguments(PairedDataModule, locals())
        super().__init__(**kwargs)
        self.root = Path(root)
        self.weights = weights
        self.samples_per_epoch = samples_per_epoch
        self.val_scenes = val_scenes
        self.val_crop = val_crop
        self.on_error: OnError = on_error
        self.captions = captions
        self.packed = None if packed is None else Path(packed)
        self._train_source: PairSource | None = None

    # What subclasses define.

    @abstractmethod
    def find(self, split: Split) -> PairSource:
        """Return the pairs of a split.

        Raises:
            UserError: there are none, or something is wrong with them.
        """

    @abstractmethod
    def has_val(self) -> bool:
        """Return whether the dataset has validation pairs of its own."""

    def choose(self, source: PairSource, split: Split) -> PairSource:
        """Return the pairs to use: some of ``source``, or several of one (a noise level each)."""
        return source

    def degrader(self, split: Split, source: PairSource) -> Degrader | None:
        """Return what makes the degraded images that are not on disk."""
        return None

    def scene(self, pair: Pair) -> str:
        """Return what the pairs of one scene have in common; they are held out together."""
        assert pair.gt is not None  # only images to restore have none
        return f"{pair.gt.parent.name}/{pair.gt.name}"

    def caption_folders(self) -> list[Path]:
        """Return where the captions of files may lie."""
        return [self.root]

    # The sets.

    def train_set(self) -> TrainSet:
        """See the base class."""
        source = self._training_pairs()
        held = self._held_out(source)
        if held:
            kept = [(i, pair) for i, pair in enumerate(source.pairs) if self.scene(pair) not in held]
            if rank_and_world()[0] == 0:
                out = f"{len(held)} of {len({self.scene(pair) for pair in source.pairs}):,} scenes"
                _LOG.warning("validation: %s held out of training (set --data.val_scenes 0 to train on all)", out)
            source = View(source, kept)
        source = self.choose(source, "train")
        tasks: dict[str, list[tuple[int, Pair]]] = {}
        for index, pair in enumerate(source.pairs):
            tasks.setdefault(pair.task, []).append((index, pair))
        order = EpochOrder(
            {task: len(picks) for task, picks in tasks.items()},
            self.weights,
            len(source) if self.samples_per_epoch is None else self.samples_per_epoch,
            self.seed,
        )
        views = {task: View(source, picks) for task, picks in tasks.items()}
        captions = self._captions("train", source)
        return TrainSet(views, order, self.augment, captions, self.degrader("train", source), self.on_error)

    def val_set(self) -> EvalSet | None:
        """See the base class: the dataset's own validation pairs, or else those held out of training."""
        if self.has_val():
            return self._eval_set(self.find("val"), "val")
        if self.val_scenes == 0:
            return None
        source = self._training_pairs()
        held = self._held_out(source)
        picks = [(i, pair) for i, pair in enumerate(source.pairs) if self.scene(pair) in held]
        if self.val_scenes is None:  # of several degraded images of a scene the first one: a small set
            first: dict[tuple[str, str], tuple[int, Pair]] = {}
            for index, pair in picks:
                first.setdefault((pair.degradation, self.scene(pair)), (index, pair))
            picks = list(first.values())
        return self._eval_set(View(source, picks), "val") if picks else None

    def test_set(self) -> EvalSet:
        """See the base class."""
        return self._eval_set(self.find("test"), "test")

    def state_dict(self) -> dict[str, Any]:
        """See the base class; checkpoints also say that scenes may be held out by default."""
        return {**super().state_dict(), "holds_out": True}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See the base class. A run of an earlier release trained on all pairs by default, and resumes on all."""
        super().load_state_dict(state_dict)
        if "holds_out" not in state_dict and self.val_scenes is None and "train" in self._sets and not self.has_val():
            self.val_scenes = 0
            self._sets |= {"train": self.train_set(), "val": None}
            _LOG.warning("validation: the run that is resumed held out no scenes, so it has nothing to validate on")

    def open_pack(self) -> "Pack":
        """Return the pack that is read instead of files.

        Raises:
            UserError: it is of another dataset, or damaged.
        """
        from unildiff.data.pack import Pack

        assert self.packed is not None
        pack = Pack(self.packed)
        if pack.dataset != self.dataset:
            raise UserError(
                f"packed: {self.packed} is a pack of {pack.dataset}, not {self.dataset}; give --data {pack.dataset}"
            )
        return pack

    def _training_pairs(self) -> PairSource:
        if self._train_source is None:
            self._train_source = self.find("train")
        return self._train_source

    def _eval_set(self, source: PairSource, split: Split) -> EvalSet:
        source = self.choose(source, split)
        if self.on_error == "skip" and self.packed is None:
            source = readable(source, self.skipped)
        crop = self.val_crop if split == "val" else None
        return EvalSet(source, self._captions(split, source), self.test_seed, self.degrader(split, source), crop)

    def _held_out(self, source: PairSource) -> set[str]:
        """Return the scenes that are held out of training for validation, the same at every run."""
        if self.val_scenes == 0 or self.has_val():
            return set()
        by_task: dict[str, set[str]] = {}
        for pair in source.pairs:
            by_task.setdefault(pair.task, set()).add(self.scene(pair))
        if self.val_scenes is None:
            return {
                scene for scenes in by_task.values() for scene in _drawn(scenes, self.default_held_out(len(scenes)))
            }
        scenes = set[str]().union(*by_task.values())
        if self.val_scenes >= len(scenes):
            raise UserError(
                f"val_scenes is {self.val_scenes}, but the dataset has only {len(scenes)} scenes, so none would be left for "
                "training; use a smaller number"
            )
        return set(_drawn(scenes, self.val_scenes))

    def default_held_out(self, scenes: int) -> int:
        """Return how many of a task's scenes are held out where ``val_scenes`` does not say."""
        return min(self.most_held_out, int(scenes * self.held_out_share))

    def _captions(self, split: Split, source: PairSource) -> Captions:
        folders = self.caption_folders() if self.packed is None else [self.packed]
        if self.captions is None:
            return Captions.find(folders, upwards=self.packed is None and self.captions_above)
        return Captions.given(Path(self.captions), folders, files_of(source), needed=split in ("train", "predict"))


def _drawn(scenes: Iterable[str], count: int) -> list[str]:
    return sorted(scenes, key=lambda scene: sample_key("held out", scene))[:count]
