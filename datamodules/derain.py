"""Rain alone."""

from typing import ClassVar

from unildiff.data.paired_datamodule import PairedDataModule


class DerainDataModule(PairedDataModule):
    """Rain100L: 200 pairs to train on, 100 to test on."""

    dataset: ClassVar[str] = "derain"
