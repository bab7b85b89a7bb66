"""Optimiser steps whose loss or gradient is NaN or infinite are skipped and counted; too many in a row end the run."""

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from unildiff.utils.errors import UserError
from unildiff.utils.validation import PositiveInt, check_arguments

_LOG = logging.getLogger(__name__)
_NAMES_SHOWN = 8


class NonFiniteGuard(Callback):
    """Skips the optimiser step when the loss or a gradient is not finite.

    The gradients are set aside before clipping and before the step, so that weights, moments and weight decay do not
    change; the learning-rate schedule continues. All ranks decide alike. This costs one pass over the gradients and one
    synchronisation per step. Clipping saves both, because it reads the norm that is left in ``gradient_norm``.

    Attributes:
        skipped: steps skipped so far, kept in checkpoints and logged as ``train/skipped_steps``.
        in_a_row: skipped steps since the last good one.
    """

    def __init__(self, limit: PositiveInt = 10) -> None:
        """Args: limit: so many bad steps in a row end the run (our choice)."""
        check_arguments(NonFiniteGuard, locals())
        super().__init__()
        self.limit = limit
        self.skipped = 0
        self.in_a_row = 0
        self._names: list[str] = []
        self._loss_finite: Tensor | None = None
        self._set_aside: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse epochs that end in the middle of an optimiser step.

        Raises:
            UserError: the last step of each epoch would silently see fewer samples than the others.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
        if math.isfinite(batches) and batches % accumulated:
            raise UserError(
                f"trainer: an epoch has {batches} batches, which is not a multiple of accumulate_grad_batches ({accumulated}); "
                "change trainer.limit_train_batches, trainer.overfit_batches or the number of samples"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the images of the next step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._names, self._loss_finite = [], None
        self._names += _image_names(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss without waiting for the device."""
        finite = torch.isfinite(loss.detach()).all()
        self._loss_finite = finite if self._loss_finite is None else self._loss_finite & finite

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Set all gradients aside if one of them, or the loss, is not finite.

        Raises:
            UserError: this was the last of ``limit`` bad steps in a row; the images of the step are named.
        """
        norm, whole = _gradient_norm(optimizer)
        pl_module.gradient_norm = norm if whole else None  # type: ignore[assignment]
        finite = math.isfinite(norm) and (self._loss_finite is None or bool(self._loss_finite))
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if finite:
            self.in_a_row = 0
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._set_aside = [(parameter, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        self.skipped += 1
        self.in_a_row += 1
        images = ", ".join(self._names[:_NAMES_SHOWN]) + (", ..." if len(self._names) > _NAMES_SHOWN else "")
        if self.in_a_row >= self.limit:
            raise UserError(
                f"training: {self.in_a_row} steps in a row with a loss or gradient that is NaN or infinite, the last at "
                f"step {trainer.global_step} with images {images or 'unknown'}; check these images, lower the "
                "learning rate, or use a safer precision (--trainer.precision bf16-mixed or 32-true)"
            )
        _LOG.warning("step %d skipped: loss or gradient not finite; images %s", trainer.global_step, images)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Put the gradients of a skipped step back, zeroed: they may lie in DDP's buckets."""
        for parameter, gradient in self._set_aside:
            parameter.grad = gradient.zero_()
        self._set_aside = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Log the number of skipped steps if there are any."""
        if self.skipped:
            pl_module.log("train/skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, int]:
        """Return both counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore both counts from a checkpoint."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def _gradient_norm(optimizer: Optimizer) -> tuple[float, bool]:
    """Return the norm of all gradients together, and whether it is of all: FSDP2 has this rank's share of each here."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return 0.0, True
    here = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(here)))
    return float(norm), not any(hasattr(g, "to_local") for g in gradients)


def _image_names(batch: Any) -> list[str]:
    if not isinstance(batch, dict) or "name" not in batch:
        return []
    degradations = batch.get("degradation") or [""] * len(batch["name"])
    return [f"{kind}/{name}" if kind else str(name) for kind, name in zip(degradations, batch["name"], strict=True)]
