"""Noise alone."""

from typing import ClassVar

from unildiff.data.noisy_datamodule import NoisyDataModule


class DenoiseDataModule(NoisyDataModule):
    """BSD400 + WED to train on, BSD68 or CBSD68 at sigma 15, 25 and 50 to test on; Urban100 and Kodak24 on request."""

    dataset: ClassVar[str] = "denoise"
