"""The base U-Net with the fusion between its ``conv_in`` and the rest.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from dataclasses import dataclass, replace

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

    def last(self, batch: int) -> "UNetContext":
        """Return the context of the last ``batch`` samples; nothing is copied."""
        fusion = self.fusion
        if fusion is not None:
            pair = fusion.text_key_value
            text = None if pair is None else (pair[0][-batch:], pair[1][-batch:])
            fusion = replace(fusion, lq_tokens=fusion.lq_tokens[-batch:], text_key_value=text)
        ids = None if self.time_ids is None else self.time_ids[-batch:]
        return UNetContext(fusion, self.text.last(batch), ids)


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
        """Return the fusion's context of an LQ feature (B, F, h, w) and text (B, S, D), once a picture.

        Of several texts a picture, (n B, S, D), the context is for a batch of n B; the LQ feature is embedded once.
        """
        context: FusionContext = self.fusion.prepare(deep, text)
        repeats = text.shape[0] // deep.shape[0]
        return replace(context, lq_tokens=torch.cat([context.lq_tokens] * repeats)) if repeats > 1 else context

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
