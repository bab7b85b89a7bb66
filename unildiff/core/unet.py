"""The base U-Net with the fusion between its ``conv_in`` and the rest.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from dataclasses import dataclass, replace

from diffusers import UNet2DConditionModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from unildiff.core.daff import FusionConfig, FusionContext, FusionOutput, make_fusion, repeated
from unildiff.core.part import Part
from unildiff.core.text import TextEmbedding
from unildiff.diffusion.noise import KeyedNoise


@dataclass
class UNetContext:
    """Everything that stays the same over the steps, for B images and n captions per image.

    Attributes:
        fusion: prepared LQ tokens (B), text keys and values (n B); None runs the bare base U-Net (pretraining).
        text: embedded captions (n B): the first caption of every image, then the second, and so on.
        time_ids: SDXL's size conditioning (n B, 6) in pixels; None where the base has none.
    """

    fusion: FusionContext | None
    text: TextEmbedding
    time_ids: Tensor | None = None

    def last(self, batch: int) -> "UNetContext":
        """Return the context for the last caption of ``batch`` images; nothing is copied."""
        fusion = self.fusion
        if fusion is not None:
            pair = fusion.text_key_value
            text = None if pair is None else (pair[0][-batch:], pair[1][-batch:])
            fusion = replace(fusion, text_key_value=text)
        ids = None if self.time_ids is None else self.time_ids[-batch:]
        return UNetContext(fusion, self.text.last(batch), ids)


class FusedUNet(Part):
    """prediction = rest(conv_in(latents) + fusion(conv_in(latents), LQ feature, text, timestep)).

    ``conv_in`` is taken out of the diffusers U-Net, which keeps an identity in its place. The fusion needs
    neither hooks nor hidden state, and gradient checkpointing, DDP and compilation see plain modules.

    Args:
        unet: the base; it is changed in place; ``to_diffusers`` restores it.
        config: settings of the fusion.
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
        """Return the fusion's context of LQ features (B, F, h, w) and text (n B, S, D); computed once per image."""
        context: FusionContext = self.fusion.prepare(deep, text)
        return context

    def forward(
        self, latents: Tensor, timesteps: Tensor, context: UNetContext, noise: KeyedNoise | None = None
    ) -> tuple[Tensor, FusionOutput | None]:
        """Predict from noisy latents (B, C, h, w) at timesteps (B,), in the schedule's prediction type.

        With n captions per image, ``conv_in`` and the part of the fusion before its text attention run once per image.

        Returns:
            the prediction (n B, C, h, w) and the fusion's output (None without a fusion).
        """
        hidden, captions = self.conv_in(latents), context.text.tokens.shape[0] // latents.shape[0]
        fused = None
        if context.fusion is not None:
            fused = self.fusion(hidden, timesteps, context.fusion, noise)
            hidden = repeated(hidden, fused.residual.shape[0] // hidden.shape[0]) + fused.residual
        hidden = repeated(hidden, captions * latents.shape[0] // hidden.shape[0])
        timesteps = repeated(timesteps, captions)
        added = None
        if context.time_ids is not None:
            added = {"text_embeds": context.text.pooled, "time_ids": context.time_ids}
        prediction = self.rest(hidden, timesteps, context.text.tokens, added_cond_kwargs=added).sample
        return prediction, fused

    def to_diffusers(self) -> UNet2DConditionModel:
        """Return the diffusers U-Net with its ``conv_in`` back in place; this module must not be used afterwards."""
        self.rest.conv_in = self.conv_in
        return self.rest
