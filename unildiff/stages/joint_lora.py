"""Stage 2 on a small card: the joint fine-tune with adapters (LoRA) in place of the whole U-Net. Our choice, not the paper's."""

from typing import Any, ClassVar

from unildiff.stages.denoising import DenoisingModule
from unildiff.utils.errors import UserError
from unildiff.weights.lora import LoRAConfig, add_adapters, halve_frozen


class JointLoRAModule(DenoisingModule):
    """Trains LQ encoder, DAFF and low-rank adapters in the U-Net's attention; all else is frozen.

    Its checkpoints hold the adapters; the decoder stage, `restore` and `export` merge them into the base's U-Net.

    Args:
        args: see ``DenoisingModule``.
        lora: rank of the adapters, dtype of what is frozen.
        kwargs: see ``DenoisingModule``.
    """

    trained = ("lq_encoder.", "unet.fusion.")
    hand_over: ClassVar[dict[str, str]] = {"unet.fusion.": "unet.fusion."}

    def __init__(self, *args: Any, lora: LoRAConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lora = LoRAConfig(**lora) if isinstance(lora, dict) else lora or LoRAConfig()  # a dict: of a checkpoint
        add_adapters(self.model.unet.rest, self.lora)

    def setup(self, stage: str) -> None:
        """Halve what is frozen, before anything moves to the device.

        Raises:
            UserError: that is asked for without autocast, where it would not be the same training; or see
                ``RestorationModule``.
        """
        super().setup(stage)
        if stage != "fit" or self.lora.frozen_dtype == "float32":
            return
        if self.trainer.precision != "bf16-mixed":
            raise UserError(
                f"lora: frozen_dtype bfloat16 goes with --trainer.precision bf16-mixed, not {self.trainer.precision}; give "
                "that, or --model.lora.frozen_dtype float32"
            )
        halve_frozen(self.model)
