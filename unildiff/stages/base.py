"""What all stages share: what is trained, the optimiser step, checkpoints that hold only trained weights, logging.

Axis letters: B batch, H/W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from unildiff.core.pixels import to_unit
from unildiff.data.batch import PredictBatch, RestorationBatch
from unildiff.stages.ddp import keep_gradients_in_buckets
from unildiff.stages.optimiser import OptimizerConfig, learning_rate_factor, make_adamw
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.weights.checkpoints import mismatch


class StageModule(L.LightningModule):
    """Base of every stage. A subclass builds ``self.model``, names what it trains and provides ``training_step``.

    Args:
        optimizer: AdamW and its schedule.
    """

    trained: ClassVar[tuple[str, ...]] = ()
    """Prefixes below ``self.model`` of what this stage trains; everything else is frozen."""

    strict_loading = False  # frozen weights are not in checkpoints; on_load_checkpoint compares the trained ones

    gradient_norm: float | None = None
    """Norm of this step's gradients, set by ``NonFiniteGuard`` and used once, by clipping."""

    keeps_gradients = False
    """Whether gradients are zeroed instead of dropped, because they lie in DDP's buckets."""

    logged_step = -1
    """The last step whose scalars were written."""

    def __init__(self, optimizer: OptimizerConfig) -> None:
        super().__init__()
        # load_from_checkpoint passes the plain values that the checkpoint holds.
        self.optimizer_config = OptimizerConfig(**optimizer) if isinstance(optimizer, dict) else optimizer
        self.model: nn.Module

    # --- what is trained ---------------------------------------------------------------------------------------

    def freeze_untrained(self) -> None:
        """Require gradients only of what the stage trains; subclasses call it once ``self.model`` is complete."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(self.trained))

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of everything that is trained, names as in the checkpoint."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    # --- the optimiser step ------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse settings of the Trainer that would fail or train something else in silence."""
        check_precision(str(self.trainer.precision))
        clip = getattr(self.trainer, "gradient_clip_val", None)
        if clip is not None and not 0 <= clip < math.inf:
            raise UserError(f"trainer: gradient_clip_val is {clip}; give a positive number, or 0 for no clipping")

    def configure_optimizers(self) -> Any:
        """Return AdamW with one group per peak learning rate and a schedule per optimiser step.

        Raises:
            UserError: the run has no end, which the schedule needs.
        """
        config = self.optimizer_config
        optimizer = make_adamw(self.trained_parameters(), config, self._fuses_optimizer())
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError(
                "trainer: max_steps is -1, but the schedule needs the end of the run; give --trainer.max_steps"
            )
        scheduler = LambdaLR(optimizer, learning_rate_factor(config.warmup_steps, int(total), config.schedule))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _fuses_optimizer(self) -> bool | None:
        """Whether AdamW runs as one kernel: without temporary copies of the gradients (10.9 GB in the joint stage).

        Not with 16-mixed, whose loss scaling a fused optimiser undoes by itself, after clipping.
        """
        fuses = self.trainer.strategy.root_device.type in ("cpu", "cuda") and "16-mixed" != self.trainer.precision
        return True if fuses else None

    def on_train_start(self) -> None:
        """Move the gradients into DDP's buckets where it is used with ``gradient_as_bucket_view``."""
        self.keeps_gradients = keep_gradients_in_buckets(self.trainer.strategy.model)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Zero the gradients, or drop them where nothing holds on to them."""
        optimizer.zero_grad(set_to_none=not self.keeps_gradients)

    def configure_model(self) -> None:
        """Split the model over the devices where the strategy asks for it (ModelParallelStrategy, FSDP2)."""
        if self.device_mesh is not None:
            from unildiff.stages.sharding import shard_stage  # needs torch >= 2.6

            shard_stage(self, self.device_mesh["data_parallel"])

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, by the norm that ``NonFiniteGuard`` has just computed where there is one.

        Lightning refuses to clip for a fused optimiser, whatever the precision, so clipping by norm is done here.
        """
        norm, self.gradient_norm = self.gradient_norm, None
        if not gradient_clip_val:
            return
        if str(gradient_clip_algorithm or "norm") != "norm":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if norm is None:
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
            return
        share = gradient_clip_val / (norm + 1e-6)  # as torch's clip_grad_norm_
        if share < 1 and parameters:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], share)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained: frozen weights come from the base and from ``init_from``."""
        names = {name for name, _ in self.trained_parameters()}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        if "hyper_parameters" in checkpoint:  # plain values only, so that loading needs no pickled classes
            checkpoint["hyper_parameters"] = plain(dict(checkpoint["hyper_parameters"]))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose weights are not exactly those that this stage trains."""
        checkpoint.setdefault("callbacks", {})  # older checkpoints without optimiser lack it, see Checkpointing
        if "state_dict" not in checkpoint:  # ModelParallelStrategy has taken the weights out and loaded them
            return
        expected = {name: value.shape for name, value in self.trained_parameters()}
        found = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        if expected != found:
            reshaped = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
            raise mismatch(
                f"checkpoint for {type(self).__name__}",
                expected.keys() - found.keys(),
                reshaped | (found.keys() - expected.keys()),
                "give a checkpoint of the same stage, and the network settings that it was trained with",
            )

    # --- logging -----------------------------------------------------------------------------------------------

    @property
    def should_log(self) -> bool:
        """Whether to log this micro-batch: the first one of every scheduled step, since logging makes a GPU wait."""
        return self.global_step != self.logged_step and self.logs_step

    @property
    def logs_step(self) -> bool:
        """Whether the Trainer's ``log_every_n_steps`` selects this optimiser step."""
        return self.global_step % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined, no-any-return]

    def log_scalars(self, values: dict[str, Tensor | float]) -> None:
        """Write scalars and learning rates straight to the loggers: ``self.log`` costs milliseconds per step."""
        self.logged_step = self.global_step
        numbers = {name: float(value) for name, value in values.items()}
        numbers |= {
            f"learning_rate/group{index}": group["lr"]
            for index, group in enumerate(self.optimizers(use_pl_optimizer=False).param_groups)  # type: ignore[union-attr]
        }
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.global_step)


