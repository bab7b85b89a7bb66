"""DAEM, detail-aware expert module: restores detail lost by the VAE, from the LQ encoder's skips.

Axis letters: B batch, C decoder channels, K skip channels, D width of the branch, H/W height and width at one level,
N routed inputs (B images, or B times the windows or positions of an image), E experts, k chosen experts, m window side, r halo.
Sources: docs/sources.md, "DAEM"; block shapes and the form of the shared branch are our choice.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.moe import Router, Routing, dispatch
from unildiff.core.norm import ChannelNorm
from unildiff.diffusion.noise import KeyedNoise
from unildiff.utils.errors import UserError
from unildiff.utils.validation import Depth, PixelCount, Range, Width, check_fields

KernelSize = Annotated[int, Range(1, 63)]


@dataclass
class DetailConfig:
    """Sizes and switches of the detail experts.

    Args:
        kind: ``daem``, or ``none``: the plain VAE decoder (ablation).
        width: D, channels inside the branch.
        kernel_sizes: depthwise kernel of each expert; their number is E (authors: 3, 5, 7, 9).
        top_k: experts chosen for an input (paper: 1).
        routing: what chooses an expert: every ``position`` of a level (the paper's text), a ``window`` of positions, or a
            whole ``image`` (authors' code). See ``moe.py`` for what few routed inputs do to the balancing loss.
        window_size: m, side of a window at the level's own resolution; used by ``window`` routing.
        expert_depth: blocks per expert.
        mix_depth: blocks that decoder features and skip pass together before an expert is chosen.
        to_pixels: the finest level also reaches the image itself, past the decoder's last norm, which removes absolute
            brightness and contrast: see ``pixel_mix.py`` (our choice, docs/differences.md; paper: no).
        tone: correct brightness and colour of the decoded image, and keep images that are judged clean, both from a view of
            the whole image, see ``tone.py`` (our choice for small models; paper: no).
    """

    kind: Literal["daem", "none"] = "daem"
    width: Width = 64
    kernel_sizes: tuple[KernelSize, ...] = (3, 5, 7, 9)
    top_k: Depth = 1
    routing: Literal["image", "window", "position"] = "image"
    window_size: PixelCount = 64
    expert_depth: Depth = 1
    mix_depth: Depth = 1
    to_pixels: bool = False
    tone: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if even := [size for size in self.kernel_sizes if size % 2 == 0]:
            raise UserError(f"detail.kernel_sizes has {even[0]}; kernel sizes must be odd")
        if not 1 <= self.top_k <= len(self.kernel_sizes):
            raise UserError(
                f"detail.top_k is {self.top_k}; it must be at least 1 and at most the number of experts "
                f"(kernel_sizes has {len(self.kernel_sizes)})"
            )


class NAFBlock(nn.Module):
    """A light nonlinear-activation-free block (Chen et al. 2022) whose depthwise kernel sets the receptive field.

    Its global channel attention is left out, so an expert's result depends only on positions within its halo; the shared
    branch sees the whole image.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.expand = nn.Conv2d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, kernel_size, padding=kernel_size // 2, groups=2 * dim)
        self.project = nn.Conv2d(dim, dim, 1)
        self.mlp_in = nn.Conv2d(dim, 2 * dim, 1)
        self.mlp_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """Keep the shape (B, D, H, W); ``inside`` (B, 1, H, W) is 0 beyond the image, which then counts as padding."""
        expanded = self.expand(self.norm1(x))
        first, second = self.depthwise(expanded if inside is None else expanded * inside).chunk(2, dim=1)
        x = x + self.project(first * second)
        first, second = self.mlp_in(self.norm2(x)).chunk(2, dim=1)
        mixed: Tensor = self.mlp_out(first * second)
        return x + mixed


class Expert(nn.Sequential):
    """E_i: NAF blocks of one kernel size, on whole images or on windows cut out with a halo."""

    def __init__(self, dim: int, kernel_size: int, depth: int) -> None:
        super().__init__(*(NAFBlock(dim, kernel_size) for _ in range(depth)))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, D, H, W) of (N, D, H, W), or of (N, D + 1, H, W) whose last channel is 1 inside the image."""
        inside = x[:, self.dim :] if x.shape[1] > self.dim else None
        x = x[:, : self.dim]
        for block in self:
            x = block(x, inside)
        return x


class SharedBranch(nn.Module):
    """S(x) = 2 * sigmoid(local + global): a gate per channel and position, shared by all experts; 1 where both terms are zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.pooled = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the gate (B, D, H, W) of features (B, D, H, W) and their mean (B, D) over the whole image."""
        return 2 * torch.sigmoid(self.local(x) + self.pooled(mean)[:, :, None, None])


@dataclass
class LevelStatistics:
    """Statistics that a level's decisions for a whole image depend on: mean and spread (B, D) of its merged features.

    The spread is used beside the mean because rain and snow hardly change a mean (our choice).
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor, weights: Tensor | None = None) -> "LevelStatistics":
        """Return the statistics of features (B, D, H, W), weighted per pixel by ``weights`` (B, 1, H, W) if given."""
        if weights is not None:
            share = weights / weights.sum(dim=(2, 3), keepdim=True)
            mean = (x.float() * share).sum(dim=(2, 3), keepdim=True)
            variance = ((x.float() - mean).square() * share).sum(dim=(2, 3))
            return cls(mean.flatten(1).to(x.dtype), variance.clamp_min(1e-12).sqrt().to(x.dtype))
        return cls(x.mean(dim=(2, 3)), x.float().std(dim=(2, 3), unbiased=False).to(x.dtype))


