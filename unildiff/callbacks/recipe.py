"""What a recipe promises and a different number of devices would silently break."""

from typing import Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from unildiff.utils.errors import UserError
from unildiff.utils.validation import PositiveInt, check_arguments


class GlobalBatch(Callback):
    """Refuses to train with another global batch than the recipe's.

    The global batch is devices x batch size x accumulation. With another number of devices, adjust batch size or accumulation.
    """

    def __init__(self, size: PositiveInt = 64) -> None:
        """Args: size: samples per optimiser step (supplement: 64)."""
        check_arguments(GlobalBatch, locals())
        super().__init__()
        self.size = size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare before anything is computed.

        Raises:
            UserError: the global batch differs; the message suggests an accumulation that fits.
        """
        if stage != "fit":
            return
        batch = int(getattr(trainer.datamodule, "batch_size", 0))  # type: ignore[attr-defined]
        devices, accumulation = trainer.world_size, trainer.accumulate_grad_batches
        if batch == 0 or devices * batch * accumulation == self.size:
            return
        fitting, rest = divmod(self.size, devices * batch)
        if rest == 0 and fitting > 0:
            advice = f"give --trainer.accumulate_grad_batches {fitting}"
        else:
            advice = f"no accumulation fits; give a --data.batch_size that divides {self.size} / {devices}"
        raise UserError(
            f"global batch: {devices} devices x batch {batch} x accumulation {accumulation} is "
            f"{devices * batch * accumulation}, the recipe's is {self.size}; {advice} (or another size with GlobalBatch)"
        )


class MatmulPrecision(Callback):
    """Lets float32 matrix products run in TF32 on GPUs that have it: what is left in float32 under bf16-mixed."""

    def __init__(self, precision: Literal["highest", "high", "medium"] = "high") -> None:
        """Args: precision: ``high`` (TF32), ``medium`` (bfloat16) or ``highest`` (float32)."""
        check_arguments(MatmulPrecision, locals())
        super().__init__()
        self.precision = precision

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set it for this process."""
        torch.set_float32_matmul_precision(self.precision)
