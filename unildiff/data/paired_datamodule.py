"""The datamodule of sets that lie on disk in one of the known layouts, or packed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from unildiff.data.captions import Captions
from unildiff.data.catalogue import dataset
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import Degrader, EpochOrder, EvalSet, OnError, Reader, TrainSet
from unildiff.data.images import read_rgb
from unildiff.data.layouts import PictureSet, SeveralLayouts, is_there, sample_of
from unildiff.data.pair import Pair, PairSource, Split, files_of
from unildiff.data.sources import View, disk_source, readable, report
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key

if TYPE_CHECKING:
    from unildiff.data.pack import Pack


class PairedDataModule(RestorationDataModule):
    """Pairs of one data set of :mod:`unildiff.data.catalogue`, whose layouts are recognised by themselves.

    A subclass says which data set, and may narrow or widen what is read in :meth:`pictures`, from files and from a pack
    alike, and give pairs other descriptions in :meth:`choose`.
    """

    dataset: ClassVar[str]

    def __init__(
        self,
        root: str | None = None,
        folders: dict[str, str] | None = None,
        layout: str | None = None,
        weights: dict[str, float] | None = None,
        samples_per_epoch: int | None = None,
        val_scenes: int = 0,
        on_error: OnError = "raise",
        captions: str | None = None,
        packed: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose what is read.

        Args:
            root: folder of the data set; by default ``data/`` and the set's short name.
            folders: another folder for some of the sets, e.g. ``{haze: /data/RESIDE}``.
            layout: take this layout where several lie in one folder; see ``unildiff data layout NAME``.
            weights: how often each task is drawn, 1 where none is given, so by default all equally often.
            samples_per_epoch: by default the number of training pairs.
            val_scenes: clean pictures held out of training, with all their degraded ones, for validation; only used
                where a set has no validation pictures of its own.
            on_error: "raise" stops at files without a partner, double names, unequal sizes and broken files; "skip"
                reports them and goes on without.
            captions: captions file, its names relative to its own folder or to that of the data; by default the
                ``captions.jsonl`` beside the data. With ``packed`` it replaces the captions in the pack.
            packed: folder made by ``unildiff data pack``, read instead of the pictures.
            kwargs: see the base class.
        """
        super().__init__(**kwargs)
        self.root = Path(root or f"data/{self.dataset}")
        self.folders = {name: Path(folder) for name, folder in (folders or {}).items()}
        known = dataset(self.dataset)
        names = [pictures.name for pictures in (*known.sets, *known.optional)]
        if unknown := sorted(set(self.folders) - set(names)):
            raise UserError(f"folders: {self.dataset} has no set {', '.join(unknown)}; it has {', '.join(names)}")
        if val_scenes < 0:
            raise UserError(f"val_scenes: {val_scenes}; give 0, or how many scenes to hold out")
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise UserError(f"samples_per_epoch: {samples_per_epoch}; give at least 1, or none for the number of pairs")
        self.layout = layout
        self.weights = weights
        self.samples_per_epoch = samples_per_epoch
        self.val_scenes = val_scenes
        self.on_error: OnError = on_error
        self.captions = captions
        self.packed = None if packed is None else Path(packed)
        self.reader: Reader = read_rgb

    @property
    def is_sample(self) -> bool:
        """Whether any test pictures are a sample set written by ``unildiff data sample``, not the real data."""
        if self.packed is not None:
            return self._pack().sample is not None
        return any(sample_of(self.folders.get(s.name, self.root)) is not None for s in self.pictures("test"))

    # What subclasses may change.

    def pictures(self, split: Split) -> Sequence[PictureSet]:
        """Return the sets to read."""
        return dataset(self.dataset).sets

    def choose(self, source: PairSource, split: Split) -> PairSource:
        """Return the pairs of ``source``, all of sets that are read: some of them, or several of one (a noise level each)."""
        return source

    def degrader(self, split: Split, source: PairSource) -> Degrader | None:
        """Return what makes the degraded pictures that are not on disk."""
        return None

    # The sets.

    def train_set(self) -> TrainSet:
        """See the base class."""
        source = self._source("train")
        if self.val_scenes and not self._has_val():
            held = self._held_out(source)
            source = View(source, [(i, pair) for i, pair in enumerate(source.pairs) if _scene(pair) not in held])
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
        """See the base class: the set's own validation pictures, or else those held out of training."""
        if self._has_val():
            return self._eval_set(self._source("val"), "val")
        if not self.val_scenes:
            return None
        source = self._source("train")
        held = self._held_out(source)
        picks = [(i, pair) for i, pair in enumerate(source.pairs) if _scene(pair) in held]
        return self._eval_set(View(source, picks), "val")

    def test_set(self) -> EvalSet:
        """See the base class."""
        return self._eval_set(self._source("test"), "test")

    def contents(self) -> list[str]:
        """See the base class."""
        if self.packed is None:
            return super().contents()
        sets = [pictures.name for split in self._sets for pictures in self.pictures(split)]
        known = {pictures.name for pictures in dataset(self.dataset).sets}
        return [self._pack().contents, *([] if set(sets) == known else [f"sets {sets}"])]

    def _eval_set(self, source: PairSource, split: Split) -> EvalSet:
        source = self.choose(source, split)
        if self.on_error == "skip" and self.packed is None:
            source = readable(source, self.skipped)
        return EvalSet(source, self._captions(split, source), self.test_seed, self.degrader(split, source))

    def _source(self, split: Split) -> PairSource:
        if self.packed is not None:
            if self.reader is not read_rgb:
                raise UserError(f"packed: {self.packed} holds RGB pictures, not RAW; leave out --data.packed")
            wanted = frozenset[str]().union(*(pictures.degradations for pictures in self.pictures(split)))
            packed = self._pack().source(split, lambda pair: pair.degradation in wanted)
            if absent := self._absent(packed, split):
                raise UserError(
                    f"packed: {self.packed} has no {split} pairs of {', '.join(absent)}; pack a folder that holds them, "
                    "or do not ask for them"
                )
            if self.captions is not None:
                return View(packed, [(i, replace(pair, caption="")) for i, pair in enumerate(packed.pairs)])
            return packed
        self._refuse_nothing()
        roots = [(self.folders.get(pictures.name, self.root), pictures) for pictures in self.pictures(split)]
        try:
            source, faults = disk_source(roots, split, self.layout, split != "train", self.reader)
        except SeveralLayouts as error:
            raise UserError(f"{error}, or choose with --data.layout") from None
        report(faults, self.on_error, self.skipped)
        return source

    def _pack(self) -> "Pack":
        from unildiff.data.pack import open_pack

        assert self.packed is not None
        return open_pack(self.packed, self.dataset)

    def _absent(self, source: PairSource, split: Split) -> list[str]:
        """Return the titles of the wanted sets that a pack has no pair of."""
        there = {pair.degradation for pair in source.pairs}
        return [pictures.title for pictures in self.pictures(split) if there.isdisjoint(pictures.degradations)]

    def _refuse_nothing(self) -> None:
        """Tell a new user where data comes from."""
        try:
            absent = not self.root.exists()
        except PermissionError:
            absent = False  # what lies there is said by whoever opens it
        if absent and not self.folders:
            raise UserError(
                f"no data: {self.root} does not exist; `unildiff data sample {self.dataset} --root {self.root}` writes a "
                f"small sample set, `unildiff data layout {self.dataset}` shows how the real one must lie"
            )

    def _has_val(self) -> bool:
        if self.packed is not None:
            pack = self._pack()
            return "val" in pack.splits and not self._absent(pack.source("val"), "val")
        self._refuse_nothing()
        return all(is_there(self.folders.get(s.name, self.root), s, "val", self.layout) for s in self.pictures("val"))

    def _held_out(self, source: PairSource) -> set[str]:
        scenes = sorted({_scene(pair) for pair in source.pairs}, key=lambda scene: sample_key("held out", scene))
        if self.val_scenes >= len(scenes):
            raise UserError(
                f"val_scenes: {self.val_scenes} of {len(scenes)} scenes would leave none to train on; give fewer"
            )
        return set(scenes[: self.val_scenes])

    def _captions(self, split: Split, source: PairSource) -> Captions:
        folders = [self.root, *self.folders.values()] if self.packed is None else [self.packed]
        if self.captions is None:
            return Captions.find(folders)
        return Captions.given(Path(self.captions), folders, files_of(source), needed=split == "train")


def _scene(pair: Pair) -> str:
    assert pair.gt is not None  # only pictures to restore have none
    return f"{pair.gt.parent.name}/{pair.gt.name}"
