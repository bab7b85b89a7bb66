"""Corrects brightness and colour of the decoded image, and keeps clean images, both judged from the whole image at once.

Axis letters: B batch, H/W pixels, S cells along each side of a view, N pixels along one side of an image, C channels,
V numbers per cell, D numbers per image.
Source: our choice, for small models; docs/tiny-model.md says what it is worth.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.pixel_mix import start_at_zero, stretched_sigmoid

SIDE = 24
"""S. Images of every size and shape are judged from SIDE x SIDE cells, so that training and use look alike."""
_RANKS = tuple(int(share * (SIDE**2 - 1)) for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98))  # of the cells in order
_FLOOR = 0.003  # of the logarithms: about half a grey level
_TINY = 1e-12  # smallest variance: its square root is far below the floor


class ToneCorrection(nn.Module):
    """corrected = image + gain (image - black) + offset, both linear in the row, for each colour.

    result = corrected + clean (LQ - corrected), with ``clean`` from 0 to 1 for the whole image: an image that is judged clean
    comes back as it is.

    Starts as the identity. Light and haze are a property of the whole image; a crop or a tile is too small to judge them.
    Haze is mostly denser at the top, hence the slopes along the rows. Which degradations there are shows in the finest
    structure: low light brings noise that differs between the colours, rain and snow are grey and brighter than what they
    hide. All numbers have a common factor from 0 to 1, which lets the correction stay away from clean images.

    The decoder stage sees crops, so it applies the correction without training it; ``studies/tone.py`` trains it on whole images.
    """

    WIDTH = 256

    def __init__(self) -> None:
        super().__init__()
        width = self.WIDTH
        self.hidden = nn.Sequential(nn.Linear(DESCRIBED, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.output = nn.Linear(width, 13)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.clean = CleanGate()

    def forward(self, image: Tensor, lq: Tensor) -> Tensor:
        """Return the corrected image (B, 3, H, W) of the decoded image and the LQ image, whole images in about [-1, 1]."""
        with torch.no_grad():
            described = describe(image, lq)
            numbers, clean = self.coefficients(described), self.clean(described)
        if self.training:  # DDP needs a gradient of every trained parameter: here zeros
            numbers = numbers + 0 * torch.stack([each.sum() for each in self.parameters()]).sum()
        numbers = numbers.to(image.dtype)[..., None, None]
        offset, gain, offset_slope, gain_slope = numbers.chunk(4, dim=1)
        place = row_middles(image.shape[2], image.device).to(image.dtype)[:, None]
        corrected = image + (gain + gain_slope * place) * (image + 1) + (offset + offset_slope * place)
        return torch.lerp(corrected, lq.to(image.dtype), clean.to(image.dtype)[:, None, None, None])

    def coefficients(self, described: Tensor) -> Tensor:
        """Return offsets, gains and their slopes (B, 12) from descriptions (B, D)."""
        return self.numbers(self.hidden(described.to(self.output.weight.dtype)))

    def numbers(self, hidden: Tensor) -> Tensor:
        """Return the same from the hidden layers' result (B, WIDTH)."""
        made: Tensor = self.output(hidden)
        return made[:, :12] * torch.sigmoid(made[:, 12:])


