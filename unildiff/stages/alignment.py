"""Stage 1, alignment: DAFF learns to speak to a frozen base (paper.md: 6,000 steps, learning rate 5e-5, L1 on epsilon)."""

from unildiff.stages.denoising import DenoisingModule


class AlignmentModule(DenoisingModule):
    """Trains DAFF with its projections; VAE, U-Net, LQ encoder and text encoders are frozen."""

    trained = ("unet.fusion.",)
