"""Low light alone."""

from typing import ClassVar

from unildiff.data.paired_datamodule import PairedDataModule


class LowLightDataModule(PairedDataModule):
    """LOL-v1: 485 pairs to train on, 15 to test on."""

    dataset: ClassVar[str] = "lowlight"
