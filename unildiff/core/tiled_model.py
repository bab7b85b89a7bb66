"""The restorer over tiles: encoder, U-Net at every step, and decoder, so that memory does not grow with the picture.

Axis letters: B batch, H/W pixels, h/w latent height and width, C latent channels, F channels of the LQ feature, D routed
channels. What belongs to the whole picture stays whole: the original size that the U-Net is told, DAEM's routing by picture and its
pooled gate. Normalisations of encoder and decoder see a tile only; the smooth change from tile to tile hides that.
"""

import logging

import torch
from torch import Tensor

from unildiff.core.daem import LevelStatistics
from unildiff.core.encoders import decode_latents, encode_latents
from unildiff.core.network import LQFeatures, Network
from unildiff.core.text import TextEmbedding
from unildiff.core.tiling import Tile, TileGrid, relative
from unildiff.diffusion.sampler import SMALLEST_TILE, Predict

_LOG = logging.getLogger(__name__)


def encode_tiles(model: Network, lq: Tensor, grid: TileGrid) -> tuple[Tensor, Tensor]:
    """Return deep feature (B, F, h, w) and VAE latents (B, C, h, w) of a padded picture (B, 3, H, W)."""
    factor = model.downscale_factor
    deep = grid.fuse(lambda tile: model.lq_encoder(tile.cut(lq, factor))[0])
    return deep.to(lq.dtype), latent_tiles(model, lq, grid)


def latent_tiles(model: Network, images: Tensor, grid: TileGrid) -> Tensor:
    """Return VAE latents (B, C, h, w) of padded pictures (B, 3, H, W)."""
    factor = model.downscale_factor
    return grid.fuse(lambda tile: encode_latents(model.vae, tile.cut(images, factor))).to(images.dtype)


def tiled_predictor(model: Network, features: LQFeatures, text: TextEmbedding) -> Predict:
    """Return a function as the sampler wants it, whose prediction for the whole picture is fused from its tiles.

    Args:
        model: in evaluation mode.
        features: with a grid.
        text: B embedded captions, or the B empty captions and then the captions: a doubled batch, (2B, ...).
    """
    grid, factor = features.grid, model.downscale_factor
    assert grid is not None
    size = (grid.tile[0] * factor, grid.tile[1] * factor)
    repeats = text.tokens.shape[0] // features.latents.shape[0]

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        def of_tile(tile: Tile) -> Tensor:
            corner = torch.as_tensor(features.corner) + torch.tensor([tile.rows[0], tile.columns[0]]) * factor
            context = model.context(tile.cut(features.deep), text, size, corner, features.original)
            return model.predict(tile.cut(latents).repeat(repeats, 1, 1, 1), timesteps.repeat(repeats), context)

        return grid.fuse(of_tile)

    return predict


def decode_tiles(model: Network, latents: Tensor, features: LQFeatures, detail: bool) -> Tensor:
    """Return the padded picture (B, 3, H, W), about [-1, 1], of its latents (B, C, h, w)."""
    grid = features.grid
    assert grid is not None
    whole = level_statistics(model, latents, features) if detail else []

    def of_tile(tile: Tile) -> Tensor:
        part = tile.cut(latents)
        if not detail:
            return decode_latents(model.vae, part)
        lq = tile.cut(features.lq, model.downscale_factor)
        picture: Tensor = model.decoder(part, _skips(model, features, tile), lq, whole=whole or None)[0]
        return picture

    return grid.fuse(of_tile, model.downscale_factor)


def level_statistics(model: Network, latents: Tensor, features: LQFeatures) -> list[LevelStatistics]:
    """Return what DAEM's decisions for the whole picture rest on, level by level.

    Each level needs the decision of the one before, so that a level costs one more pass over the tiles, up to its own
    resolution.
    """
    grid = features.grid
    assert grid is not None
    whole: list[LevelStatistics] = []
    for level in range(len(model.decoder.details)):
        scale = 2 ** (level + 1)  # each block of the decoder doubles height and width
        means, spreads, areas = [], [], []
        for tile in grid.tiles():
            x = model.decoder.merged_features(tile.cut(latents), _skips(model, features, tile), whole)
            own = relative(grid.inner(tile), tile).cut(x, scale).float()
            means.append(own.mean(dim=(2, 3)))
            spreads.append(own.var(dim=(2, 3), unbiased=False))
            areas.append(own.shape[2] * own.shape[3])
        share = torch.tensor(areas, device=means[0].device)[:, None, None] / sum(areas)
        mean = (torch.stack(means) * share).sum(0)
        variance = ((torch.stack(spreads) + (torch.stack(means) - mean) ** 2) * share).sum(0)
        whole.append(LevelStatistics(mean.to(latents.dtype), variance.sqrt().to(latents.dtype)))
    return whole


def _skips(model: Network, features: LQFeatures, tile: Tile) -> list[Tensor]:
    """Return the LQ encoder's skips of a tile, made again each time: kept for the whole picture they would fill memory."""
    skips: list[Tensor] = model.lq_encoder(tile.cut(features.lq, model.downscale_factor))[1]
    return skips


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that memory ran out, on a GPU or on the CPU."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def smaller_tile(size: tuple[int, int], tile_size: int | None) -> int | None:
    """Return the tile side in pixels to try after memory ran out at ``tile_size``, and say so; None when none is left."""
    before = tile_size if tile_size is not None and tile_size < max(size) else max(size)
    smaller = max(SMALLEST_TILE, before // 2)
    if smaller >= before:
        return None
    _LOG.warning(
        "not enough memory for %d x %d pixels %s; going on in tiles of %d pixels",
        *size,
        "at once" if before == max(size) else f"in tiles of {before}",
        smaller,
    )
    return smaller
