"""DAEM, detail-aware expert module: gives the VAE decoder back the detail that its compression lost.

Axis letters: B batch, C decoder channels, K skip channels, D width of the branch, H/W height and width at one level,
N routed inputs (B images, or B times the windows of a picture), E experts, k chosen experts, m window side, r halo.
Sources: paper.md "Two modules" (DAEM) and "Expert gate"; block shapes and the shared branch's form are our choice.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.moe import Router, Routing, dispatch
from unildiff.core.norm import ChannelNorm
from unildiff.diffusion.noise import KeyedNoise


@dataclass
class DetailConfig:
    """Sizes and switches of the detail experts.

    Args:
        kind: ``daem``, or ``none``: the plain VAE decoder (ablation).
        width: D, channels inside the branch.
        kernel_sizes: depthwise kernel of each expert; their number is E (authors: 3, 5, 7, 9).
        top_k: experts chosen for an input (paper: 1).
        routing: ``image`` (authors' code) or ``window``.
        window_size: m, side of a window at the level's own resolution; used by ``window`` routing.
        expert_depth: blocks an expert.
        mix_depth: blocks that decoder features and skip go through together before an expert is chosen.
        to_pixels: the finest level also reaches the picture itself, past the decoder's last norm, which takes a picture's
            absolute brightness and contrast away: see ``pixel_mix.py`` (our choice for small decoders, docs/tiny-model.md;
            paper: no).
    """

    kind: Literal["daem", "none"] = "daem"
    width: int = 64
    kernel_sizes: tuple[int, ...] = (3, 5, 7, 9)
    top_k: int = 1
    routing: Literal["image", "window"] = "image"
    window_size: int = 64
    expert_depth: int = 1
    mix_depth: int = 1
    to_pixels: bool = False


class NAFBlock(nn.Module):
    """A light nonlinear-activation-free block (Chen et al. 2022) whose depthwise kernel sets the receptive field.

    Without its global channel attention: an expert sees its neighbourhood, the shared branch sees the picture, and so
    a window gives the same result whatever lies far away.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.expand = nn.Conv2d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, kernel_size, padding=kernel_size // 2, groups=2 * dim)
        self.project = nn.Conv2d(dim, dim, 1)
        self.mlp_in = nn.Conv2d(dim, 2 * dim, 1)
        self.mlp_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, D, H, W)."""
        first, second = self.depthwise(self.expand(self.norm1(x))).chunk(2, dim=1)
        x = x + self.project(first * second)
        first, second = self.mlp_in(self.norm2(x)).chunk(2, dim=1)
        mixed: Tensor = self.mlp_out(first * second)
        return x + mixed


class SharedBranch(nn.Module):
    """S(x): one gate for every expert from the whole picture, 2 * sigmoid(local + global), 1 where both are silent."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.pooled = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the gate (B, D, H, W) of features (B, D, H, W) and their mean (B, D) over the whole picture."""
        return 2 * torch.sigmoid(self.local(x) + self.pooled(mean)[:, :, None, None])


