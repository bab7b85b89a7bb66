"""Averaged weights of what is trained, and of nothing else."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.validation import Range, check_arguments

CHECKPOINT_KEY = "ema_state_dict"


class ExponentialMovingAverage(Callback):
    """Keeps an exponential moving average of the trainable parameters and validates and tests with it.

    After optimiser step s (0, 1, ...) the average moves by ``1 - min(decay, (1 + s) / (10 + s))`` towards the weights:
    fast at first, so that the initial weights do not linger (the warm-up that diffusers' EMAModel uses). Lightning's own
    averaging copies the whole module, frozen base included, and has no warm-up (style.md 4b).

    A checkpoint holds the average apart from the trained weights, as ``checkpoint["ema_state_dict"]``: parameter name to
    tensor, names as in its ``state_dict``.

    Attributes:
        updates: optimiser steps averaged so far.
        average: parameter name to averaged tensor; empty until the fit starts or a checkpoint is loaded.
    """

    def __init__(
        self,
        decay: Annotated[float, Range(0, 1, below=True)] = 0.9999,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        """Set how the average moves and is kept.

        Args:
            decay: the limit of the decay (0.9999, our choice; the paper is silent).
            dtype: bfloat16 halves memory and checkpoint. It is rounded stochastically, since a step of 1e-4 of the
                difference is far below bfloat16's resolution and would otherwise be lost every time.

        Raises:
            UserError: ``decay`` is not in [0, 1).
        """
        check_arguments(ExponentialMovingAverage, locals())
        super().__init__()
        self.decay = decay
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._averaged_step = 0
        self._trained: dict[str, Tensor] = {}

    def current_decay(self) -> float:
        """Return the decay of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the strategy before anything is computed.

        Raises:
            UserError: it splits the weights; an average is kept of whole ones.
        """
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "ema: averaged weights do not go with ModelParallelStrategy (FSDP2), which splits the weights; leave the "
                "ExponentialMovingAverage callback out, as configs/variants/fsdp2.yaml does, or train with ddp"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or go on from a checkpoint's average."""
        trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if not self.average:
            self.average = {name: p.detach().to(self.dtype, copy=True) for name, p in trainable.items()}
        elif unmatched := sorted(set(trainable) ^ set(self.average)):
            raise UserError(
                f"ema: {len(unmatched)} parameters are trained but not averaged in the checkpoint, or the other way: "
                f"{', '.join(unmatched[:3])}; resume with the settings that the run was started with"
            )
        self._to_devices(trainable.items())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember at which step this process began, a resumed one above 0."""
        self._averaged_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Move the average, once an optimiser step and not once a batch."""
        if trainer.global_step != self._averaged_step:
            self._averaged_step = trainer.global_step
            self.update(dict(pl_module.named_parameters()))

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Move the average towards ``parameters`` by one step of the warmed-up decay."""
        weight = 1 - self.current_decay()
        averages, targets = list(self.average.values()), [parameters[name].detach() for name in self.average]
        if self.dtype == torch.float32:
            torch._foreach_lerp_(averages, [target.float() for target in targets], weight)
        else:
            generators: dict[torch.device, torch.Generator] = {}
            for average, target in zip(averages, targets, strict=True):
                if average.device not in generators:
                    seed = sample_key("ema", self.updates)
                    generators[average.device] = torch.Generator(average.device).manual_seed(seed)
                moved = average.float().lerp_(target.float(), weight)
                average.copy_(_round_stochastically(moved, generators[average.device]))
        self.updates += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in."""
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in."""
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        self._swap_out(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights in."""
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the trained weights back, so that a checkpoint written next holds them."""
        self._swap_out(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average under its own key."""
        if self.average:
            checkpoint[CHECKPOINT_KEY] = dict(self.average)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average from a checkpoint that has one."""
        average = checkpoint.get(CHECKPOINT_KEY, {})
        self.average = {name: value.to(self.dtype, copy=True) for name, value in average.items()}

    def state_dict(self) -> dict[str, int]:
        """Return how often the average was moved."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over how often the average was moved; ``decay`` and ``dtype`` stay as they are set."""
        self.updates = state_dict["updates"]

    def _to_devices(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        for name, parameter in parameters:
            if name in self.average:
                self.average[name] = self.average[name].to(parameter.device)

    def _swap_in(self, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        if missing := sorted(set(self.average) - set(parameters)):
            raise UserError(
                f"ema: the checkpoint averages {len(missing)} parameters that the model does not have: "
                f"{', '.join(missing[:3])}; give the model settings that the checkpoint was trained with"
            )
        self._to_devices(parameters.items())
        for name, average in self.average.items():
            self._trained[name] = parameters[name].data
            parameters[name].data = average.to(parameters[name].dtype)  # no copy where the types agree

    def _swap_out(self, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        for name, trained in self._trained.items():
            parameters[name].data = trained
        self._trained = {}


def _round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return float32 ``value`` as bfloat16, up or down with the probability that keeps the expectation."""
    noise = torch.randint(0, 1 << 16, value.shape, dtype=torch.int32, device=value.device, generator=generator)
    bits = value.contiguous().view(torch.int32) + noise  # bfloat16 is the upper half of float32
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)
