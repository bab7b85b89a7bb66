"""Haze alone."""

from typing import ClassVar

from unildiff.data.paired_datamodule import PairedDataModule


class DehazeDataModule(PairedDataModule):
    """RESIDE: OTS, 72,135 pairs to train on; SOTS-outdoor, 500 to test on."""

    dataset: ClassVar[str] = "dehaze"
