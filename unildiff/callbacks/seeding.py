"""Randomness of training as a pure function of (seed, rank, epoch, batch)."""

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from unildiff.utils.keys import sample_key
from unildiff.utils.validation import Seed, check_arguments


class StepSeed(Callback):
    """Seeds Python, numpy and torch before every training batch.

    A resumed run then draws what an uninterrupted one would have drawn (dropout, router noise), on every rank, and a
    validation in between changes nothing; no generator state has to be kept in checkpoints. Noise and crops do not
    depend on this: they come from each sample's own key. Our choice.
    """

    def __init__(self, seed: Seed | None = None) -> None:
        """Args: seed: by default the one of ``--seed_everything``, else 0."""
        check_arguments(StepSeed, locals())
        super().__init__()
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed all generators for this batch."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed
        key = sample_key("step", seed, trainer.global_rank, trainer.current_epoch, batch_idx)
        random.seed(key)
        np.random.seed(key & 0xFFFFFFFF)
        # torch.manual_seed would seed every kind of device, and record the call stack where a kind is absent: a millisecond
        # per step (benchmarks/training.py).
        torch.default_generator.manual_seed(key)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed_all(key)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(key)
