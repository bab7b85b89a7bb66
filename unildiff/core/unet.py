"""The base U-Net with the fusion between its ``conv_in`` and the rest.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from unildiff.core.daff import FusionConfig, FusionContext, FusionOutput, make_fusion
from unildiff.core.part import Part
from unildiff.core.text import TextEmbedding
from unildiff.diffusion.noise import KeyedNoise


@dataclass
class UNetContext:
    """All that stays the same over the steps of one picture.

    Attributes:
        fusion: prepared LQ tokens and text keys and values; None runs the bare base U-Net (pretraining).
        text: embedded captions.
        time_ids: SDXL's size conditioning (B, 6) in pixels; None where the base has none.
    """

    fusion: FusionContext | None
    text: TextEmbedding
    time_ids: Tensor | None = None

    def doubled(self, other: "UNetContext") -> "UNetContext":
        """Return this context and ``other`` (same pictures, other text) as one batch of 2B."""
        fusion = None
        if self.fusion is not None and other.fusion is not None:
            fusion = self.fusion.doubled(other.fusion)
        ids = None
        if self.time_ids is not None and other.time_ids is not None:
            ids = torch.cat([self.time_ids, other.time_ids])
        return UNetContext(fusion, self.text.joined(other.text), ids)


class FusedUNet(Part):
    """prediction = rest(conv_in(latents) + fusion(conv_in(latents), LQ feature, text, timestep)).

    ``conv_in`` is taken out of the diffusers U-Net, which keeps an identity in its place: the fusion then needs neither
    hooks nor hidden state, and gradient checkpointing, DDP and compilation see plain modules.

    Args:
        unet: the base; it is changed in place, ``to_diffusers`` gives it back whole.
        config: of the fusion.
        lq_channels: channels of the LQ encoder's deep feature.
    """

    def __init__(self, unet: UNet2DConditionModel, config: FusionConfig, lq_channels: int) -> None:
        super().__init__()
        self.conv_in = unet.conv_in
        unet.conv_in = nn.Identity()
        self.rest = unet
        channels = int(unet.config.block_out_channels[0])
        self.fusion = make_fusion(config, channels, lq_channels, int(unet.config.cross_attention_dim))

    @apply_forward_hook  # type: ignore[untyped-decorator]  # diffusers has no types
    def prepare(self, deep: Tensor, text: Tensor) -> FusionContext:
        """Return the fusion's context of an LQ feature (B, F, h, w) and text (B, S, D), once a picture."""
        context: FusionContext = self.fusion.prepare(deep, text)
        return context

    def forward(
        self, latents: Tensor, timesteps: Tensor, context: UNetContext, noise: KeyedNoise | None = None
    ) -> tuple[Tensor, FusionOutput | None]:
        """Predict from noisy latents (B, C, h, w) at timesteps (B,), in the schedule's prediction type.

        Returns:
            the prediction (B, C, h, w) and what the fusion did (None without one).
        """
        hidden = self.conv_in(latents)
        fused = None
        if context.fusion is not None:
            fused = self.fusion(hidden, timesteps, context.fusion, noise)
            hidden = hidden + fused.residual
        added = None
        if context.time_ids is not None:
            added = {"text_embeds": context.text.pooled, "time_ids": context.time_ids}
        prediction = self.rest(hidden, timesteps, context.text.tokens, added_cond_kwargs=added).sample
        return prediction, fused

    def to_diffusers(self) -> UNet2DConditionModel:
        """Return the diffusers U-Net with its ``conv_in`` back in place; this module must not be used afterwards."""
        self.rest.conv_in = self.conv_in
        return self.rest
