"""Averaged weights (EMA) of what is trained, and of nothing else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.validation import PositiveInt, Range, check_arguments

CHECKPOINT_KEY = "ema_state_dict"
_CHUNK = 1 << 26
"""Numbers that are averaged at once: few kernels for thousands of small tensors, at 1 GB of temporary memory."""


class ExponentialMovingAverage(Callback):
    """Keeps an exponential moving average of the trainable parameters and validates and tests with it.

    After optimiser step s (0, 1, ...) the average moves by ``1 - min(decay, (1 + s) / (10 + s))`` towards the weights:
    fast at first, so that the initial weights are soon forgotten (the warm-up of diffusers' EMAModel). Lightning's own
    averaging copies the whole module, frozen base included, and has no warm-up.

    A checkpoint holds the average apart from the trained weights, as ``checkpoint["ema_state_dict"]``: parameter name to
    tensor, names as in its ``state_dict``.

    Attributes:
        updates: optimiser steps that the average covers.
        average: parameter name to averaged tensor; empty until the fit starts or a checkpoint is loaded.
    """

    def __init__(
        self,
        decay: Annotated[float, Range(0, 1, below=True)] = 0.9999,
        dtype: Literal["float32", "bfloat16"] = "float32",
        every_n_steps: PositiveInt = 1,
    ) -> None:
        """Set how the average moves and is kept.

        Args:
            decay: limit of the decay per optimiser step (0.9999, our choice; the paper does not say).
            dtype: bfloat16 halves memory and checkpoint. It is rounded stochastically, since a step of 1e-4 of the
                difference is far below the resolution of bfloat16 and would otherwise always be lost.
            every_n_steps: optimiser steps between two updates, each with the product of the decays of these steps.

        Raises:
            UserError: ``decay`` is not in [0, 1), or ``every_n_steps`` is not positive.
        """
        check_arguments(ExponentialMovingAverage, locals())
        super().__init__()
        self.decay, self.every_n_steps = decay, every_n_steps
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._averaged_step = 0
        self._trained: dict[str, Tensor] = {}

    def current_decay(self, steps: int = 1) -> float:
        """Return the decay of the next ``steps`` optimiser steps together."""
        decay = 1.0
        for step in range(self.updates, self.updates + steps):
            decay *= min(self.decay, (1 + step) / (10 + step))
        return decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the strategy before anything is computed.

        Raises:
            UserError: the strategy splits the weights, and an average needs whole ones.
        """
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "ema: averaged weights do not go with ModelParallelStrategy (FSDP2), which splits the weights; leave the "
                "ExponentialMovingAverage callback out, as configs/variants/fsdp2.yaml does, or train with ddp"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or continue a checkpoint's average."""
        trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if not self.average:
            self.average = {name: p.detach().to(self.dtype, copy=True) for name, p in trainable.items()}
        elif unmatched := sorted(set(trainable) ^ set(self.average)):
            raise UserError(
                f"ema: {len(unmatched)} parameters are trained but not averaged in the checkpoint, or averaged but not "
                f"trained: {', '.join(unmatched[:3])}; resume with the settings that the run was started with"
            )
        self._to_devices(trainable.items())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the step at which this process starts; a resumed one starts above 0."""
        self._averaged_step = trainer.global_step - trainer.global_step % self.every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Move the average every ``every_n_steps`` optimiser steps."""
        steps = trainer.global_step - self._averaged_step
        if steps >= self.every_n_steps:
            self._averaged_step = trainer.global_step
            self.update(dict(pl_module.named_parameters()), steps)

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], steps: int = 1) -> None:
        """Move the average towards ``parameters`` by the warmed-up decay of ``steps`` optimiser steps."""
        weight = 1 - self.current_decay(steps)
        averages, targets = list(self.average.values()), [parameters[name].detach() for name in self.average]
        if self.dtype == torch.float32:
            torch._foreach_lerp_(averages, [target.float() for target in targets], weight)
        else:
            generators: dict[torch.device, torch.Generator] = {}
            for chunk in _chunks(averages):
                device = averages[chunk[0]].device
                if device not in generators:
                    generators[device] = torch.Generator(device).manual_seed(sample_key("ema", self.updates))
                moved = torch.cat([averages[index].reshape(-1) for index in chunk]).float()
                moved.lerp_(torch.cat([targets[index].reshape(-1) for index in chunk]).float(), weight)
                rounded = _round_stochastically(moved, generators[device])
                parts = torch.split(rounded, [averages[index].numel() for index in chunk])
                torch._foreach_copy_(
                    [averages[index] for index in chunk],
                    [part.view_as(averages[index]) for index, part in zip(chunk, parts, strict=True)],
                )
        self.updates += steps

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the averaged weights."""
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the trained weights again."""
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the averaged weights."""
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the trained weights again."""
        self._swap_out(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the averaged weights."""
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the trained weights again."""
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Use the trained weights again, so that a checkpoint written next holds them."""
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
        """Return how many optimiser steps the average covers."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of optimiser steps; the settings stay as they are."""
        self.updates = state_dict["updates"]

    def _to_devices(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        for name, parameter in parameters:
            if name in self.average:
                self.average[name] = self.average[name].to(parameter.device)

    @torch.no_grad()
    def _swap_in(self, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        if missing := sorted(set(self.average) - set(parameters)):
            raise UserError(
                f"ema: the checkpoint averages {len(missing)} parameters that the model does not have: "
                f"{', '.join(missing[:3])}; give the model settings that the checkpoint was trained with"
            )
        self._to_devices(parameters.items())
        for name, average in self.average.items():  # copied: compiled code and views hold on to the storage
            self._trained[name] = parameters[name].detach().clone()
            parameters[name].copy_(average)

    @torch.no_grad()
    def _swap_out(self, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        for name, trained in self._trained.items():
            parameters[name].copy_(trained)
        self._trained = {}


def _chunks(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield indices of tensors on one device that together hold about ``_CHUNK`` numbers."""
    chunk: list[int] = []
    size = 0
    for index, tensor in enumerate(tensors):
        if chunk and (size + tensor.numel() > _CHUNK or tensor.device != tensors[chunk[0]].device):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += tensor.numel()
    if chunk:
        yield chunk


def _round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return float32 ``value`` as bfloat16, up or down with the probability that preserves the expectation."""
    noise = torch.randint(0, 1 << 16, value.shape, dtype=torch.int32, device=value.device, generator=generator)
    bits = value.contiguous().view(torch.int32) + noise  # bfloat16 is the upper half of float32
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)
