"""Stage 2, joint fine-tune (supplement: 40,000 steps, learning rates 5e-6 for the LQ encoder and 1e-5 for the rest)."""

from typing import Any

from unildiff.stages.denoising import DenoisingModule
from unildiff.stages.settings import DenoisingSettings
from unildiff.weights.stage_parts import INITIALISED_FROM, TRAINED


class JointFinetuneModule(DenoisingModule):
    """Trains LQ encoder, DAFF and U-Net; VAE and text encoders are frozen. Starts from an alignment checkpoint.

    Args:
        settings: fields of ``DenoisingSettings``.
    """

    trained = TRAINED["joint"]
    initialised_from = INITIALISED_FROM["joint"]

    def __init__(self, **settings: Any) -> None:
        super().__init__(DenoisingSettings(**settings))
