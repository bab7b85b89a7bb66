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
from unildiff.core.tiled_model import (
    decode_tiles,
    encode_tiles,
    latent_tiles,
    out_of_memory,
    smaller_tile,
    tiled_predictor,
)
from unildiff.core.tiling import TileGrid, make_grid
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import Callback, Predict, SamplingSettings, sample, start_latents


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


class UniLDiff(Network):
    """Encodes an LQ image, samples restored latents and decodes them, in one piece or in tiles."""

    def encode_lq(
        self, lq: Tensor, tile_size: int | None = None, corner: Pixels = (0, 0), original: Pixels | None = None
    ) -> LQFeatures:
        """Return features of padded LQ images (B, 3, H, W) in [-1, 1].

        Args:
            lq: images whose sides are multiples of the downscale factor, of twice the factor for tiles (see ``pad``).
            tile_size: pixels of a tile's side; larger images are tiled, here and in everything that is then done with
                the features. Gradients are not kept for tiled images.
            corner: top and left pixel of ``lq`` in the original image, one pair or (B, 2).
            original: height and width of the original image, one pair or (B, 2); None is the size of ``lq``.
        """
        factor = self.downscale_factor
        original = (lq.shape[2], lq.shape[3]) if original is None else original
        grid = tile_size and make_grid(lq.shape[2] // factor, lq.shape[3] // factor, tile_size // factor)
        if grid:
            with torch.no_grad():
                deep, latents = encode_tiles(self, lq, grid)
            return LQFeatures(deep, [], latents, lq, original, corner, grid)
        deep, skips = self.lq_encoder(lq)
        with torch.no_grad():
            latents = encode_latents(self.vae, lq)
        return LQFeatures(deep, skips, latents, lq, original, corner)

    def encode(self, images: Tensor, grid: TileGrid | None = None) -> Tensor:
        """Return VAE latents (B, C, h, w) of padded pictures (B, 3, H, W) in [-1, 1], tile by tile where there are some."""
        return encode_latents(self.vae, images) if grid is None else latent_tiles(self, images, grid)

    def with_own(self, settings: SamplingSettings) -> SamplingSettings:
        """Return the settings with the model's own values where they name none."""
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
    ) -> Tensor:
        """Return restored latents (B, C, h, w), float32; the same keys give the same latents on one device."""
        noise = KeyedNoise(keys, features.latents.device).normal("sampling", *features.latents.shape[1:])
        text, guided = self.embed(captions), None
        if self.config.use_text and any(captions) and settings.guidance_scale != 1.0:
            conditional, guided = self._predictors(features, self.embed([""] * len(captions)).joined(text))
        else:
            conditional, _ = self._predictors(features, text)
        settings = self.with_own(settings)
        start = start_latents(features.latents.float(), noise, self.schedule, settings)
        return sample(conditional, guided, start, self.schedule, settings, callback)

    def _predictors(self, features: LQFeatures, text: TextEmbedding) -> tuple[Predict, Predict]:
        """Return two functions as the sampler wants them: under each picture's last text, and under all its texts.

        With two texts (empty, caption) the second one doubles the batch.
        """
        batch = features.latents.shape[0]
        if features.grid is not None:
            return tiled_predictor(self, features, text.last(batch)), tiled_predictor(self, features, text)
        seen = (features.lq.shape[2], features.lq.shape[3])
        whole = self.context(features.deep, text, seen, features.corner, features.original)
        last, repeats = whole.last(batch), text.tokens.shape[0] // batch

        def conditional(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self.predict(latents, timesteps, last)

        def guided(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self.predict(latents.repeat(repeats, 1, 1, 1), timesteps.repeat(repeats), whole)

        return conditional, guided

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
        """Restore pictures; see ``restoration``, whose ``image`` (B, 3, H, W) in [-1, 1], float32, is returned."""
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
    ) -> Restoration:
        """Restore pictures (B, 3, H, W) in [-1, 1] of any size; where memory runs out, again in (smaller) tiles.

        Args:
            lq: padded by reflection to what the U-Net can halve, and cropped back exactly.
            captions: one a picture, "" where there is none.
            keys: one a picture; they decide the noise.
            settings: steps, guidance, start, tiles.
            detail: decode with DAEM and the tuned decoder; False takes the base's plain VAE decoder.
            callback: called after each step, see ``sampler.Callback``.
        """

        def attempt() -> Restoration:  # a function: what a failed one holds goes with it
            features = self.encode_lq(self.pad(lq), tile_size, original=(lq.shape[2], lq.shape[3]))
            latents = self.sample_latents(features, captions, keys, settings, callback)
            return Restoration(self.decode(latents, features, lq.shape, detail), latents, features)

        tile_size = settings.tile_size
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                smaller = smaller_tile((lq.shape[2], lq.shape[3]), tile_size) if out_of_memory(error) else None
                if smaller is None:
                    raise
            tile_size = smaller  # outside the handler, which keeps what filled the memory alive

    @torch.no_grad()
    def decode(self, latents: Tensor, features: LQFeatures, size: Sequence[int], detail: bool = True) -> Tensor:
        """Return pictures (B, 3, H, W) in [-1, 1], float32, of latents of padded pictures, cropped to ``size`` (..., H, W).

        Of a picture that is not finite all values are NaN, which ``to_uint8`` refuses.
        """
        latents = latents.to(features.latents.dtype)
        if features.grid is not None:
            image = decode_tiles(self, latents, features, detail)
        else:
            image = (
                self.decoder(latents, features.skips, features.lq)[0] if detail else decode_latents(self.vae, latents)
            )
        image = image[..., : size[-2], : size[-1]].float()
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        finite = low.isfinite() & high.isfinite()  # an infinity would be clamped to a colour
        return image.clamp(-1, 1).add_(torch.where(finite, 0.0, torch.nan))
