"""From images to latents and features: pixel packing, the VAE's encoder, the LQ encoder and its skips.

Axis letters: B batch, H/W pixels, h/w latent height and width, C channels, p pixel-unshuffle factor.
"""

import copy
import math

from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from unildiff.core.gradient_checkpointing import run_block
from unildiff.core.part import Part


def unshuffle_factor(vae: AutoencoderKL) -> int:
    """Return p such that the VAE takes 3 p^2 channels: 1 for SDXL; 4 for the tiny VAE, which sees 4x4 pixels as one.

    Raises:
        ValueError: if the VAE's channels are not three times a square.
    """
    channels = int(vae.config.in_channels)
    factor = math.isqrt(channels // 3)
    if channels != 3 * factor * factor:
        raise ValueError(f"the VAE takes {channels} channels; expected 3, 12, 27, ... (three times a square)")
    return factor


def downscale_factor(vae: AutoencoderKL) -> int:
    """Return pixels per latent along one side: 8 for both sizes."""
    halvings = len(vae.config.block_out_channels) - 1
    return (1 << halvings) * unshuffle_factor(vae)


def encode_latents(vae: AutoencoderKL, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return scaled latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1].

    Args:
        vae: any AutoencoderKL.
        images: H and W multiples of the downscale factor.
        noise: standard normal (B, C, h, w) samples the posterior (training); None takes its mean (inference).
    """
    posterior = vae.encode(F.pixel_unshuffle(images, unshuffle_factor(vae))).latent_dist
    latents: Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise
    return latents * float(vae.config.scaling_factor)


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return images (B, 3, H, W), about [-1, 1], of scaled latents: the plain VAE decoder."""
    decoded = vae.decode(latents / vae.config.scaling_factor).sample
    return F.pixel_shuffle(decoded, unshuffle_factor(vae))


class LQEncoder(Part):
    """A copy of the VAE encoder without its last norm, activation and convolution (docs/sources.md, "LQ encoder").

    Returns the deep feature for DAFF and the high-resolution skips for DAEM; run once per image, not once per step.
    At SDXL's size: 512 channels at 1/8 of the image, and skips of 128, 256, 512 channels at 1, 1/2, 1/4.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        encoder = copy.deepcopy(vae.encoder)
        self.conv_in, self.down_blocks, self.mid_block = encoder.conv_in, encoder.down_blocks, encoder.mid_block
        self.factor = unshuffle_factor(vae)
        self.gradient_checkpointing = False

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images (B, 3, H, W) in [-1, 1].

        Returns:
            the deep feature (B, C, h, w) and one skip per resolution above h x w, finest first.
        """
        hidden = self.conv_in(F.pixel_unshuffle(images, self.factor))
        skips = []
        for block in self.down_blocks:
            for resnet in block.resnets:
                hidden = run_block(resnet, hidden, None, recompute=self.gradient_checkpointing)
            if block.downsamplers is not None:
                skips.append(hidden)
                for downsampler in block.downsamplers:
                    hidden = downsampler(hidden)
        return run_block(self.mid_block, hidden, recompute=self.gradient_checkpointing), skips
