"""The datamodule of the datasets of the catalogue, in any of their known layouts or packed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from unildiff.data.catalogue import dataset as find_dataset
from unildiff.data.images import read_rgb
from unildiff.data.layouts import ImageSet, SeveralLayouts, is_there, sample_of
from unildiff.data.pair import PairSource, Split, refuse_unknown
from unildiff.data.paired_datamodule import PairedDataModule
from unildiff.data.sources import Reader, View, disk_source, report
from unildiff.utils.errors import UserError


class CatalogueDataModule(PairedDataModule):
    """Pairs of one dataset of :mod:`unildiff.data.catalogue`, whose layout is recognised automatically.

    A subclass names the dataset, and may narrow or widen what is read in :meth:`images`, from files and packs alike.
    """

    def __init__(
        self,
        root: str | None = None,
        dataset: str | None = None,
        folders: dict[str, str] | None = None,
        layout: str | None = None,
        also_test: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose what is read.

        Args:
            root: folder of the dataset; by default ``data/`` and its short name.
            dataset: short name in the catalogue, where the class has none of its own.
            folders: another folder for some of the sets, e.g. ``{haze: /data/RESIDE}``.
            layout: the layout to read where several lie in one folder; see ``unildiff data layout NAME``.
            also_test: further test sets, e.g. [urban100, kodak24]; by default those whose folders are found among the sets
                that the dataset is usually tested on (Urban100 beside BSD68, as in the paper's supplement); [] for none.
            kwargs: see :class:`PairedDataModule`.
        """
        if dataset is not None:
            self.dataset = dataset  # type: ignore[misc]  # of the instance, where the class has none
        self.known = find_dataset(getattr(self, "dataset", ""))
        if self.known.protocol:
            self.protocol = self.known.protocol  # type: ignore[misc]
        super().__init__(root or f"data/{self.dataset}", **kwargs)
        self.folders = {name: Path(folder) for name, folder in (folders or {}).items()}
        names = [images.name for images in self.known.all_sets]
        if unknown := sorted(set(self.folders) - set(names)):
            raise UserError(f"folders: {self.dataset} has no set {', '.join(unknown)}; it has {', '.join(names)}")
        further = [images.name for images in (*self.known.also, *self.known.optional)]
        refuse_unknown("also_test", also_test or (), further)
        self.also_test = also_test
        self.layout = layout
        self.reader: Reader = read_rgb

    @property
    def data_name(self) -> str:
        """See the base class: the dataset's short name."""
        return self.dataset

    @property
    def data_kind(self) -> Literal["real", "sample"]:
        """See the base class: a sample if any test images are of a set written by ``unildiff data sample``."""
        if self.packed is not None:
            is_sample = self.open_pack().sample is not None
        else:
            is_sample = any(sample_of(self.folders.get(s.name, self.root)) is not None for s in self.images("test"))
        return "sample" if is_sample else "real"

    @property
    def published(self) -> bool:
        """See the base class."""
        return self.data_kind == "real"

    def images(self, split: Split) -> Sequence[ImageSet]:
        """Return the sets to read."""
        sets = [images for images in self.known.sets if images.has(split)]
        if split == "test":
            if self.also_test is None:
                sets += [images for images in self.known.also if self._is_there(images, split)]
            else:
                further = (*self.known.also, *self.known.optional)
                sets += [images for images in further if images.name in self.also_test]
            sets = sets or list(self.known.also)
        return sets or self.known.sets

    def _is_there(self, images: ImageSet, split: Split) -> bool:
        if self.packed is not None:
            pack = self.open_pack()
            return split in pack.splits and any(map(images.holds, pack.source(split).pairs))
        root = self.folders.get(images.name, self.root)
        return root.is_dir() and is_there(root, images, split)

    def contents(self) -> list[str]:
        """See the base class."""
        if self.packed is None:
            return super().contents()
        sets = [images.name for split in self._sets for images in self.images(split)]
        known = {images.name for images in self.known.sets}
        return [self.open_pack().contents, *([] if set(sets) == known else [f"sets {sets}"])]

    def find(self, split: Split) -> PairSource:
        """See the base class."""
        if self.packed is not None:
            return self._find_packed(self.packed, split)
        self._refuse_nothing()
        roots = [(self.folders.get(images.name, self.root), images) for images in self.images(split)]
        try:
            source, faults = disk_source(roots, split, self.layout, split != "train", self.reader)
        except SeveralLayouts as error:
            raise UserError(f"{error}, or choose with --data.layout") from None
        report(faults, self.on_error, self.skipped)
        return source

    def has_val(self) -> bool:
        """See the base class."""
        if self.packed is not None:
            pack = self.open_pack()
            return "val" in pack.splits and not self._absent(pack.source("val"), "val")
        self._refuse_nothing()
        return all(is_there(self.folders.get(s.name, self.root), s, "val", self.layout) for s in self.images("val"))

    def caption_folders(self) -> list[Path]:
        """See the base class."""
        return [self.root, *self.folders.values()]

    def _find_packed(self, folder: Path, split: Split) -> PairSource:
        if self.reader is not read_rgb:
            raise UserError(f"packed: {folder} holds RGB images, not RAW; leave out --data.packed")
        wanted = self.images(split)
        packed = self.open_pack().source(split, lambda pair: any(images.holds(pair) for images in wanted))
        if absent := self._absent(packed, split):
            raise UserError(
                f"packed: {folder} has no {split} pairs of {', '.join(absent)}; pack a folder that holds them, or do not "
                "request them"
            )
        if self.captions is not None:
            return View(packed, [(i, replace(pair, caption="")) for i, pair in enumerate(packed.pairs)])
        return packed

    def _absent(self, source: PairSource, split: Split) -> list[str]:
        """Return the titles of the requested sets of which a pack has no pair."""
        return [images.title for images in self.images(split) if not any(map(images.holds, source.pairs))]

    def _refuse_nothing(self) -> None:
        """Tell a new user where data comes from."""
        try:
            absent = not self.root.exists()
        except PermissionError:
            absent = False  # opening it reports the reason
        if absent and not self.folders:
            raise UserError(
                f"no data: {self.root} does not exist; run `unildiff data sample {self.dataset} --root {self.root}` to create "
                f"a small sample set, or `unildiff data layout {self.dataset}` to see the expected layout"
            )
