"""Stage 2, joint fine-tune (paper.md: 40,000 steps, learning rates 5e-6 for the LQ encoder and 1e-5 for the rest)."""

from typing import ClassVar

from unildiff.stages.denoising import DenoisingModule


class JointFinetuneModule(DenoisingModule):
    """Trains LQ encoder, DAFF and U-Net; VAE and text encoders are frozen. Starts from an alignment checkpoint."""

    trained = ("lq_encoder.", "unet.")
    hand_over: ClassVar[dict[str, str]] = {"unet.fusion.": "unet.fusion."}
