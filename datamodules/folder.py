"""Your own folder: any images to restore, or pairs named by two patterns."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from unildiff.data.datasets import EvalSet, PredictSet
from unildiff.data.pair import OnError, Pair, PairSource, Split, refuse_unknown
from unildiff.data.paired_datamodule import PairedDataModule
from unildiff.data.pairing import rule_named
from unildiff.data.patterns import Half, Pattern, folder_patterns, listed_pairs, pattern_source
from unildiff.data.sources import View, every_image, readable, report
from unildiff.utils.errors import UserError


class FolderDataModule(PairedDataModule):
    """Images below ``root``. ``predict`` restores all of them; ``fit``, ``validate`` and ``test`` pair two glob patterns.

    Without patterns the pairs are those in ``train/lq`` and ``train/gt``, ``val/lq`` and ``val/gt``, ``test/lq`` and
    ``test/gt`` (or ``lq`` and ``gt``). Where there are no validation pairs, a twentieth of the training pairs, from 1 to
    32, is held out of training. Examples of patterns, relative to ``root``: ``lq/*.png``, ``scene*/input/*``, ``lq/**/*``
    (folders below, linked ones too). Equal names in several folders pair folder by folder.
    """

    dataset: ClassVar[str] = "folder"
    captions_above: ClassVar[bool] = True
    most_held_out: ClassVar[int] = 32

    def __init__(
        self,
        root: str = "data/folder",
        lq: Pattern | None = None,
        gt: Pattern | None = None,
        train_lq: Pattern | None = None,
        train_gt: Pattern | None = None,
        val_lq: Pattern | None = None,
        val_gt: Pattern | None = None,
        meta_info: dict[str, str] | None = None,
        rule: str = "same",
        degradation: str = "folder",
        on_error: OnError = "skip",
        **kwargs: Any,
    ) -> None:
        """Choose the images.

        Args:
            root: the folder.
            lq: pattern of the degraded test images; by default those in test/lq, or in lq. Of a list of patterns the n-th
                belongs to the n-th of ``gt``; ``NAME.lmdb`` is an LMDB folder of BasicSR.
            gt: pattern of their ground truth; by default test/gt, or gt.
            train_lq: pattern of the degraded training images; by default those in train/lq.
            train_gt: pattern of their ground truth; by default train/gt.
            val_lq: pattern of the degraded validation images; by default those in val/lq, or else some training pairs.
            val_gt: pattern of their ground truth; by default val/gt.
            meta_info: files of BasicSR that list the ground-truth images to use, by split: {train: names.txt}.
            rule: how names pair: "same", "prefix" (before the first "_"), "no" (no + name), "bsd", "raindrop", "two_parts",
                or a template of the degraded names, "template:{}_lq".
            degradation: its name in tables.
            on_error: "skip" reports broken files and continues, "raise" stops at the first.
            kwargs: see :class:`PairedDataModule`; what ``packed`` holds was chosen when it was packed, by
                ``unildiff data pack folder``.
        """
        super().__init__(root, on_error=on_error, **kwargs)
        self.patterns: dict[Split, Half] = {"train": (train_lq, train_gt), "val": (val_lq, val_gt), "test": (lq, gt)}
        self.meta_info = {split: Path(file) for split, file in (meta_info or {}).items()}
        refuse_unknown("meta_info", self.meta_info, self.patterns)
        self.rule = rule_named(rule)
        self.degradation = degradation

    def find(self, split: Split) -> PairSource:
        """See the base class."""
        listed = self.meta_info.get(split)
        if self.packed is not None:
            source = self.open_pack().source(split)
            changes: dict[str, Any] = {"task": self.degradation, "degradation": self.degradation}
            changes |= {} if self.captions is None else {"caption": ""}  # instead of those in the pack
            pairs = [replace(pair, **changes) for pair in source.pairs]
            used = range(len(pairs)) if listed is None else listed_pairs([pair.gt or Path() for pair in pairs], listed)
            return View(source, [(index, pairs[index]) for index in used])
        patterns = folder_patterns(self.root, split, *self.patterns[split])
        if patterns is None:
            flags = f"--data.{split}_lq and --data.{split}_gt"
            raise UserError(
                f"folder: no {split} pairs in {self.root}/{split}/lq and gt; move them there or give {flags}"
            )
        files, faults = pattern_source(self.root, *patterns, self.rule, self.degradation, listed)
        report(faults, self.on_error, self.skipped)
        return files

    def has_val(self) -> bool:
        """See the base class."""
        if self.packed is not None:
            return "val" in self.open_pack().splits
        return folder_patterns(self.root, "val", *self.patterns["val"]) is not None

    def scene(self, pair: Pair) -> str:
        """See the base class: below the root, as folders may hold equal names."""
        assert pair.gt is not None
        return pair.gt.relative_to(self.packed or self.root).as_posix()

    def default_held_out(self, scenes: int) -> int:
        """See the base class: at least one, so that every training is validated."""
        return max(super().default_held_out(scenes), 1) if scenes > 1 else 0

    def predict_set(self) -> PredictSet:
        """Return every image in the folder and below it; what cannot be read is left out and noted in ``skipped``."""
        if self.packed is not None:
            raise UserError(
                f"packed: {self.packed} holds pairs; to restore files give --data.root and no --data.packed"
            )
        found: PairSource = every_image(self.root, self.degradation, self.skipped)
        kept = readable(found, self.skipped) if self.on_error == "skip" else found
        names = [pair.lq.relative_to(self.root).as_posix() for pair in kept.pairs if pair.lq is not None]
        return PredictSet(EvalSet(kept, self._captions("predict", kept), self.test_seed), names)

    def contents(self) -> list[str]:
        """See the base class."""
        return super().contents() if self.packed is None else [self.open_pack().contents, self.degradation]
