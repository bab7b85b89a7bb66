"""Overlapping tiles for large images: where they lie and how their results are blended.

Axis letters: B batch, C channels, H/W height and width of what is fused, h/w latent height and width, D routed channels.
A tile is a square of latents; its pixels and its features at any resolution follow by scaling. Every value of the result is
a weighted mean over the tiles that contain it, with weights that fall smoothly to zero before a tile ends inside the image,
so that no edge of a tile is visible (our choice: raised cosine). Where a network sees no further than a quarter of the
overlap, the result is exactly that of the whole image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

UNIT = 2
"""Latents that tiles are aligned to: what fusion and U-Net halve."""


@dataclass(frozen=True)
class Tile:
    """One tile: its range of latents, (first, last + 1) along each axis."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    def cut(self, whole: Tensor, scale: int = 1) -> Tensor:
        """Return this tile of (B, C, H, W), which has ``scale`` values per latent along each axis."""
        (top, bottom), (left, right) = self.rows, self.columns
        return whole[..., top * scale : bottom * scale, left * scale : right * scale]


@dataclass(frozen=True)
class TileGrid:
    """Equal tiles that cover h x w latents, evenly spaced.

    Attributes:
        height: h.
        width: w.
        tile: (height, width) of every tile.
        tops: first rows.
        lefts: first columns.
        alone: whether each tile goes through the U-Net by itself, because memory is short.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    alone: bool = False

    def tiles(self) -> Iterator[Tile]:
        """Yield the tiles, row by row."""
        for top in self.tops:
            for left in self.lefts:
                yield Tile((top, top + self.tile[0]), (left, left + self.tile[1]))

    def passes(self, tiles_per_pass: int) -> Iterator[list[Tile]]:
        """Yield the tiles in groups that go through a network together."""
        tiles = list(self.tiles())
        for first in range(0, len(tiles), tiles_per_pass):
            yield tiles[first : first + tiles_per_pass]

    def shares(self, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the weights of ``fuse``, (tile rows, H) and (tile columns, W), already divided by their sums."""
        rows = axis_share(self.height, self.tile[0], self.tops, scale)
        columns = axis_share(self.width, self.tile[1], self.lefts, scale)
        return rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)

    def fuse(
        self, run: Callable[[Tile], Tensor], scale: int = 1, shares: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the weighted mean (B, C, h * scale, w * scale), float32, of ``run(tile)`` (B, C, ., .) over all tiles.

        Args:
            run: called once per tile, row by row.
            scale: values per latent along each axis of ``run``'s result.
            shares: result of ``shares``; None computes it.
        """
        total: Tensor | None = None
        for index, tile in enumerate(self.tiles()):
            values = run(tile).float()
            if total is None:
                total = values.new_zeros((*values.shape[:2], self.height * scale, self.width * scale))
                shares = shares or self.shares(scale, values.device)
            assert shares is not None
            row, column = divmod(index, len(self.lefts))
            tile.cut(total, scale).add_(values * (shares[0][row, :, None] * shares[1][column]))
        assert total is not None
        return total

    def inner(self, tile: Tile) -> Tile:
        """Return the central part of a tile; the parts of all tiles cover the image without overlap."""
        rows = _own_span(tile.rows, self.tops, self.height)
        columns = _own_span(tile.columns, self.lefts, self.width)
        return Tile(rows, columns)


def make_grid(height: int, width: int, tile_size: int, overlap_share: float = 0.25) -> TileGrid | None:
    """Return the grid for h x w latents, or None where one tile holds them all.

    Args:
        height: h, a multiple of ``UNIT``.
        width: w, likewise.
        tile_size: latents along a tile's side.
        overlap_share: part of a tile that it shares with its neighbour, at least (our choice: a quarter).

    Raises:
        ValueError: the tile is smaller than four units, or the share is not in [0, 0.5].
    """
    if tile_size < 4 * UNIT or not 0 <= overlap_share <= 0.5:
        raise ValueError(f"tile of {tile_size} latents, overlap {overlap_share}: at least {4 * UNIT}, share in 0..0.5")
    side = tile_size // UNIT * UNIT
    if height <= side and width <= side:
        return None
    overlap = int(side * overlap_share) // UNIT * UNIT
    tile = (min(side, height), min(side, width))
    return TileGrid(height, width, tile, _starts(height, tile[0], overlap), _starts(width, tile[1], overlap))


def axis_share(length: int, tile: int, starts: tuple[int, ...], scale: int) -> Tensor:
    """Return the share (tiles, tile * scale) of each tile along one axis; the shares at a position add up to one."""
    weights = torch.ones(len(starts), tile * scale)
    for index, (start, following) in enumerate(pairwise(starts)):
        overlap = (start + tile - following) * scale
        if overlap > 0:
            # Weights are 0 within a quarter of the overlap from the tile's edge, where padding affects the output.
            position = (torch.arange(overlap) + 0.5) / overlap
            ramp = torch.sin(((position - 0.25) / 0.5).clamp(0, 1) * (math.pi / 2)) ** 2
            weights[index + 1, :overlap] *= ramp
            weights[index, -overlap:] *= ramp.flip(0)
    total = torch.zeros(length * scale)
    for start, weight in zip(starts, weights, strict=True):
        total[start * scale : (start + tile) * scale] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start * scale : (start + tile) * scale]
    return weights


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return the evenly spaced first positions, multiples of ``UNIT``, of tiles that cover ``length``."""
    if length == tile:
        return (0,)
    count = math.ceil((length - overlap) / (tile - overlap))
    last = length - tile
    return tuple(round(index * last / (count - 1) / UNIT) * UNIT for index in range(count))


def _own_span(span: tuple[int, int], starts: tuple[int, ...], length: int) -> tuple[int, int]:
    """Return the part of a span between the middles of its overlaps with its neighbours."""
    tile, index = span[1] - span[0], starts.index(span[0])
    first = 0 if index == 0 else (starts[index - 1] + tile + span[0]) // 2
    last = length if index == len(starts) - 1 else (span[1] + starts[index + 1]) // 2
    return first, last


def relative(part: Tile, whole: Tile) -> Tile:
    """Return the place of a part in the coordinates of the tile that holds it."""
    top, left = whole.rows[0], whole.columns[0]
    return Tile((part.rows[0] - top, part.rows[1] - top), (part.columns[0] - left, part.columns[1] - left))
