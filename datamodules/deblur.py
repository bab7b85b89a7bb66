"""Motion blur alone."""

from typing import ClassVar

from unildiff.data.catalogue_datamodule import CatalogueDataModule


class DeblurDataModule(CatalogueDataModule):
    """GoPro: 2,103 pairs to train on, 1,111 to test on."""

    dataset: ClassVar[str] = "deblur"
