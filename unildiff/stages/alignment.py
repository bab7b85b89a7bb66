"""Stage 1, alignment: DAFF learns to condition a frozen base (supplement: 6,000 steps, learning rate 5e-5, L1 on the base's target)."""

from typing import Any

from unildiff.stages.denoising import DenoisingModule
from unildiff.stages.settings import DenoisingSettings
from unildiff.weights.stage_parts import TRAINED


class AlignmentModule(DenoisingModule):
    """Trains DAFF with its projections; VAE, U-Net, LQ encoder and text encoders are frozen.

    Args:
        settings: fields of ``DenoisingSettings``.
    """

    trained = TRAINED["alignment"]

    def __init__(self, **settings: Any) -> None:
        super().__init__(DenoisingSettings(**settings))
