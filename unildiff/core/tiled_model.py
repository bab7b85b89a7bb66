"""The network over tiles: encoder, U-Net at every step, and decoder, so that memory does not grow with the image.

Axis letters: B batch, n captions per image, T tiles of one pass, H/W pixels, h/w latent height and width, C latent channels,
F channels of the LQ feature, D routed channels. What belongs to the whole image stays whole: DAEM's routing by image and its
pooled gate. Normalisations of encoder and decoder see one tile only; the smooth blend between tiles hides that.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from unildiff.core.daem import LevelStatistics
from unildiff.core.encoders import decode_latents, encode_latents
from unildiff.core.network import LQFeatures, Network
from unildiff.core.text import TextEmbedding
from unildiff.core.tiling import Tile, TileGrid, relative
from unildiff.core.unet import UNetContext
from unildiff.diffusion.sampler import SMALLEST_TILE, Predict

_LOG = logging.getLogger(__name__)
PIXELS_PER_PASS = 1024 * 1024
"""On an accelerator, tiles go through the U-Net together up to this many pixels: SDXL's own image size (our choice)."""
Result = TypeVar("Result")


def encode_tiles(model: Network, lq: Tensor, grid: TileGrid) -> tuple[Tensor, Tensor]:
    """Return deep feature (B, F, h, w) and VAE latents (B, C, h, w) of a padded image (B, 3, H, W)."""
    factor = model.downscale_factor
    deep = grid.fuse(lambda tile: model.lq_encoder(tile.cut(lq, factor))[0])
    return deep.to(lq.dtype), latent_tiles(model, lq, grid)


def latent_tiles(model: Network, images: Tensor, grid: TileGrid) -> Tensor:
    """Return VAE latents (B, C, h, w) of padded images (B, 3, H, W)."""
    factor = model.downscale_factor
    return grid.fuse(lambda tile: encode_latents(model.vae, tile.cut(images, factor))).to(images.dtype)


def tiled_predictors(model: Network, features: LQFeatures, text: TextEmbedding) -> tuple[Predict, Predict]:
    """Return two functions for the sampler, whose predictions for the whole image are fused from its tiles.

    The first predicts under each image's last caption, (B, C, h, w), the second under all its n captions,
    (n B, C, h, w). Contexts and blending weights of all tiles are computed here, once for all steps.

    Args:
        model: the network in evaluation mode.
        features: features of the LQ images, with a grid.
        text: n B embedded captions, the first caption of every image, then the second, and so on.
    """
    grid = features.grid
    assert grid is not None
    batch = features.latents.shape[0]
    passes = list(grid.passes(tiles_per_pass(grid, features.latents, model.downscale_factor)))
    contexts = [_pass_context(model, features, text, tiles) for tiles in passes]
    shares = grid.shares(1, features.latents.device)

    def predictions(latents: Tensor, timesteps: Tensor, chosen: list[UNetContext]) -> Iterator[Tensor]:
        for tiles, context in zip(passes, chosen, strict=True):
            together = torch.cat([tile.cut(latents) for tile in tiles])  # (T B, C, ., .)
            made = model.predict(together, timesteps.repeat(len(tiles)), context)
            yield from (
                made.view(-1, len(tiles), batch, *made.shape[1:]).transpose(0, 1).flatten(1, 2)
            )  # (T, n B, C, ., .)

    def predictor(chosen: list[UNetContext]) -> Predict:
        def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
            made = predictions(latents, timesteps, chosen)
            return grid.fuse(lambda tile: next(made), shares=shares)

        return predict

    last = [context.last(batch * len(tiles)) for tiles, context in zip(passes, contexts, strict=True)]
    return predictor(last), predictor(contexts)


