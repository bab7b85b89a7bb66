"""Haze, rain, noise, blur and low light in one model: Table 1 of the paper."""

from typing import ClassVar

from unildiff.data.noisy_datamodule import NoisyDataModule


class FiveTaskDataModule(NoisyDataModule):
    """The three tasks of :class:`ThreeTaskDataModule`, GoPro and LOL-v1.

    Training: as there, with 2,103 blurred and 485 dark pairs. Test: SOTS-outdoor 500, Rain100L 100, BSD68 at sigma 25
    only, GoPro 1,111, LOL-v1 15. Each task is drawn equally often, and may be read alone (``tasks: [blur]``).
    """

    dataset: ClassVar[str] = "five_task"
    test_levels: ClassVar[tuple[int, ...]] = (25,)
