"""Lets DAEM's finest level change the image itself, past the decoder's last norm.

Axis letters: B batch, D width of the branch, H/W height and width of its finest level, p pixels along a side of one position.
Source: our choice; docs/differences.md has measurements, docs/history/tiny-model.md the effect of each gate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.daem import LevelStatistics


class BrightnessGate(nn.Module):
    """Confidence that the LQ image's brightness and colours are right: one number per image in 0..1, both ends included.

    See ``stretched_sigmoid``. A new decoder keeps nothing of the LQ image.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(2 * dim, dim), nn.Linear(dim, 1)
        start_at_zero(self.output)

    def forward(self, whole: LevelStatistics) -> Tensor:
        """Return shares (B,) in [0, 1] from statistics of (B, D) each."""
        seen = torch.cat([whole.mean, whole.spread], dim=1)
        return stretched_sigmoid(self.output(F.silu(self.hidden(seen)))[:, 0])


def stretched_sigmoid(logits: Tensor) -> Tensor:
    """Return a sigmoid of the logits, float32, stretched by 0.1 beyond 0 and 1 and clamped, so that both ends are reached.

    The backward pass is that of the sigmoid alone; otherwise an image that is judged completely wrong would give no gradient.
    """
    share = torch.sigmoid(logits.float())
    stretched = ((1 + 2 * _STRETCH) * share - _STRETCH).clamp(0, 1)
    return share + (stretched - share).detach()


_STRETCH = 0.1


def start_at_zero(output: nn.Linear) -> None:
    """Initialise the layer before a stretched sigmoid so that its result is 0 for every input."""
    nn.init.zeros_(output.weight)
    nn.init.constant_(output.bias, -2.5)


class PixelMix(nn.Module):
    """Mixes the decoded image with the LQ image, as the finest level decides.

    mixed = image + added + keep (blurred LQ - image) + detail (LQ - blurred LQ)
    result = mixed + share smooth(LQ - mixed)

    Two gates per colour and pixel: ``keep`` takes the LQ image's brightness and colour instead of the diffusion's, ``detail``
    adds its fine structure. With both at 1 the LQ image stays as it is, with both at 0 it has no influence. Keeping an
    undamaged pixel therefore takes two numbers, not an encoding of it.

    A third gate, the share, one number per image, moves brightness and colour, as means over ``REACH`` cells, towards the LQ
    image. A clean image must keep its colours exactly, and an image of a dark place must not be brightened. The gate does not
    affect finer structure: rain and snow are easily taken for texture, and a gate for all of the LQ image let them through
    (tested: docs/history/tiny-model.md).

    Args:
        dim: D.
        factor: p, pixels along a side of one position of the finest level.
        cell: pixels along a side of the squares that ``blurred`` averages, those of one latent.
    """

    REACH = 5  # cells; 40 pixels with 8 pixels per latent: snowflakes are smaller, light and haze larger (not tuned)

    def __init__(self, dim: int, factor: int, cell: int) -> None:
        super().__init__()
        self.factor, self.cell = factor, cell
        self.output = nn.Conv2d(dim, 9 * factor**2, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.brightness = BrightnessGate(dim)

    def forward(self, image: Tensor, lq: Tensor, features: Tensor, whole: LevelStatistics) -> Tensor:
        """Return the image (B, 3, p H, p W) mixed with the LQ image of the same size.

        ``features`` (B, D, H, W) decide per pixel, ``whole``, the statistics of the finest level, for the whole image.
        """
        added, keep, detail = F.pixel_shuffle(self.output(features), self.factor).chunk(3, dim=1)
        blurred = F.interpolate(F.avg_pool2d(lq, self.cell), size=lq.shape[2:], mode="bilinear")
        image = image + added + keep * (blurred - image) + detail * (lq - blurred)
        error = F.avg_pool2d(lq - image, self.cell)
        error = F.avg_pool2d(error, self.REACH, stride=1, padding=self.REACH // 2, count_include_pad=False)
        error = F.interpolate(error, size=lq.shape[2:], mode="bilinear")
        share: Tensor = self.brightness(whole)[:, None, None, None]
        return image + share.to(error.dtype) * error
