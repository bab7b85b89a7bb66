"""Rain alone."""

from typing import ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule


class DerainDataModule(CatalogueDataModule):
    """Rain100L: 200 pairs to train on, 100 to test on."""

    dataset: ClassVar[str] = "derain"
