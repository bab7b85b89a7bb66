"""Noise, rain and haze in one model: the three-task setting of PromptIR, AdaIR, MoCE-IR and the paper."""

from typing import ClassVar

from unildiff.data.noisy_datamodule import NoisyDataModule


class ThreeTaskDataModule(NoisyDataModule):
    """BSD400 + WED, Rain100L and OTS to train on; BSD68 or CBSD68, Rain100L and SOTS-outdoor to test on.

    Training: 400 + 4,744 clean images with noise of sigma 15, 25 or 50; 200 rain pairs; 72,135 haze pairs.
    Test: 68 images at each of the three sigmas (Urban100 with ``also_test: [urban100]``), 100 rain and 500 haze pairs.
    Each task is drawn equally often (the authors' choice), and may be read alone (``tasks: [rain]``).
    """

    dataset: ClassVar[str] = "three_task"
