"""Stage 2 on a small card: the joint fine-tune with adapters (LoRA) instead of the whole U-Net. Our choice, not the paper's."""

from typing import Any

from unildiff.stages.denoising import DenoisingModule
from unildiff.stages.settings import LoRASettings
from unildiff.weights.lora import add_adapters
from unildiff.weights.stage_parts import INITIALISED_FROM, TRAINED


class JointLoRAModule(DenoisingModule):
    """Trains LQ encoder, DAFF and low-rank adapters in the U-Net's attention; everything else is frozen.

    Its checkpoints hold the adapters; the decoder stage, `restore` and `export` merge them into the U-Net of the base.

    Args:
        settings: fields of ``LoRASettings``.
    """

    settings: LoRASettings
    trained = TRAINED["joint_lora"]
    initialised_from = INITIALISED_FROM["joint_lora"]

    def __init__(self, **settings: Any) -> None:
        super().__init__(LoRASettings(**settings))
        add_adapters(self.model.unet.rest, self.settings.lora)

    @property
    def frozen_dtype(self) -> str:
        """Dtype of the frozen weights during training, as given for all stages or with the adapters."""
        return "bfloat16" if "bfloat16" in (self.settings.lora.frozen_dtype, self.settings.frozen_dtype) else "float32"
