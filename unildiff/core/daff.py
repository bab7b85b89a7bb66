"""DAFF, degradation-aware feature fusion: LQ features meet the noisy latents at the entrance of the U-Net.

Axis letters: B batch, C channels after ``conv_in``, F channels of the LQ feature, h/w latent height and width, L tokens,
D hidden width, p patch side (tokens are p x p latents), E experts.
Sources: docs/sources.md, "DAFF"; the widths of the authors' public code are the defaults.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.attention import CrossAttention, axial_rope
from unildiff.core.fusion_blocks import DoubleStreamBlock, SingleStreamBlock, TimestepEmbedding
from unildiff.core.gradient_checkpointing import run_block
from unildiff.core.moe import Routing
from unildiff.core.norm import ChannelNorm
from unildiff.diffusion.noise import KeyedNoise
from unildiff.utils.errors import UserError
from unildiff.utils.validation import Depth, NonNegativeInt, Range, Width, check_fields

Factor = Annotated[int, Range(1, 256)]


@dataclass
class FusionConfig:
    """Sizes and switches of the fusion.

    Args:
        kind: ``daff``; or as ablations ``residual_attention``, latent tokens that attend to LQ tokens and add the result,
            and ``plain``, one zero-initialised 1x1 convolution that is the same at every timestep.
        hidden_size: D (authors: 1024).
        num_heads: attention heads (authors: 16).
        mlp_ratio: MLP width over its input's (authors: 4).
        patch_size: latents per token along one side (authors: 1; tiny: 2, a quarter of the tokens).
        num_double_blocks: double-stream blocks (authors: 1); 0 leaves the single stream only (ablation).
        num_single_blocks: single-stream blocks (authors: 1); 0 leaves the double stream only (ablation).
        merge: how the streams enter the single-stream blocks: side by side on the ``channels`` axis (authors' code), or one
            after the other as one ``sequence`` (FLUX), of which the latent half continues.
        text_attention: cross-attention from the fused feature to the caption.
        rope: 2-D axial rotary positions (our choice); False has no positions (authors' code).
        rope_grid: side of the trained token grid; positions of larger grids are scaled down to it (position interpolation,
            Chen et al. 2023, arXiv 2306.15595). 0 never scales.
        double_outputs: ``both`` outputs of the double block reach the single block (the equation), or the
            ``authors``' code, which discards the latent output.
        token_experts: experts E per token in the double block's MLPs; 0 is a plain MLP (paper).
        token_top_k: experts chosen for each token.
        lq_norm: how the LQ feature is normalised (our choice): ``token``, each position over its channels, or
            ``image``, groups of channels over the whole image, which removes absolute brightness (once called ``picture``).
    """

    kind: Literal["daff", "residual_attention", "plain"] = "daff"
    hidden_size: Width = 1024
    num_heads: Factor = 16
    mlp_ratio: Factor = 4
    patch_size: Factor = 1
    num_double_blocks: Depth = 1
    num_single_blocks: Depth = 1
    merge: Literal["channels", "sequence"] = "channels"
    text_attention: bool = True
    rope: bool = True
    rope_grid: NonNegativeInt = 0
    double_outputs: Literal["both", "authors"] = "both"
    token_experts: Depth = 0
    token_top_k: Depth = 1
    lq_norm: Literal["token", "image", "picture"] = "token"

    def __post_init__(self) -> None:
        check_fields(self)
        self.lq_norm = "image" if self.lq_norm == "picture" else self.lq_norm
        heads, experts = self.num_heads, self.token_experts
        if self.hidden_size % (heads * (4 if self.rope else 1)):
            multiple = f"4 x num_heads ({4 * heads}) with rope" if self.rope else f"num_heads ({heads})"
            raise UserError(f"fusion.hidden_size is {self.hidden_size}; it must be a multiple of {multiple}")
        if experts and not 1 <= self.token_top_k <= experts:
            raise UserError(
                f"fusion.token_top_k is {self.token_top_k}; it must be between 1 and token_experts ({experts})"
            )


@dataclass
class FusionContext:
    """What the fusion needs of an image, computed once and used at every step.

    Attributes:
        lq_tokens: embedded LQ feature (B, L, D), or (B, C, h, w) for plain injection.
        text_key_value: keys and values of n captions per image (n B), or None without text attention.
        angles: rotary angles (L, d/2), or None.
    """

    lq_tokens: Tensor
    text_key_value: tuple[Tensor, Tensor] | None = None
    angles: Tensor | None = None


@dataclass
class FusionOutput:
    """The residual (B, C, h, w) for ``conv_in``'s output, its routings, and the gate per timestep for plots.

    Attributes:
        residual: added to the output of ``conv_in``.
        routings: one per routed layer, empty without token experts.
        gate: mean absolute gate of the single-stream blocks, (B,).
    """

    residual: Tensor
    routings: list[Routing] = field(default_factory=list)
    gate: Tensor | None = None


def repeated(x: Tensor, times: int) -> Tensor:
    """Return a batch (B, ...) repeated to (times B, ...)."""
    return x if times == 1 else x.repeat(times, *[1] * (x.dim() - 1))


class DAFF(nn.Module):
    """Fuses LQ tokens and latent tokens; its output starts at zero, so step 0 of training equals the base model.

    Args:
        config: sizes and switches.
        latent_channels: C, channels after the U-Net's ``conv_in``.
        lq_channels: F, channels of the LQ encoder's deep feature.
        text_dim: width of the text embedding.
    """

    def __init__(self, config: FusionConfig, latent_channels: int, lq_channels: int, text_dim: int) -> None:
        super().__init__()
        self.config = config
        dim, heads, area = config.hidden_size, config.num_heads, config.patch_size**2
        self.gradient_checkpointing = False
        self.latent_in = nn.Linear(latent_channels * area, dim)
        self.lq_norm = ChannelNorm(lq_channels) if config.lq_norm == "token" else nn.GroupNorm(8, lq_channels)
        self.lq_in = nn.Linear(lq_channels * area, dim)
        self.time = TimestepEmbedding(dim)
        keeps_latent = config.double_outputs == "both"
        streams = config.kind == "daff"
        width = 2 * dim if streams and config.merge == "channels" else dim
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(dim, heads, config.mlp_ratio, config.token_experts, config.token_top_k, keeps_latent)
            for _ in range(config.num_double_blocks if streams else 0)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(width, dim, heads, config.mlp_ratio)
            for _ in range(config.num_single_blocks if streams else 0)
        )
        self.residual_attention = None if streams else CrossAttention(dim, dim, dim, heads)
        self.text_attention = CrossAttention(width, text_dim, dim, heads) if config.text_attention else None
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Linear(dim, 2 * width)
        self.final = nn.Linear(width, dim)
        self.output = nn.Linear(dim, latent_channels * area)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def _tokens(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, L, C p^2); edges are repeated if the patch does not divide the side."""
        p = self.config.patch_size
        pad = (-x.shape[-1] % p, -x.shape[-2] % p)
        if any(pad):
            x = F.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")
        return F.pixel_unshuffle(x, p).flatten(2).transpose(1, 2)

    def prepare(self, lq_feature: Tensor, text: Tensor) -> FusionContext:
        """Return the context of LQ features (B, F, h, w) and text (n B, S, text_dim), for all steps."""
        height, width = (-(-side // self.config.patch_size) for side in lq_feature.shape[-2:])
        angles = None
        if self.config.rope:
            head_dim = self.config.hidden_size // self.config.num_heads
            grid = self.config.rope_grid
            scale = min(1.0, grid / max(height, width)) if grid else 1.0
            angles = axial_rope(height, width, head_dim, lq_feature.device, scale)
        key_value = self.text_attention.prepare(text) if self.text_attention is not None else None
        return FusionContext(self.lq_in(self._tokens(self.lq_norm(lq_feature))), key_value, angles)

    def forward(
        self, hidden: Tensor, timesteps: Tensor, context: FusionContext, noise: KeyedNoise | None = None
    ) -> FusionOutput:
        """Return the residual for ``hidden`` = conv_in(latents), (B, C, h, w), at timesteps (B,).

        With n captions per image only what follows the text attention runs n times; the residual is then (n B, C, h, w).
        ``noise`` is the routers' training noise; None in evaluation.
        """
        vector = self.time(timesteps, hidden.dtype)
        lq, latent = context.lq_tokens, self.latent_in(self._tokens(hidden))
        routings: list[Routing] = []
        for index, block in enumerate(self.double_blocks):
            lq, latent, routed = self._run(block, lq, latent, vector, context.angles, noise, f"double{index}")
            routings += routed
        merged, gates = self._merged(lq, latent, vector, context.angles)
        if self.text_attention is not None and context.text_key_value is not None:
            captions = context.text_key_value[0].shape[0] // merged.shape[0]
            merged, vector = repeated(merged, captions), repeated(vector, captions)
            merged = self.text_attention(merged, context.text_key_value)
        shift, scale = self.final_modulation(F.silu(vector))[:, None].chunk(2, dim=-1)
        tokens = self.output(self.final(self.final_norm(merged) * (1 + scale) + shift))
        mean_gate = torch.stack(gates).mean(0) if gates else None
        return FusionOutput(self._image(tokens, hidden.shape[-2:]), routings, mean_gate)

    def _merged(self, lq: Tensor, latent: Tensor, vector: Tensor, angles: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the tokens of both streams as one, (B, L, 2 D) or (B, L, D), and the gates (B,) of the single blocks."""
        if self.residual_attention is not None:
            return self.residual_attention(latent, self.residual_attention.prepare(lq)), []
        in_sequence, gates = self.config.merge == "sequence", []
        merged = torch.cat([lq, latent], dim=1 if in_sequence else -1)
        # In a sequence both tokens of a place have its position; on channels a head is twice as wide as in the double block,
        # and the angles serve both halves of its rotation pairs.
        both = None if angles is None else torch.cat([angles, angles], dim=0 if in_sequence else -1)
        for block in self.single_blocks:
            merged, gate = self._run(block, merged, vector, both)
            gates.append(gate)
        return merged[:, lq.shape[1] :] if in_sequence else merged, gates

    def _run(self, block: nn.Module, *args: object) -> Any:
        return run_block(block, *args, recompute=self.gradient_checkpointing)

    def _image(self, tokens: Tensor, size: torch.Size) -> Tensor:
        p = self.config.patch_size
        height, width = -(-size[0] // p), -(-size[1] // p)
        grid = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)
        return F.pixel_shuffle(grid, p)[..., : size[0], : size[1]]


class PlainInjection(nn.Module):
    """The ablation without DAFF: one zero-initialised 1x1 convolution of the LQ feature, independent of the timestep."""

    def __init__(self, latent_channels: int, lq_channels: int) -> None:
        super().__init__()
        self.config = FusionConfig(kind="plain")
        self.output = nn.Conv2d(lq_channels, latent_channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def prepare(self, lq_feature: Tensor, text: Tensor) -> FusionContext:
        """Return the residual (B, C, h, w) itself; it is the same at every step and ignores the text."""
        return FusionContext(self.output(lq_feature))

    def forward(
        self, hidden: Tensor, timesteps: Tensor, context: FusionContext, noise: KeyedNoise | None = None
    ) -> FusionOutput:
        """Return the prepared residual."""
        return FusionOutput(context.lq_tokens)


def make_fusion(config: FusionConfig, latent_channels: int, lq_channels: int, text_dim: int) -> DAFF | PlainInjection:
    """Return the fusion that the config names."""
    if config.kind == "plain":
        return PlainInjection(latent_channels, lq_channels)
    return DAFF(config, latent_channels, lq_channels, text_dim)
