"""Low light alone."""

from typing import ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule


class LowLightDataModule(CatalogueDataModule):
    """LOL-v1: 485 pairs to train on, 15 to test on."""

    dataset: ClassVar[str] = "lowlight"
