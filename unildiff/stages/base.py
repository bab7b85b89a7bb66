"""What all stages share: optimiser, schedule, checkpoints that hold what is trained, hand-over, validation.

Axis letters: B batch, H/W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unildiff.core.pixels import to_unit
from unildiff.data.batch import PredictBatch, RestorationBatch
from unildiff.diffusion.noise import KeyedNoise
from unildiff.stages.optimiser import learning_rate_factor
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoints import mismatch


@dataclass
class OptimizerConfig:
    """AdamW and its schedule, stepped once an optimiser step.

    Args:
        learning_rate: peak, for all parameters without a group of their own.
        lq_encoder_learning_rate: peak for the LQ encoder (joint stage); None uses ``learning_rate``.
        weight_decay: AdamW's default 0.01 (supplement: "default hyper-parameters").
        warmup_steps: linear warm-up (authors' scripts: 300).
        schedule: after warm-up ``cosine`` to zero at the last step, or ``constant``.
    """

    learning_rate: float = 1e-4
    lq_encoder_learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 300
    schedule: Literal["cosine", "constant"] = "cosine"


def plain(value: Any) -> Any:
    """Return dataclasses as dictionaries and paths as strings, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class StageModule(L.LightningModule):
    """Base of every stage: a subclass builds ``self.model``, names what it trains and gives ``training_step``.

    Args:
        optimizer: see ``OptimizerConfig``.
    """

    trained: ClassVar[tuple[str, ...]] = ()
    """Prefixes below ``self.model`` of what this stage trains; all else is frozen."""

    strict_loading = False  # frozen weights are not in checkpoints; on_load_checkpoint compares the trained ones

    gradient_norm: float | None = None
    """Of this step's gradients, set by ``NonFiniteGuard`` and used up by clipping."""

    logged_step = -1
    """The last step whose scalars were written."""

    def __init__(self, optimizer: OptimizerConfig) -> None:
        super().__init__()
        # load_from_checkpoint hands over the plain values that the checkpoint holds.
        self.optimizer_config = OptimizerConfig(**optimizer) if isinstance(optimizer, dict) else optimizer
        self.model: nn.Module

    # --- what is trained ---------------------------------------------------------------------------------------

    def freeze_untrained(self) -> None:
        """Leave gradients only to what the stage trains; called by subclasses once ``self.model`` stands."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(self.trained))

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of all that is trained, names as in the checkpoint."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def setup(self, stage: str) -> None:
        """Refuse a precision that stages do not work in; see ``check_precision``."""
        check_precision(str(self.trainer.precision))

    def configure_optimizers(self) -> Any:
        """Return AdamW with one group per peak learning rate and a schedule per optimiser step.

        Raises:
            UserError: if the run has no end, which the schedule needs.
        """
        config = self.optimizer_config
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.trained_parameters():
            rate = config.learning_rate
            if name.startswith("model.lq_encoder.") and config.lq_encoder_learning_rate is not None:
                rate = config.lq_encoder_learning_rate
            groups.setdefault(rate, []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()],
            weight_decay=config.weight_decay,
            fused=self._fuses_optimizer(),
        )
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError("trainer: max_steps is -1, but the schedule needs the run's end; give --trainer.max_steps")
        factor = learning_rate_factor(config.warmup_steps, int(total), config.schedule)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_model(self) -> None:
        """Split the model over the devices where the strategy asks for it (ModelParallelStrategy, FSDP2)."""
        if self.device_mesh is not None:
            from unildiff.stages.sharding import shard_stage  # torch has what it needs from 2.6 on

            shard_stage(self, self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, by the norm that ``NonFiniteGuard`` has just worked out where there is one."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or str(gradient_clip_algorithm or "norm") != "norm":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # By name, parameters take a millisecond to find. None is left of a step that the guard skips.
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        share = gradient_clip_val / (norm + 1e-6)  # torch's clip_grad_norm_
        if share < 1 and gradients:
            torch._foreach_mul_(gradients, share)

    def _fuses_optimizer(self) -> bool | None:
        """Whether AdamW runs as one kernel: on a CPU in full precision, a tenth of a tiny stage's step.

        On a GPU torch chooses; under autocast Lightning refuses to clip the gradients of a fused optimiser.
        """
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        return True if on_cpu and self.trainer.precision == "32-true" else None

    # --- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained: frozen weights come from the base and from ``init_from``."""
        names = {name for name, _ in self.trained_parameters()}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        if "hyper_parameters" in checkpoint:  # plain values only, so that loading needs no pickled classes
            checkpoint["hyper_parameters"] = plain(dict(checkpoint["hyper_parameters"]))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose weights are not exactly those that this stage trains."""
        checkpoint.setdefault("callbacks", {})  # see Checkpointing: weights-only files of before lack it
        if "state_dict" not in checkpoint:  # ModelParallelStrategy has taken the weights out and loaded them
            return
        expected = {name for name, _ in self.trained_parameters()}
        found = set(checkpoint["state_dict"])
        if expected != found:
            raise mismatch(type(self).__name__, expected - found, found - expected)

    # --- logging -----------------------------------------------------------------------------------------------

    @property
    def logs_now(self) -> bool:
        """Whether this step's scalars are wanted: working them out makes a GPU wait, so it is not done every step.

        Once a step, of its first micro-batch.
        """
        return self.global_step != self.logged_step and self.is_due

    @property
    def is_due(self) -> bool:
        """Whether the Trainer's ``log_every_n_steps`` asks for this step's scalars."""
        return self.global_step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined, no-any-return]

    def log_scalars(self, values: dict[str, Tensor | float]) -> None:
        """Write scalars and learning rates straight to the loggers: ``self.log`` costs milliseconds a step."""
        self.logged_step = self.global_step
        numbers = {name: float(value) for name, value in values.items()}
        numbers |= {
            f"learning_rate/group{index}": group["lr"]
            for index, group in enumerate(self.optimizers(use_pl_optimizer=False).param_groups)  # type: ignore[union-attr]
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.global_step)


def check_precision(precision: str) -> None:
    """Refuse a precision of the Trainer that would keep the weights in other than float32.

    A step of 1e-5 is lost in bfloat16 weights, which have 8 bits, and pictures come to the model as float32.

    Raises:
        UserError: ``precision``, as the Trainer calls it, is another.
    """
    if precision not in ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16"):
        raise UserError(
            f"precision: {precision}, but weights are kept in float32; give --trainer.precision bf16-mixed or 32-true"
        )


def batch_pictures(batch: RestorationBatch | PredictBatch, name: Literal["lq", "gt"]) -> Tensor:
    """Return pictures of a batch as (B, 3, H, W) in [-1, 1]."""
    return to_unit(batch[name])  # type: ignore[typeddict-item]


def crop_place(batch: RestorationBatch) -> tuple[Tensor | tuple[int, int], Tensor | None]:
    """Return the crops' corners and the sizes of their originals, (B, 2) each, for ``Network.context``.

    A batch that does not name them holds whole images.
    """
    return batch.get("crop", (0, 0)), batch.get("original_size")


def dropped_captions(captions: list[str], noise: KeyedNoise, share: float) -> list[str]:
    """Return captions, a ``share`` of the samples' replaced by the empty one (classifier-free guidance)."""
    kept = (KeyedNoise(noise.keys).uniform("text") >= share).tolist()  # on the CPU: a GPU would be waited for
    return [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]
