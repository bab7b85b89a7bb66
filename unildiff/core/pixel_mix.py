"""What DAEM's finest level says of the picture itself, past the decoder's last norm.

Axis letters: B batch, D width of the branch, H/W height and width of its finest level, p pixels along a side that it sees as
one. Source: our choice, for small decoders; docs/tiny-model.md tells what each gate is for.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.daem import LevelStatistics


class BrightnessGate(nn.Module):
    """How surely the LQ picture's brightness and colours are the true ones: 0 to 1, both reached, one number a picture.

    A sigmoid stretched by ``STRETCH`` beyond 0 and 1 and cut there. The backward pass is that of the sigmoid alone, or a
    picture that is misjudged altogether would teach nothing.
    """

    STRETCH = 0.1
    START = -2.5  # the stretched sigmoid is at 0 there: a new decoder keeps nothing

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(2 * dim, dim), nn.Linear(dim, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, self.START)

    def forward(self, whole: LevelStatistics) -> Tensor:
        """Return shares (B,) in [0, 1] from statistics of (B, D) each."""
        seen = torch.cat([whole.mean, whole.spread], dim=1)
        share = torch.sigmoid(self.output(F.silu(self.hidden(seen)))[:, 0].float())
        stretched = ((1 + 2 * self.STRETCH) * share - self.STRETCH).clamp(0, 1)
        return share + (stretched - share).detach()


class PixelMix(nn.Module):
    """The finest level's say on the picture itself.

    mixed = picture + added + keep (blurred LQ - picture) + detail (LQ - blurred LQ)
    result = mixed + share smooth(LQ - mixed)

    Two gates a colour and pixel: ``keep`` takes the LQ picture's brightness and colour instead of the diffusion's, ``detail``
    adds its fine structure, as strongly as the damage wants it. At (1, 1) the LQ picture stays as it is, at (0, 0) it has no
    part. Where the damage leaves a pixel alone, keeping it is thus two numbers to learn, and not an encoding of it.

    A third gate, the share, one number a picture, then moves brightness and colour, as means of ``REACH`` cells across, to the
    LQ picture's. A clean picture must not change its colour by a shade, and a picture of a dark place is not to be lit up.
    It does not reach finer structure: rain and snow are easily taken for texture, so that a gate for all of the LQ picture
    lets them through (tried: docs/tiny-model.md).

    Args:
        dim: D.
        factor: p, pixels along a side that the decoder sees as one.
        cell: pixels along a side of what ``blurred`` averages: those of a latent.
    """

    REACH = 5  # cells; 40 pixels where a latent has 8: snowflakes are smaller, light and haze larger (not tuned)

    def __init__(self, dim: int, factor: int, cell: int) -> None:
        super().__init__()
        self.factor, self.cell = factor, cell
        self.output = nn.Conv2d(dim, 9 * factor**2, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.brightness = BrightnessGate(dim)

    def forward(self, picture: Tensor, lq: Tensor, features: Tensor, whole: LevelStatistics) -> Tensor:
        """Return the picture (B, 3, p H, p W) mixed with the LQ picture of that size.

        ``features`` (B, D, H, W) decide for their pixels, ``whole``, the statistics of the finest level, for all of them.
        """
        added, keep, detail = F.pixel_shuffle(self.output(features), self.factor).chunk(3, dim=1)
        blurred = F.interpolate(F.avg_pool2d(lq, self.cell), size=lq.shape[2:], mode="bilinear")
        picture = picture + added + keep * (blurred - picture) + detail * (lq - blurred)
        error = F.avg_pool2d(lq - picture, self.cell)
        error = F.avg_pool2d(error, self.REACH, stride=1, padding=self.REACH // 2, count_include_pad=False)
        error = F.interpolate(error, size=lq.shape[2:], mode="bilinear")
        share: Tensor = self.brightness(whole)[:, None, None, None]
        return picture + share.to(error.dtype) * error
