"""The network: base model, LQ encoder, fused U-Net and detail decoder, and one pass through each of them.

Axis letters: B batch, H/W pixels, C latent channels, h/w latent height and width, F channels of the LQ feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from diffusers import AutoencoderKL
from torch import Tensor, nn

from unildiff.core.base import Base
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, downscale_factor
from unildiff.core.pixels import pad_to_multiple
from unildiff.core.text import Pixels, TextEmbedding, TextEncoders, time_ids
from unildiff.core.tiling import TileGrid
from unildiff.core.unet import FusedUNet, UNetContext
from unildiff.diffusion.noise import to_device
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.utils.validation import NonNegativeInt, check_fields


@dataclass
class NetworkConfig:
    """Sizes and switches of the parts that are added to the base model.

    Args:
        fusion: settings of the degradation-aware feature fusion (DAFF).
        detail: settings of the detail experts (DAEM) in the decoder.
        use_text: whether captions reach the model; False always uses the empty caption (ablation).
        last_timestep: last timestep of sampling where the sampling settings give none (paper: 0).
    """

    fusion: FusionConfig = field(default_factory=FusionConfig)
    detail: DetailConfig = field(default_factory=DetailConfig)
    use_text: bool = True
    last_timestep: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class LQFeatures:
    """Everything that is computed once per LQ image.

    Attributes:
        deep: deep feature of the LQ encoder (B, F, h, w).
        skips: skip features of the LQ encoder, finest first; empty for a tiled image.
        latents: VAE latents (B, C, h, w).
        lq: the padded image itself (B, 3, H, W) in [-1, 1].
        original: height and width of the original image, before padding or cropping, one pair or (B, 2).
        corner: top and left pixel of ``lq`` in the original image, one pair or (B, 2).
        grid: the tiles, or None for an image processed in one piece.
    """

    deep: Tensor
    skips: list[Tensor]
    latents: Tensor
    lq: Tensor
    original: Pixels
    corner: Pixels = (0, 0)
    grid: TileGrid | None = None


class Network(nn.Module):
    """The parts of the restorer and single passes through them; ``UniLDiff`` adds sampling and restoration.

    Args:
        base: the base model; it is consumed, because its U-Net's ``conv_in`` moves into the fused U-Net.
        config: sizes and switches of the added parts.
    """

    def __init__(self, base: Base, config: NetworkConfig) -> None:
        super().__init__()
        lq_encoder = LQEncoder(base.vae)
        unet = FusedUNet(base.unet, config.fusion, int(base.vae.config.block_out_channels[-1]))
        self._set(base.vae, base.text, lq_encoder, unet, DetailDecoder(base.vae, config.detail), base.scheduler, config)

    @classmethod
    def from_parts(
        cls,
        vae: AutoencoderKL,
        text: TextEncoders,
        lq_encoder: LQEncoder,
        unet: FusedUNet,
        decoder: DetailDecoder,
        scheduler_config: dict[str, Any],
        config: NetworkConfig,
    ) -> Self:
        """Return a model made of exactly these parts; nothing is copied."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._set(vae, text, lq_encoder, unet, decoder, scheduler_config, config)
        return model

    def _set(
        self,
        vae: AutoencoderKL,
        text: TextEncoders,
        lq_encoder: LQEncoder,
        unet: FusedUNet,
        decoder: DetailDecoder,
        scheduler_config: dict[str, Any],
        config: NetworkConfig,
    ) -> None:
        self.config, self.scheduler_config = config, scheduler_config
        self.vae, self.text, self.lq_encoder, self.unet, self.decoder = vae, text, lq_encoder, unet, decoder
        self.schedule = NoiseSchedule(scheduler_config)
        self.downscale_factor = downscale_factor(vae)

    def added_parts(self) -> dict[str, nn.Module]:
        """Return the parts that are not in the base model, by the name of their subfolder in a folder of weights."""
        return {"lq_encoder": self.lq_encoder, "fusion": self.unet.fusion, "decoder": self.decoder}

    def embed(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions; with ``use_text`` off every caption is replaced by the empty one."""
        embedding: TextEmbedding = self.text(list(captions) if self.config.use_text else [""] * len(captions))
        return embedding

    def context(
        self,
        deep: Tensor,
        text: TextEmbedding,
        size: tuple[int, int],
        corner: Pixels = (0, 0),
        original: Pixels | None = None,
    ) -> UNetContext:
        """Return what the U-Net needs at every step, from the LQ encoder's deep feature (B, F, h, w) and captions.

        Args:
            deep: deep feature of the images.
            text: embedded captions: one per image (B), or n B of them, the first caption of every image, then the
                second, and so on. The context is then for a batch of n B, and what does not depend on the caption
                is computed once.
            size: height and width in pixels of what the network sees: an image, a training crop or a tile.
            corner: its top and left pixel in the original image, one pair or (B, 2).
            original: height and width of the original image, one pair or (B, 2); None is ``size``.
        """
        ids = None
        if self.unet.rest.config.addition_embed_type == "text_time":
            batch = deep.shape[0]
            ids = to_device(time_ids(size if original is None else original, corner, size, batch), deep.device)
            ids = ids.repeat(text.tokens.shape[0] // batch, 1)
        return UNetContext(self.unet.prepare(deep, text.tokens), text, ids)

    def predict(self, latents: Tensor, timesteps: Tensor, context: UNetContext) -> Tensor:
        """Return the U-Net's prediction (B, C, h, w) for noisy latents at timesteps (B,)."""
        prediction: Tensor = self.unet(latents.to(context.text.tokens.dtype), timesteps, context)[0]
        return prediction

    def pad(self, images: Tensor) -> Tensor:
        """Pad images by reflection at the right and bottom to sides that encoder and fusion can halve."""
        return pad_to_multiple(images, self.downscale_factor * 2)
