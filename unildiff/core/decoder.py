"""The VAE decoder with DAEM at every resolution that has a skip.

Axis letters: B batch, C latent channels, h/w latent height and width, H/W pixels.
"""

import copy

from diffusers import AutoencoderKL
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.daem import DetailConfig, DetailLevel, LevelStatistics
from unildiff.core.encoders import downscale_factor, unshuffle_factor
from unildiff.core.gradient_checkpointing import run_block
from unildiff.core.moe import Routing
from unildiff.core.part import Part
from unildiff.core.pixel_mix import PixelMix
from unildiff.core.tone import ToneCorrection
from unildiff.diffusion.noise import KeyedNoise


class DetailDecoder(Part):
    """A copy of the VAE decoder whose features meet the LQ skips; bit-equal to it at initialisation.

    Args:
        vae: autoencoder whose decoder is copied.
        config: settings of the detail experts; ``kind: none`` leaves the plain decoder.
    """

    def __init__(self, vae: AutoencoderKL, config: DetailConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.scaling_factor = float(vae.config.scaling_factor)
        self.factor = unshuffle_factor(vae)
        self.post_quant_conv = copy.deepcopy(vae.post_quant_conv) or nn.Identity()
        decoder = copy.deepcopy(vae.decoder)
        self.conv_in, self.mid_block, self.up_blocks = decoder.conv_in, decoder.mid_block, decoder.up_blocks
        self.conv_norm_out, self.conv_act, self.conv_out = decoder.conv_norm_out, decoder.conv_act, decoder.conv_out
        # Up blocks run from coarse to fine; all but the last end one resolution up, at that of a skip.
        encoder_channels = list(vae.config.block_out_channels)
        levels = list(zip(reversed(encoder_channels[1:]), reversed(encoder_channels[:-1]), strict=True))
        has_experts = config.kind == "daem"
        self.details = nn.ModuleList(DetailLevel(config, *channels) for channels in levels if has_experts)
        mixes = has_experts and config.to_pixels
        self.pixels = PixelMix(config.width, self.factor, downscale_factor(vae)) if mixes else None
        self.tone = ToneCorrection() if has_experts and config.tone else None

    def forward(
        self,
        latents: Tensor,
        skips: list[Tensor],
        lq: Tensor,
        noise: KeyedNoise | None = None,
        whole: list[LevelStatistics] | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """Decode scaled latents (B, C, h, w) with the LQ encoder's skips and the LQ image itself.

        Args:
            latents: latents of an image or of a tile.
            skips: skip features of the same image or tile, finest first.
            lq: the same image or tile (B, 3, H, W) in [-1, 1]; used with ``to_pixels`` and ``tone`` only.
            noise: the routers' training noise; None in evaluation.
            whole: statistics of the whole image, one per level, if the latents are those of a tile. The caller must then apply
                ``tone`` to the whole image.

        Returns:
            images (B, 3, H, W), about [-1, 1], and one routing per level, coarsest first.
        """
        routings: list[Routing] = []
        finest = statistics = None
        hidden = self.conv_in(self.post_quant_conv(latents / self.scaling_factor))
        hidden = run_block(self.mid_block, hidden, recompute=self.gradient_checkpointing)
        for level, block in enumerate(self.up_blocks):
            hidden = run_block(block, hidden, recompute=self.gradient_checkpointing)
            if level < len(self.details):
                detail = self.details[level]
                given = whole[level] if whole is not None else None
                arguments = (hidden, skips[-1 - level], noise, f"daem{level}", given)
                made = run_block(detail, *arguments, recompute=self.gradient_checkpointing)
                hidden, routing, finest, statistics = made
                routings.append(routing)
        image = F.pixel_shuffle(self.conv_out(self.conv_act(self.conv_norm_out(hidden))), self.factor)
        if self.pixels is not None:
            image = self.pixels(image, lq, finest, statistics)
        if self.tone is not None and whole is None:
            image = self.tone(image, lq)
        return image, routings

    @apply_forward_hook  # type: ignore[untyped-decorator]  # diffusers has no types
    def merged_features(self, latents: Tensor, skips: list[Tensor], whole: list[LevelStatistics]) -> Tensor:
        """Return the merged features (B, D, H, W) of the level after the ``len(whole)`` levels whose statistics are known."""
        hidden = self.mid_block(self.conv_in(self.post_quant_conv(latents / self.scaling_factor)))
        for level, seen in enumerate(whole):
            hidden = self.details[level](self.up_blocks[level](hidden), skips[-1 - level], None, "", seen)[0]
        level = len(whole)
        features: Tensor = self.details[level].merged(self.up_blocks[level](hidden), skips[-1 - level])  # type: ignore[operator]
        return features