def check_precision(precision: str) -> None:
    """Refuse a precision of the Trainer that would keep the weights in another dtype than float32.

    A step of 1e-5 is lost in bfloat16 weights, whose significand has 8 bits, and images come to the model as float32.

    Raises:
        UserError: ``precision``, as the Trainer calls it, is not supported.
    """
    if precision not in ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16"):
        raise UserError(
            f"precision: {precision}, but weights are kept in float32; give --trainer.precision bf16-mixed or 32-true"
        )


def plain(value: Any) -> Any:
    """Return dataclasses as dictionaries and paths as strings, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def batch_images(batch: RestorationBatch | PredictBatch, name: Literal["lq", "gt"]) -> Tensor:
    """Return images of a batch as (B, 3, H, W) in [-1, 1]."""
    return to_unit(batch[name])  # type: ignore[typeddict-item]


def crop_place(batch: RestorationBatch) -> tuple[Tensor | tuple[int, int], Tensor | None]:
    """Return the crops' corners and the sizes of their originals, (B, 2) each, for ``Network.context``.

    A batch that does not name them holds whole images.
    """
    return batch.get("crop", (0, 0)), batch.get("original_size")


def dropped_captions(captions: list[str], keys: list[int], share: float) -> list[str]:
    """Return captions, with a ``share`` of them replaced by the empty one (classifier-free guidance).

    A hash of each sample's key decides, so no tensor is needed and the device is not waited for.
    """
    return [
        "" if sample_key(key, "text") / 2**63 < share else caption for caption, key in zip(captions, keys, strict=True)
    ]