@dataclass
class LevelStatistics:
    """What a level's decisions for a whole picture rest on: mean and spread (B, D) of its merged features.

    The spread sits beside the mean: rain and snow hardly move a mean (our choice).
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, weights: Tensor | None = None) -> "LevelStatistics":
        """Return those of features (B, D, H, W); with ``weights`` (B, 1, H, W) of the pixels that these weigh."""
        if weights is not None:
            share = weights / weights.sum(dim=(2, 3), keepdim=True)
            mean = (x.float() * share).sum(dim=(2, 3), keepdim=True)
            variance = ((x.float() - mean).square() * share).sum(dim=(2, 3))
            return cls(mean.flatten(1).to(x.dtype), variance.clamp_min(1e-12).sqrt().to(x.dtype))
        return cls(x.mean(dim=(2, 3)), x.float().std(dim=(2, 3), unbiased=False).to(x.dtype))


class DetailLevel(nn.Module):
    """One resolution of DAEM: decoder features meet the LQ skip, the router chooses, the result is added.

    y = sum over the chosen i of g_i E_i(x) S(x); only the last projections start at zero.

    Args:
        config: sizes and switches.
        channels: C.
        skip_channels: K.
    """

    def __init__(self, config: DetailConfig, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.config = config
        dim, experts = config.width, len(config.kernel_sizes)
        self.merge = nn.Conv2d(channels + skip_channels, dim, 1)
        self.mix = nn.Sequential(*(NAFBlock(dim, 3) for _ in range(config.mix_depth)))
        self.router = Router(2 * dim, experts, config.top_k)
        self.experts = nn.ModuleList(
            nn.Sequential(*(NAFBlock(dim, kernel) for _ in range(config.expert_depth)))
            for kernel in config.kernel_sizes
        )
        self.halo = config.expert_depth * (max(config.kernel_sizes) // 2)
        self.shared = SharedBranch(dim)
        self.output = nn.Conv2d(dim, channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def merged(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Return decoder features (B, C, H, W) and the LQ skip (B, K, H, W) as one, (B, D, H, W)."""
        x: Tensor = self.mix(self.merge(torch.cat([hidden, skip.to(hidden.dtype)], dim=1)))
        return x

    def forward(
        self,
        hidden: Tensor,
        skip: Tensor,
        noise: KeyedNoise | None,
        stream: str,
        whole: LevelStatistics | None = None,
    ) -> tuple[Tensor, Routing, Tensor, LevelStatistics]:
        """Return hidden (B, C, H, W) with detail added, the routing, the detail (B, D, H, W), and the picture's statistics.

        ``skip`` is (B, K, H, W); ``whole`` decides for the whole picture where ``hidden`` is only a tile of it.
        """
        x = self.merged(hidden, skip)
        whole = whole or LevelStatistics.of(x)
        if self.config.routing == "image":
            mixed, routing = self._route(x, whole, noise, stream)
        else:
            mixed, routing = self._route_windows(x, noise, stream)
        detail = mixed * self.shared(x, whole.mean)
        return hidden + self.output(detail), routing, detail, whole

    def _route(self, x: Tensor, seen: LevelStatistics, noise: KeyedNoise | None, stream: str) -> tuple[Tensor, Routing]:
        """Route x (N, D, ., .) by what was seen of it, or of the picture that it is a tile of."""
        xi = None
        if noise is not None:
            per_picture = x.shape[0] // len(noise.keys)
            xi = noise.normal(stream, per_picture, len(self.experts)).flatten(0, 1)
        routing = self.router(torch.cat([seen.mean, seen.spread], dim=1), xi)
        return dispatch(x, routing, list(self.experts)), routing

    def _route_windows(self, x: Tensor, noise: KeyedNoise | None, stream: str) -> tuple[Tensor, Routing]:
        """Route windows of m x m; each is read with a halo r so that its experts see across its edges."""
        m, r = self.config.window_size, self.halo
        batch, dim, height, width = x.shape
        rows, columns = -(-height // m), -(-width // m)
        padded = F.pad(x, (r, r + columns * m - width, r, r + rows * m - height))
        tiles = padded.unfold(2, m + 2 * r, m).unfold(3, m + 2 * r, m)  # (B, D, rows, columns, m+2r, m+2r)
        tiles = tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        inner = tiles[..., r : r + m, r : r + m]
        beyond = (columns * m - width, rows * m - height)
        weights = None
        if any(beyond):  # what lies beyond the edges says nothing of the picture
            inside = F.pad(x.new_ones(1, 1, height, width, dtype=torch.float32), (0, beyond[0], 0, beyond[1]))
            weights = inside.unfold(2, m, m).unfold(3, m, m).reshape(-1, 1, m, m).repeat(batch, 1, 1, 1)
        mixed, routing = self._route(tiles, LevelStatistics.of(inner, weights), noise, stream)
        mixed = mixed[..., r : r + m, r : r + m].reshape(batch, rows, columns, dim, m, m)
        picture = mixed.permute(0, 3, 1, 4, 2, 5).reshape(batch, dim, rows * m, columns * m)
        return picture[..., :height, :width], routing
