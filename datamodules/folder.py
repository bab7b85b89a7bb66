"""A folder of one's own: any pictures to restore, or pairs named by two patterns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unildiff.data.captions import Captions
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import EpochOrder, EvalSet, OnError, PredictSet, TrainSet
from unildiff.data.pack import open_pack
from unildiff.data.pair import PairSource, files_of
from unildiff.data.pairing import RULES
from unildiff.data.sources import View, every_image, pattern_source, readable, report
from unildiff.utils.errors import UserError


class FolderDataModule(RestorationDataModule):
    """Pictures below ``root``. ``predict`` restores all of them; ``test`` and ``fit`` pair two glob patterns by name.

    Examples of patterns, relative to ``root``: ``lq/*.png``, ``scene*/input/*``, ``lq/**/*`` (folders below, linked ones
    too). Names pair over all folders that a pattern matches: a name that two of them hold is left out as a duplicate.
    """

    def __init__(
        self,
        root: str = "data/folder",
        lq: str = "lq/*",
        gt: str = "gt/*",
        train_lq: str | None = None,
        train_gt: str | None = None,
        rule: str = "same",
        degradation: str = "folder",
        on_error: OnError = "skip",
        captions: str | None = None,
        packed: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose the pictures.

        Args:
            root: the folder.
            lq: pattern of the degraded test pictures.
            gt: pattern of the clean test pictures.
            train_lq: pattern of the degraded training pictures.
            train_gt: pattern of the clean training pictures.
            rule: how names pair: "same", "prefix" (before the first "_"), "no" (no + name), "bsd" or "raindrop".
            degradation: what tables call it.
            on_error: "skip" reports broken files and goes on, "raise" stops at the first.
            captions: captions file, its names relative to its own folder or to ``root``; by default ``captions.jsonl`` in
                ``root`` or in the nearest folder above it. With ``packed`` it replaces the captions in the pack.
            packed: folder made by ``unildiff data pack folder``, read instead of ``root``: patterns, ``rule`` and
                ``on_error`` were settled when it was packed.
            kwargs: see the base class.
        """
        super().__init__(**kwargs)
        if rule not in RULES:
            raise UserError(f"rule: no {rule!r}; choose from {', '.join(RULES)}")
        self.root = Path(root)
        self.patterns = {"test": (lq, gt), "train": (train_lq, train_gt)}
        self.rule = RULES[rule]
        self.degradation = degradation
        self.on_error: OnError = on_error
        self.captions = captions
        self.packed = None if packed is None else Path(packed)

    def train_set(self) -> TrainSet:
        """Return the training pairs."""
        source = self._pairs("train")
        order = EpochOrder({self.degradation: len(source)}, None, len(source), self.seed)
        captions = self._captions(files_of(source))
        return TrainSet({self.degradation: source}, order, self.augment, captions, None, self.on_error)

    def test_set(self) -> EvalSet:
        """Return the test pairs."""
        source = self._kept(self._pairs("test"))
        return EvalSet(source, self._captions(files_of(source)), self.test_seed)

    def predict_set(self) -> PredictSet:
        """Return every picture in the folder and below it; what cannot be read is left out and noted in ``skipped``."""
        if self.packed is not None:
            raise UserError(
                f"packed: {self.packed} holds pairs; to restore files give --data.root and no --data.packed"
            )
        kept = self._kept(every_image(self.root, self.degradation, self.skipped))
        good = [pair.lq for pair in kept.pairs if pair.lq is not None]
        names = [path.relative_to(self.root).as_posix() for path in good]
        return PredictSet(good, names, self._captions(good), self.test_seed)

    def contents(self) -> list[str]:
        """See the base class."""
        return (
            super().contents() if self.packed is None else [open_pack(self.packed, "folder").contents, self.degradation]
        )

    def _pairs(self, split: str) -> PairSource:
        if self.packed is not None:
            source = open_pack(self.packed, "folder").source(split)
            name = self.degradation
            pairs = [replace(pair, task=name, degradation=name) for pair in source.pairs]
            if self.captions is not None:
                pairs = [replace(pair, caption="") for pair in pairs]
            return View(source, list(enumerate(pairs)))
        lq, gt = self.patterns[split]
        if lq is None or gt is None:
            raise UserError(
                f"folder: no {split} pairs; give --data.{split}_lq and --data.{split}_gt, e.g. 'lq/*' 'gt/*'"
            )
        files, faults = pattern_source(self.root, lq, gt, self.rule, self.degradation)
        report(faults, self.on_error, self.skipped)
        return files

    def _kept(self, source: PairSource) -> PairSource:
        return readable(source, self.skipped) if self.on_error == "skip" and self.packed is None else source

    def _captions(self, files: Sequence[Path]) -> Captions:
        folder = self.packed or self.root
        if self.captions is not None:
            return Captions.given(Path(self.captions), [folder], files)
        return Captions.find([folder], upwards=self.packed is None)
