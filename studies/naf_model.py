"""NAFNet, the plain feed-forward restorer with which the tiny model is compared.

Written from the description in Chen et al., "Simple Baselines for Image Restoration", ECCV 2022: blocks without nonlinear
activations in a U-Net, skips added, the image added to the output. Our choice: it works on pixels packed 2x2 (as the first tiny
VAE did), since convolutions at full resolution cost most on a CPU; the width, and how many blocks a level has.

Axis letters: B batch, C channels, H/W pixels, h/w height and width at a level.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.daem import ChannelNorm
from unildiff.core.pixels import pad_to_multiple

PACKED = 2  # pixels per side that become channels
WIDTH = 48
FINE, MIDDLE, DECODER = (2, 2), 6, (2, 2, 2)  # blocks per level, finest first; the third level's encoder has the rest
MULTIPLE = PACKED << len(DECODER)


class Block(nn.Module):
    """Depthwise convolution with a gate and channel attention, then a gated MLP; each with a scale that starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.mlp_in, self.mlp_out = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.scale1, self.scale2 = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, h, w)."""
        first, second = self.depthwise(self.expand(self.norm1(x))).chunk(2, dim=1)
        gated = first * second
        gated = gated * self.attention(gated.mean(dim=(2, 3), keepdim=True))
        x = x + self.scale1 * self.project(gated)
        first, second = self.mlp_in(self.norm2(x)).chunk(2, dim=1)
        return x + self.scale2 * self.mlp_out(first * second)


class NAFNet(nn.Module):
    """U-Net of blocks; channels double from level to level.

    Args:
        deep: blocks of the encoder's third level, about 0.26 M parameters each.
        width: channels at the finest level.
    """

    def __init__(self, deep: int, width: int = WIDTH) -> None:
        super().__init__()
        widths = [width << level for level in range(len(DECODER) + 1)]
        packed = 3 * PACKED**2
        self.intro = nn.Conv2d(packed, width, 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(c, n) for c, n in zip(widths, (*FINE, deep), strict=False))
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle = _blocks(widths[-1], MIDDLE)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in widths[:-1]
        )
        self.decoder = nn.ModuleList(_blocks(c, n) for c, n in zip(widths, DECODER, strict=False))
        self.ending = nn.Conv2d(width, packed, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return restored images (B, 3, H, W), about [-1, 1], of degraded ones of any size."""
        padded = pad_to_multiple(images, MULTIPLE)
        x = self.intro(F.pixel_unshuffle(padded, PACKED))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for level in reversed(range(len(skips))):
            x = self.decoder[level](self.up[level](x) + skips[level])
        restored: Tensor = padded + F.pixel_shuffle(self.ending(x), PACKED)
        return restored[..., : images.shape[2], : images.shape[3]]


def count(deep: int) -> int:
    """Return the parameters of a net with so many deep blocks, without creating it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in NAFNet(deep).parameters())


def blocks_for(parameters: int) -> int:
    """Return the number of deep blocks with which the net comes nearest to that many parameters."""
    least = count(1)
    return 1 + max(0, round((parameters - least) / (count(2) - least)))


def _blocks(channels: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels) for _ in range(number)))
