"""Haze alone."""

from typing import ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule


class DehazeDataModule(CatalogueDataModule):
    """RESIDE: OTS, 72,135 pairs to train on; SOTS-outdoor, 500 to test on."""

    dataset: ClassVar[str] = "dehaze"