class DetailLevel(nn.Module):
    """One resolution of DAEM: decoder features meet the LQ skip, the router chooses, the result is added.

    y = sum over the chosen i of g_i E_i(x) S(x), projected by ``output``, which starts at zero.

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
        self.router = Router(dim if config.routing == "position" else 2 * dim, experts, config.top_k)
        self.experts = nn.ModuleList(Expert(dim, kernel, config.expert_depth) for kernel in config.kernel_sizes)
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
        """Add detail to decoder features (B, C, H, W).

        Args:
            hidden: decoder features (B, C, H, W).
            skip: LQ skip features (B, K, H, W).
            noise: the router's training noise; None in evaluation.
            stream: name of the noise stream.
            whole: statistics of the whole image where ``hidden`` is only a tile of it.

        Returns:
            the features with detail added, the routing, the detail (B, D, H, W), and the image's statistics.
        """
        x = self.merged(hidden, skip)
        whole = whole or LevelStatistics.of(x)
        if self.config.routing == "image":
            routing = self._route(torch.cat([whole.mean, whole.spread], dim=1), noise, stream)
            mixed = dispatch(x, routing, list(self.experts))
        else:
            mixed, routing = self._route_cells(x, noise, stream)
        detail = mixed * self.shared(x, whole.mean)
        return hidden + self.output(detail), routing, detail, whole

    def cell_size(self, height: int, width: int) -> int:
        """Return the side of the squares that choose one expert each, at a level of H x W."""
        sides = {"position": 1, "window": self.config.window_size, "image": max(height, width)}
        return sides[self.config.routing]

    def _route(self, features: Tensor, noise: KeyedNoise | None, stream: str) -> Routing:
        """Route N inputs by their features (N, .), those of an image one after the other."""
        xi = None
        if noise is not None:
            per_image = features.shape[0] // len(noise.keys)
            xi = noise.normal(stream, per_image, len(self.experts)).flatten(0, 1)
        routing: Routing = self.router(features, xi)
        return routing

    def _route_cells(self, x: Tensor, noise: KeyedNoise | None, stream: str) -> tuple[Tensor, Routing]:
        """Return mixed features (B, D, H, W) of cells of m x m positions, each with its own choice, and the routing.

        Both ways of computing the experts give the same result; the one with fewer operations is taken.
        """
        m = self.cell_size(*x.shape[2:])
        by_position = self.config.routing == "position"
        routing = self._route(x.permute(0, 2, 3, 1).flatten(0, 2) if by_position else self._seen(x, m), noise, stream)
        experts, k = len(self.experts), routing.indices.shape[1]
        everywhere = experts * m**2 <= k * (m + 2 * self.halo) ** 2
        return self._everywhere(x, routing, m) if everywhere else self._in_windows(x, routing, m), routing

    def _seen(self, x: Tensor, m: int) -> Tensor:
        """Return mean and spread (N, 2 D) of windows of m x m, of the part that lies in the image."""
        below, right = -x.shape[2] % m, -x.shape[3] % m
        windows = _windows(F.pad(x, (0, right, 0, below)), m, m)
        weights = None
        if below or right:
            inside = F.pad(x.new_ones(x.shape[0], 1, *x.shape[2:], dtype=torch.float32), (0, right, 0, below))
            weights = _windows(inside, m, m)
        seen = LevelStatistics.of(windows, weights)
        return torch.cat([seen.mean, seen.spread], dim=1)

    def _everywhere(self, x: Tensor, routing: Routing, m: int) -> Tensor:
        """Run every expert on the whole image and weight each position by its gate, 0 where the expert is not chosen.

        That costs E passes of light blocks, where windows of one position would cost (1 + 2 r)^2. Nothing is read back from
        the device, and every expert always has a gradient.
        """
        batch, _, height, width = x.shape
        gates = torch.zeros_like(routing.logits).scatter(1, routing.indices, routing.gates)
        maps = gates.view(batch, -(-height // m), -(-width // m), len(self.experts)).permute(0, 3, 1, 2)
        if m > 1:
            maps = maps.repeat_interleave(m, 2).repeat_interleave(m, 3)[..., :height, :width]
        mixed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mixed = mixed + expert(x) * maps[:, index : index + 1].to(x.dtype)
        return mixed

    def _in_windows(self, x: Tensor, routing: Routing, m: int) -> Tensor:
        """Run the chosen experts on each window of m x m, cut out with a halo r so that they see across its edges."""
        r, (batch, dim, height, width) = self.halo, x.shape
        rows, columns = -(-height // m), -(-width // m)
        beyond = (r, r + columns * m - width, r, r + rows * m - height)
        marked = torch.cat([x, x.new_ones(batch, 1, height, width)], dim=1)  # 0 beyond the image, where experts pad
        mixed = dispatch(_windows(F.pad(marked, beyond), m + 2 * r, m), routing, list(self.experts))
        mixed = mixed[..., r : r + m, r : r + m].reshape(batch, rows, columns, dim, m, m)
        image = mixed.permute(0, 3, 1, 4, 2, 5).reshape(batch, dim, rows * m, columns * m)
        return image[..., :height, :width]


def _windows(x: Tensor, side: int, step: int) -> Tensor:
    """Return (B, D, H, W) cut into squares (B rows columns, D, side, side) whose corners are ``step`` apart."""
    return x.unfold(2, side, step).unfold(3, side, step).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
