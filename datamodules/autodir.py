"""Haze, rain, noise, blur, low light and raindrops: Table 3 of the paper, AutoDIR's six tasks."""

from typing import ClassVar

from unildiff.data.noisy_datamodule import NoisyDataModule


class AutoDIRDataModule(NoisyDataModule):
    """The five tasks of :class:`FiveTaskDataModule` and RainDrop (861 to train on, test a 58, test b 249, as reported).

    AutoDIR's public code holds no data lists and no dataset code, so nobody can say from it which files its table was
    computed on: give each task's folder, ``--data.folders '{haze: ..., rain: ..., noise: ..., blur: ..., lowlight: ...,
    raindrop: ...}'``, or all of them below ``root``. The noise level of its test is not stated either; sigma 25 is our
    choice (``test_sigmas``). RainDrop's test b is added with ``also_test: [raindrop_b]``.
    """

    dataset: ClassVar[str] = "autodir"
    test_levels: ClassVar[tuple[int, ...]] = (25,)
