"""Motion blur alone."""

from typing import ClassVar

from unildiff.data.paired_datamodule import PairedDataModule


class DeblurDataModule(PairedDataModule):
    """GoPro: 2,103 pairs to train on, 1,111 to test on."""

    dataset: ClassVar[str] = "deblur"
