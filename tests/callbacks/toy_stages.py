"""Toy stages for tests of the command line, one per case."""

import os
import signal
from typing import Any

from torch import Tensor

from tests.callbacks.toy import ToyData, ToyModule


class Keeps(ToyModule):
    """Keeps its sampler settings in its checkpoints, as no stage should."""

    def __init__(self, width: int = 4, init_from: str | None = None, sampling: dict[str, int] | None = None) -> None:
        super().__init__(width, init_from, sampling)
        self.save_hyperparameters()


class Terminated(ToyModule):
    """Receives SIGTERM in its third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)


class Refuses(ToyModule):
    """Refuses its settings."""

    def __init__(self, steps: int = 0) -> None:
        raise ValueError(f"steps is {steps}; it must be at least 1")


class OtherData(ToyData):
    """Has the setting ``count`` like ToyData, and must not inherit its value."""


class Skips(ToyData):
    """Has a file that could not be read."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.skipped = ["broken.png: not an image"]
