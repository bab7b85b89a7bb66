"""The blocks of DAFF: timestep vector, double-stream block, single-stream block, token experts.

Axis letters: B batch, L tokens, D hidden width, W width of the merged tokens (2 D or D), E experts, k chosen experts.
Structure: blocks of MM-DiT (Esser et al. 2024, arXiv 2403.03206) and FLUX; gates, shifts and scales come from the timestep.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.attention import QueryKeyValue, attend
from unildiff.core.moe import Router, Routing, dispatch
from unildiff.diffusion.noise import KeyedNoise


class TimestepEmbedding(nn.Module):
    """Sinusoid of the raw timestep (0..T-1) through a two-layer MLP: (B,) -> (B, D)."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """Embed timesteps (B,) into (B, D) of the given dtype."""
        half = self.frequencies // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * rates
        embedding: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))
        return embedding


class TokenExperts(nn.Module):
    """MLP experts per token; every token is routed by itself (a switch; the paper has a plain MLP)."""

    def __init__(self, dim: int, hidden: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.router = Router(dim, num_experts, top_k)
        self.experts = nn.ModuleList(_mlp(dim, hidden) for _ in range(num_experts))

    def forward(self, tokens: Tensor, noise: KeyedNoise | None, stream: str) -> tuple[Tensor, Routing]:
        """Return mixed tokens (B, L, D) and the routing of the B*L tokens."""
        xi = None
        if noise is not None:
            xi = noise.normal(stream, tokens.shape[1], len(self.experts)).flatten(0, 1)
        flat = tokens.flatten(0, 1)
        routing = self.router(flat, xi)
        return dispatch(flat, routing, list(self.experts)).view_as(tokens), routing


def _mlp(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))


class _Stream(nn.Module):
    """One side of the double-stream block: its own norms, modulation, projections and MLP.

    A side that is only attended to (``kept=False``) has no layers after its queries, keys and values.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: int, num_experts: int, top_k: int, kept: bool = True
    ) -> None:
        super().__init__()
        self.kept = kept
        self.modulation = nn.Linear(dim, (6 if kept else 2) * dim)
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.qkv = QueryKeyValue(dim, num_heads, asks=kept)
        if not kept:
            return
        self.output = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        hidden = mlp_ratio * dim
        self.mlp = TokenExperts(dim, hidden, num_experts, top_k) if num_experts else _mlp(dim, hidden)

    def project(self, tokens: Tensor, vector: Tensor, angles: Tensor | None) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return (query, key, value) and the rest of the modulation."""
        shift, scale, *rest = self.modulation(F.silu(vector))[:, None].chunk(6 if self.kept else 2, dim=-1)
        return self.qkv(self.attention_norm(tokens) * (1 + scale) + shift, angles), rest

    def finish(
        self, tokens: Tensor, attended: Tensor, rest: list[Tensor], noise: KeyedNoise | None, stream: str
    ) -> tuple[Tensor, list[Routing]]:
        """Add attention and MLP to the tokens, both gated; a side that is not kept stays as it is."""
        if not self.kept:
            return tokens, []
        gate, shift, scale, mlp_gate = rest
        tokens = tokens + gate * self.output(attended)
        normed = self.mlp_norm(tokens) * (1 + scale) + shift
        if isinstance(self.mlp, TokenExperts):
            mixed, routing = self.mlp(normed, noise, stream)
            return tokens + mlp_gate * mixed, [routing]
        return tokens + mlp_gate * self.mlp(normed), []


class DoubleStreamBlock(nn.Module):
    """LQ tokens and latent tokens attend to each other in one joint attention; all other layers are separate.

    Args:
        dim: D.
        num_heads: attention heads.
        mlp_ratio: MLP width over D.
        num_experts: experts E per token in the MLPs; 0 is a plain MLP.
        top_k: experts chosen for a token.
        keeps_latent: False returns the latent tokens unchanged (the authors' code discards their update).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: int,
        num_experts: int = 0,
        top_k: int = 1,
        keeps_latent: bool = True,
    ) -> None:
        super().__init__()
        self.lq = _Stream(dim, num_heads, mlp_ratio, num_experts, top_k)
        self.latent = _Stream(dim, num_heads, mlp_ratio, num_experts, top_k, kept=keeps_latent)

    def forward(
        self,
        lq: Tensor,
        latent: Tensor,
        vector: Tensor,
        angles: Tensor | None,
        noise: KeyedNoise | None,
        stream: str,
    ) -> tuple[Tensor, Tensor, list[Routing]]:
        """Return both streams (B, L, D) and the routings of token experts, LQ first."""
        lq_qkv, lq_rest = self.lq.project(lq, vector, angles)
        latent_qkv, latent_rest = self.latent.project(latent, vector, angles)
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(lq_qkv, latent_qkv, strict=True))
        if not self.latent.kept:
            query = lq_qkv[0]
        attended = attend(query, key, value)
        lq_attended, latent_attended = attended[:, : lq.shape[1]], attended[:, lq.shape[1] :]
        lq, lq_routing = self.lq.finish(lq, lq_attended, lq_rest, noise, f"{stream}.lq")
        latent, latent_routing = self.latent.finish(latent, latent_attended, latent_rest, noise, f"{stream}.latent")
        return lq, latent, lq_routing + latent_routing


class SingleStreamBlock(nn.Module):
    """Parallel attention and MLP on merged tokens: f_align = f_cat + g * Linear2([A, act(M)])."""

    def __init__(self, width: int, vector_dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(vector_dim, 3 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = QueryKeyValue(width, num_heads)
        self.mlp_in = nn.Linear(width, mlp_ratio * width)
        self.output = nn.Linear(width + mlp_ratio * width, width)

    def forward(self, merged: Tensor, vector: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return merged tokens (B, L, W) and the mean absolute gate (B,)."""
        shift, scale, gate = self.modulation(F.silu(vector))[:, None].chunk(3, dim=-1)
        normed = self.norm(merged) * (1 + scale) + shift
        attended = attend(*self.qkv(normed, angles))
        mlp = F.gelu(self.mlp_in(normed), approximate="tanh")
        out = merged + gate * self.output(torch.cat([attended, mlp], dim=-1))
        return out, gate.detach().float().abs().mean(dim=(1, 2))