def tiles_per_pass(grid: TileGrid, latents: Tensor, factor: int) -> int:
    """Return how many tiles of images with latents (B, C, h, w) go through the U-Net together."""
    if grid.alone or latents.device.type == "cpu":  # a CPU gains nothing from a larger batch
        return 1
    return max(1, PIXELS_PER_PASS // (latents.shape[0] * grid.tile[0] * grid.tile[1] * factor**2))


def _pass_context(model: Network, features: LQFeatures, text: TextEmbedding, tiles: Sequence[Tile]) -> UNetContext:
    """Return the context of T tiles, for a batch (n T B): each described as the training crop at its place."""
    grid, factor, batch = features.grid, model.downscale_factor, features.latents.shape[0]
    assert grid is not None
    size = (grid.tile[0] * factor, grid.tile[1] * factor)
    corner, original = (torch.as_tensor(pair).expand(batch, 2).cpu() for pair in (features.corner, features.original))
    corners = torch.cat([corner + torch.tensor([tile.rows[0], tile.columns[0]]) * factor for tile in tiles])
    deep = torch.cat([tile.cut(features.deep) for tile in tiles])
    return model.context(deep, text.repeated(batch, len(tiles)), size, corners, original.repeat(len(tiles), 1))


def decode_tiles(model: Network, latents: Tensor, features: LQFeatures, detail: bool) -> Tensor:
    """Return the padded image (B, 3, H, W), about [-1, 1], of its latents (B, C, h, w)."""
    grid = features.grid
    assert grid is not None
    whole = level_statistics(model, latents, features) if detail else []

    def of_tile(tile: Tile) -> Tensor:
        part = tile.cut(latents)
        if not detail:
            return decode_latents(model.vae, part)
        lq = tile.cut(features.lq, model.downscale_factor)
        image: Tensor = model.decoder(part, _skips(model, features, tile), lq, whole=whole or None)[0]
        return image

    image = grid.fuse(of_tile, model.downscale_factor)
    return image if model.decoder.tone is None or not detail else model.decoder.tone(image, features.lq)


def level_statistics(model: Network, latents: Tensor, features: LQFeatures) -> list[LevelStatistics]:
    """Return the statistics that DAEM's decisions for the whole image depend on, level by level.

    Each level needs the decision of the previous one, so every level costs one more pass over the tiles, up to its own
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
    """Return a tile's skips, computed again each time: kept for the whole image they would fill the memory."""
    skips: list[Tensor] = model.lq_encoder(tile.cut(features.lq, model.downscale_factor))[1]
    return skips


# --- out of memory ---------------------------------------------------------------------------------------------------

_MEMORY_MESSAGES = (
    "out of memory",  # CUDA, ROCm, XPU, MPS
    "can't allocate memory",  # CPU allocator
    "int_max",  # "only supports output tensors with less than INT_MAX elements": convolutions, interpolation
    "canuse32bitindexmath",  # the same limit, as other CUDA kernels report it
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # cuBLAS finds no memory for its handle
    "cudnn_status_alloc_failed",
    "unable to find an engine to execute this computation",  # cuDNN: no plan whose workspace fits
    "invalid buffer size",  # MPS: one tensor larger than a buffer may be
)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory, or what a kernel can address, is too small; smaller tiles then help."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(message in text for message in _MEMORY_MESSAGES)


def with_smaller_tiles(
    attempt: Callable[[int | None], Result], size: tuple[int, int], tile_size: int | None, what: str
) -> tuple[Result, int | None]:
    """Return the result of ``attempt(tile_size)`` and the tile size used, halving tiles as long as memory runs out.

    Args:
        attempt: function of the tile size in pixels (None: the whole image); memory held by a failed call is freed.
        size: height and width of the image in pixels.
        tile_size: tile size of the first attempt.
        what: name of the attempt in the log.
    """
    while True:
        try:
            return attempt(tile_size), tile_size
        except RuntimeError as error:
            smaller = _smaller_tile(size, tile_size) if out_of_memory(error) else None
            if smaller is None:
                raise
        pixels = "in one piece" if tile_size is None or tile_size >= max(size) else f"in tiles of {tile_size}"
        _LOG.warning(
            "not enough memory for %s of %d x %d pixels %s; retrying in tiles of %d", what, *size, pixels, smaller
        )
        tile_size = smaller  # outside the handler, which keeps alive what filled the memory


def _smaller_tile(size: tuple[int, int], tile_size: int | None) -> int | None:
    """Return the next smaller tile side in pixels, or None if there is none."""
    before = tile_size if tile_size is not None and tile_size < max(size) else max(size)
    smaller = max(SMALLEST_TILE, before // 2)
    return smaller if smaller < before else None
