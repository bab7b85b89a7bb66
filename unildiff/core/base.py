"""The base model that everything is built on: a latent diffusion model's VAE, U-Net, text encoders and schedule."""

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from unildiff.core.text import TextEncoders


@dataclass
class Base:
    """The parts of a base model; ``unildiff.weights.base`` loads one, ``unildiff.weights.folder`` saves one.

    Attributes:
        vae: the autoencoder, 8 pixels per latent along each side.
        unet: the denoising U-Net.
        text: one or two CLIP text encoders with their tokenizers.
        scheduler: the scheduler's config; betas, prediction type and timestep spacing are always read from it.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: TextEncoders
    scheduler: dict[str, Any]