class CleanGate(nn.Module):
    """Confidence that the LQ image is clean, one number per image in 0..1, both ends included; 0 before it is trained."""

    WIDTH = 96

    def __init__(self) -> None:
        super().__init__()
        width = self.WIDTH
        self.hidden = nn.Sequential(nn.Linear(DESCRIBED, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.output = nn.Linear(width, 1)
        self.close()

    def close(self) -> None:
        """Judge no image clean, as before training."""
        start_at_zero(self.output)

    def forward(self, described: Tensor) -> Tensor:
        """Return shares (B,), float32, from descriptions (B, D)."""
        return stretched_sigmoid(self.output(self.hidden(described.to(self.output.weight.dtype)))[:, 0])


def describe(image: Tensor, lq: Tensor) -> Tensor:
    """Return what the correction is judged from (B, D), float32.

    It is quantiles over the cells of what ``_view`` says of each, and the colours of both images in three bands of rows.
    """
    with torch.autocast(lq.device.type, enabled=False):
        image, lq = image.float(), lq.float()
        cells = _view(image, lq)
        ordered = cells.flatten(2).sort(dim=2).values[..., list(_RANKS)]
        bands = F.avg_pool2d(cells[:, :6], (SIDE // 3, SIDE))
        return torch.cat([ordered.flatten(1), bands.flatten(1)], dim=1)


def _view(image: Tensor, lq: Tensor) -> Tensor:
    """Return 23 numbers per cell (B, V, S, S).

    They are the means of both images, their spreads, the darkest channel of the LQ image and the brightest mean of the
    decoded one; of the LQ image's finest structure the spread in each colour, in grey, and along rows and columns, how much of it is
    grey, how much lies along rows, and how skewed it is. Spreads are logarithms, shifted to about zero.
    """
    detail = lq - F.avg_pool2d(F.pad(lq, (1, 1, 1, 1), mode="replicate"), 3, 1)
    grey, light = detail.mean(1, keepdim=True), lq.mean(1, keepdim=True)
    across, down = F.pad(light.diff(dim=3), (1, 0)), F.pad(light.diff(dim=2), (0, 0, 1, 0))
    # One after the other: together they would take several times the image's memory.
    fine = _logarithm(torch.cat([cell_means(each.square()) for each in (detail, grey, across, down)], dim=1))
    relative = [fine[:, 3:4] - fine[:, :3].mean(1, keepdim=True), fine[:, 4:5] - fine[:, 5:6]]
    cubed = cell_means(grey**3)
    root = cubed.sign() * cubed.abs().clamp_min(_TINY**1.5) ** (1 / 3)  # differentiable at 0
    skewness = root / (cell_means(grey.square()).clamp_min(_TINY).sqrt() + _FLOOR)
    means = [cell_means(lq), cell_means(image)]
    spreads = [_logarithm(cell_means(x.square()) - mean.square()) for x, mean in zip((lq, image), means, strict=True)]
    extremes = [cell_means(lq.amin(1, keepdim=True)), means[1].amax(1, keepdim=True)]
    return torch.cat([*means, *spreads, *extremes, fine, *relative, skewness], dim=1)


def _logarithm(variance: Tensor) -> Tensor:
    """Return the shifted logarithm of a spread; the square root has no gradient at 0."""
    return (variance.clamp_min(_TINY).sqrt() + _FLOOR).log() + 4


DESCRIBED = 23 * len(_RANKS) + 6 * 3
"""D."""


def cell_means(images: Tensor) -> Tensor:
    """Return the means (B, C, S, S) of equal cells of images (B, C, H, W), float32; a cell may end within a pixel."""
    rows, columns = (_shares(side, images.device) for side in images.shape[2:])
    return rows @ images @ columns.T


def _shares(pixels: int, device: torch.device) -> Tensor:
    """Return the share (S, N) that each of N pixels in a row has in each of S cells."""
    first = torch.arange(pixels, device=device)
    total = torch.ones_like(first).sum()  # N as a tensor, which ONNX can compute with
    edges = torch.arange(SIDE + 1, device=device) * total  # in pixels / S: exact
    overlap = torch.minimum(edges[1:, None], (first + 1) * SIDE) - torch.maximum(edges[:-1, None], first * SIDE)
    return overlap.clamp_min(0) / total


def row_middles(pixels: int, device: torch.device) -> Tensor:
    """Return where the middle of each of N rows lies (N,), from -1 at the top to 1 at the bottom edge."""
    first = torch.arange(pixels, device=device)
    return (2 * first + 1) / torch.ones_like(first).sum() - 1
