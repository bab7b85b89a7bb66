"""The whole restorer in plain torch: an image of any size in, the restored image out.

Axis letters: B batch, H/W pixels, C latent channels, h/w latent height and width, F channels of the LQ feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unildiff.core.encoders import decode_latents, encode_latents
from unildiff.core.network import LQFeatures, Network
from unildiff.core.text import Pixels, TextEmbedding
from unildiff.core.tiled_model import decode_tiles, encode_tiles, latent_tiles, tiled_predictors, with_smaller_tiles
from unildiff.core.tiling import UNIT, TileGrid, make_grid
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import Callback, Predict, SamplingSettings, sample, start_latents

SMALLEST_OVERLAP = 6
"""Latents that neighbouring tiles share at least, 48 pixels. Measured on 24 validation photographs in tiles of 128 px: with 32
pixels, seams score 0.03 above the whole image (95% interval 0.006 to 0.062), with 48 px 0.010 (-0.004 to 0.025). A later model,
with 48 px on 28 degraded photographs and 4 steps, scored 0.013 below the whole image (-0.024 to -0.004)."""


@dataclass
class Restoration:
    """A restored image and the intermediate results behind it.

    Attributes:
        image: restored image, cropped to the LQ image's size (B, 3, H, W), float32 in [-1, 1].
        latents: final latents of the sampler (B, C, h, w), float32.
        features: features of the LQ image; ``features.grid`` holds the tiles, if any.
    """

    image: Tensor
    latents: Tensor
    features: LQFeatures


@dataclass(frozen=True)
class Given:
    """What a caller may provide in place of what the model draws or computes.

    Attributes:
        noise: standard normal noise (B, C, h, w) of the padded images.
        text: embedded captions of the B images.
        negative: embeddings that guidance leads away from, instead of those of empty captions.
    """

    noise: Tensor | None = None
    text: TextEmbedding | None = None
    negative: TextEmbedding | None = None


class UniLDiff(Network):
    """Encodes an LQ image, samples restored latents and decodes them, in one piece or in tiles.

    Attributes:
        tile_overlap: share of a tile that it has in common with its neighbour, at least.
        tiles_used: tile sizes of the last restoration in pixels, None for the whole image; smaller where memory ran out.
    """

    tile_overlap = 0.25
    tiles_used: frozenset[int | None] = frozenset()

    def encode_lq(
        self,
        lq: Tensor,
        tile_size: int | None = None,
        corner: Pixels = (0, 0),
        original: Pixels | None = None,
        keep_skips: bool = True,
    ) -> LQFeatures:
        """Return features of padded LQ images (B, 3, H, W) in [-1, 1].

        Args:
            lq: images whose sides are multiples of the downscale factor, of twice the factor for tiles (see ``pad``).
            tile_size: pixels of a tile's side; larger images are tiled, here and in everything that is then done with
                the features. Gradients are not kept for tiled images.
            corner: top and left pixel of ``lq`` in the original image, one pair or (B, 2).
            original: height and width of the original image, one pair or (B, 2); None is the size of ``lq``.
            keep_skips: whether to keep the skip features; ``decode`` computes them again where they are missing.
        """
        original = (lq.shape[2], lq.shape[3]) if original is None else original
        if grid := self._grid(lq, tile_size):
            with torch.no_grad():
                deep, latents = encode_tiles(self, lq, grid)
            return LQFeatures(deep, [], latents, lq, original, corner, grid)
        deep, skips = self.lq_encoder(lq)
        with torch.no_grad():
            latents = encode_latents(self.vae, lq)
        return LQFeatures(deep, skips if keep_skips else [], latents, lq, original, corner)

    def _grid(self, lq: Tensor, tile_size: int | None) -> TileGrid | None:
        """Return the tiles of padded images (B, 3, H, W), None if one tile holds a whole image."""
        if tile_size is None:
            return None
        return self.grid(lq.shape[2], lq.shape[3], tile_size)

    def grid(self, height: int, width: int, tile_size: int) -> TileGrid | None:
        """Return the tiles of a padded image of height x width pixels, None if one tile holds it."""
        factor = self.downscale_factor
        side = tile_size // factor // UNIT * UNIT
        overlap = max(self.tile_overlap, min(0.5, SMALLEST_OVERLAP / side))
        return make_grid(height // factor, width // factor, side, overlap)

    def encode(self, images: Tensor, grid: TileGrid | None = None) -> Tensor:
        """Return VAE latents (B, C, h, w) of padded images (B, 3, H, W) in [-1, 1], tile by tile if there is a grid."""
        return encode_latents(self.vae, images) if grid is None else latent_tiles(self, images, grid)

    def default_tile_size(self, height: int, width: int) -> int | None:
        """Return the tile size for images whose settings give none: None, or the base's own image size for large images.

        A base made for at least 512 px (SDXL: 1,024) restores images beyond 1.5 times its size in tiles of its size (our
        choice): attention costs grow with the square of the pixels, and the base has not seen larger images. A smaller
        base, such as the tiny one, restores every image in one piece.
        """
        native = int(self.unet.rest.config.sample_size or 0) * self.downscale_factor
        return native if native >= 512 and max(height, width) > 1.5 * native else None

    def with_own(self, settings: SamplingSettings) -> SamplingSettings:
        """Return the settings with the model's own last timestep where they give none."""
        own = self.config.last_timestep
        return replace(settings, last_timestep=own) if settings.last_timestep is None else settings

    @torch.no_grad()
    def sample_latents(
        self,
        features: LQFeatures,
        captions: Sequence[str],
        keys: Tensor | list[int],
        settings: SamplingSettings,
        callback: Callback | None = None,
        given: "Given | None" = None,
    ) -> Tensor:
        """Return restored latents (B, C, h, w), float32; the same keys give the same latents on one device."""
        given = given or Given()
        noise = given.noise
        if noise is None:
            noise = KeyedNoise(keys, features.latents.device).normal("sampling", *features.latents.shape[1:])
        text, guided = self.embed(captions) if given.text is None else given.text, None
        has_text = given.text is not None or given.negative is not None or any(captions)
        if self.config.use_text and has_text and settings.guidance_scale != 1.0:
            without = self.embed([""] * len(captions)) if given.negative is None else given.negative
            conditional, guided = self._predictors(features, without.joined(text))
        else:
            conditional, _ = self._predictors(features, text)
        settings = self.with_own(settings)
        start = start_latents(features.latents.float(), noise, self.schedule, settings)
        return sample(conditional, guided, start, self.schedule, settings, callback)

    def _predictors(self, features: LQFeatures, text: TextEmbedding) -> tuple[Predict, Predict]:
        """Return two functions for the sampler: predictions under each image's last caption, and under all its captions."""
        if features.grid is not None:
            return tiled_predictors(self, features, text)
        seen = (features.lq.shape[2], features.lq.shape[3])
        whole = self.context(features.deep, text, seen, features.corner, features.original)
        last = whole.last(features.latents.shape[0])
        return (
            lambda latents, timesteps: self.predict(latents, timesteps, last),
            lambda latents, timesteps: self.predict(latents, timesteps, whole),
        )

    @torch.no_grad()
    def restore(
        self,
        lq: Tensor,
        captions: Sequence[str],
        keys: Tensor | list[int],
        settings: SamplingSettings,
        detail: bool = True,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return restored images (B, 3, H, W), float32 in [-1, 1]; see ``restoration`` for the arguments."""
        return self.restoration(lq, captions, keys, settings, detail, callback).image

    @torch.no_grad()
    def restoration(
        self,
        lq: Tensor,
        captions: Sequence[str],
        keys: Tensor | list[int],
        settings: SamplingSettings,
        detail: bool = True,
        callback: Callback | None = None,
        given: "Given | None" = None,
    ) -> Restoration:
        """Restore images (B, 3, H, W) in [-1, 1] of any size.

        Large images are tiled, see ``default_tile_size``; where memory runs out, the encoder and sampler, or the decoder
        alone, are repeated in smaller tiles.

        Args:
            lq: images; they are padded by reflection, and the result is cropped back exactly.
            captions: one per image, "" where there is none.
            keys: one per image; they determine the noise.
            settings: steps, guidance, start and tiles.
            detail: decode with DAEM and the tuned decoder; False uses the base's plain VAE decoder.
            callback: called after each step, see ``sampler.Callback``.
            given: noise and embeddings that replace the model's own.
        """
        size, padded = (lq.shape[2], lq.shape[3]), self.pad(lq)
        first = settings.tile_size or self.default_tile_size(*size)

        def sampled(tile_size: int | None) -> tuple[LQFeatures, Tensor]:
            # Skips would wait on the device for the decoder: computing them again costs one pass of the encoder.
            keep_skips = lq.device.type == "cpu"
            features = self.encode_lq(padded, settings.coder_tile(tile_size), original=size, keep_skips=keep_skips)
            grid = self._grid(padded, tile_size)
            features = replace(features, grid=grid and replace(grid, alone=tile_size != first))
            return features, self.sample_latents(features, captions, keys, settings, callback, given)

        (features, latents), tile_size = with_smaller_tiles(sampled, size, first, "restoration")

        def decoded(decoder_tile: int | None) -> Tensor:
            nonlocal features
            if decoder_tile != tile_size:
                features = replace(features, skips=[], grid=self._grid(padded, decoder_tile))
            return self.decode(latents, features, lq.shape, detail)

        image, decoder_tile = with_smaller_tiles(decoded, size, settings.coder_tile(tile_size), "decoding")
        self.tiles_used = frozenset((tile_size, settings.coder_tile(tile_size), decoder_tile))
        return Restoration(image, latents, features)

    @torch.no_grad()
    def decode(self, latents: Tensor, features: LQFeatures, size: Sequence[int], detail: bool = True) -> Tensor:
        """Return images (B, 3, H, W), float32 in [-1, 1], of latents of padded images, cropped to ``size`` (..., H, W).

        If an image has a value that is not finite, all its values become NaN, which ``to_uint8`` refuses.
        """
        latents = latents.to(features.latents.dtype)
        if features.grid is not None:
            image = decode_tiles(self, latents, features, detail)
        elif detail:
            needs_skips = len(self.decoder.details) > 0 and not features.skips
            skips = self.lq_encoder(features.lq)[1] if needs_skips else features.skips
            image = self.decoder(latents, skips, features.lq)[0]
        else:
            image = decode_latents(self.vae, latents)
        image = image[..., : size[-2], : size[-1]].float()
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        finite = low.isfinite() & high.isfinite()  # an infinity would be clamped to a colour
        return image.clamp(-1, 1).add_(torch.where(finite, 0.0, torch.nan))
