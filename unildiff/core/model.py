"""The whole restorer, plain torch: one picture in, one picture out, at any size of the base.

Axis letters: B batch, H/W pixels, C latent channels, h/w latent height and width, F channels of the LQ feature.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, decode_latents, downscale_factor, encode_latents
from unildiff.core.pixels import pad_to_multiple
from unildiff.core.text import TextEmbedding, TextEncoders, time_ids
from unildiff.core.tiled_model import (
    decode_tiles,
    encode_tiles,
    latent_tiles,
    out_of_memory,
    smaller_tile,
    tiled_predictor,
)
from unildiff.core.tiling import TileGrid, make_grid
from unildiff.core.unet import FusedUNet, UNetContext
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import Callback, Predict, SamplingSettings, sample, start_latents
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.utils.errors import UserError
from unildiff.utils.quiet import quiet
from unildiff.weights.base import CONFIG, Base, load_base


@dataclass
class NetworkConfig:
    """Sizes and switches of what is added to the base.

    Args:
        fusion: degradation-aware feature fusion.
        detail: detail experts of the decoder.
        use_text: captions reach the model; False gives the empty caption always (ablation).
        last_timestep: of sampling where the settings name none, see ``SamplingSettings`` (paper: 0).
    """

    fusion: FusionConfig = field(default_factory=FusionConfig)
    detail: DetailConfig = field(default_factory=DetailConfig)
    use_text: bool = True
    last_timestep: int = 0


@dataclass
class LQFeatures:
    """What is computed of an LQ picture once.

    Attributes:
        deep: deep feature (B, F, h, w).
        skips: finest first; none where the picture is tiled.
        latents: VAE latents (B, C, h, w).
        lq: the padded picture itself (B, 3, H, W) in [-1, 1].
        grid: the tiles, None where the picture is worked on whole.
    """

    deep: Tensor
    skips: list[Tensor]
    latents: Tensor
    lq: Tensor
    grid: TileGrid | None = None


@dataclass
class Restoration:
    """A restored picture and what it was made of.

    Attributes:
        image: cropped to the LQ picture's size (B, 3, H, W) in [-1, 1], float32.
        latents: what the sampler ended with (B, C, h, w), float32.
        features: of the LQ picture; their grid tells the tiles.
    """

    image: Tensor
    latents: Tensor
    features: LQFeatures


class UniLDiff(nn.Module):
    """Base, LQ encoder, fused U-Net and detail decoder.

    Args:
        base: consumed: its U-Net's ``conv_in`` moves into the fused U-Net.
        config: sizes and switches.
    """

    def __init__(self, base: Base, config: NetworkConfig) -> None:
        super().__init__()
        lq_encoder = LQEncoder(base.vae)
        unet = FusedUNet(base.unet, config.fusion, int(base.vae.config.block_out_channels[-1]))
        self._set(base.vae, base.text, lq_encoder, unet, DetailDecoder(base.vae, config.detail), base.scheduler, config)

    @classmethod
    def from_parts(
        cls,
        vae: AutoencoderKL,
        text: TextEncoders,
        lq_encoder: LQEncoder,
        unet: FusedUNet,
        decoder: DetailDecoder,
        scheduler_config: dict[str, Any],
        config: NetworkConfig,
    ) -> "UniLDiff":
        """Return a restorer of these very parts; nothing is copied."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._set(vae, text, lq_encoder, unet, decoder, scheduler_config, config)
        return model

    def _set(
        self,
        vae: AutoencoderKL,
        text: TextEncoders,
        lq_encoder: LQEncoder,
        unet: FusedUNet,
        decoder: DetailDecoder,
        scheduler_config: dict[str, Any],
        config: NetworkConfig,
    ) -> None:
        self.config, self.scheduler_config = config, scheduler_config
        self.vae, self.text, self.lq_encoder, self.unet, self.decoder = vae, text, lq_encoder, unet, decoder
        self.schedule = NoiseSchedule(scheduler_config)
        self.downscale_factor = downscale_factor(vae)

    def embed(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions, or as many empty ones where text is switched off."""
        embedding: TextEmbedding = self.text(list(captions) if self.config.use_text else [""] * len(captions))
        return embedding

    def encode_lq(self, lq: Tensor, tile_size: int | None = None) -> LQFeatures:
        """Return features of LQ pictures (B, 3, H, W) in [-1, 1], sides multiples of the downscale factor.

        Larger pictures than ``tile_size`` pixels are tiled, here and in all that is then done with the features; sides
        must then be multiples of twice the factor (``pad``), and gradients are not kept.
        """
        factor = self.downscale_factor
        grid = tile_size and make_grid(lq.shape[2] // factor, lq.shape[3] // factor, tile_size // factor)
        if grid:
            with torch.no_grad():
                deep, latents = encode_tiles(self, lq, grid)
            return LQFeatures(deep, [], latents, lq, grid)
        deep, skips = self.lq_encoder(lq)
        with torch.no_grad():
            latents = encode_latents(self.vae, lq)
        return LQFeatures(deep, skips, latents, lq)

    def encode(self, images: Tensor, grid: TileGrid | None = None) -> Tensor:
        """Return VAE latents (B, C, h, w) of padded pictures (B, 3, H, W) in [-1, 1], tile by tile where there are some."""
        return encode_latents(self.vae, images) if grid is None else latent_tiles(self, images, grid)

    def context(
        self, deep: Tensor, text: TextEmbedding, size: tuple[int, int], corner: tuple[int, int] = (0, 0)
    ) -> UNetContext:
        """Return what the U-Net needs at every step, of the LQ encoder's deep feature (B, F, h, w) and embedded captions.

        Args:
            deep: of the pictures.
            text: B captions, or n B of them: a first caption for every picture, then a second, ...; the context is then
                for a batch of n B, and what does not depend on the caption is made once.
            size: the picture's height and width in pixels.
            corner: where in it a tile begins.
        """
        ids = None
        if self.unet.rest.config.addition_embed_type == "text_time":
            ids = time_ids(size, corner, size, text.tokens.shape[0]).to(deep.device)
        return UNetContext(self.unet.prepare(deep, text.tokens), text, ids)

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
        size = (features.latents.shape[2] * self.downscale_factor, features.latents.shape[3] * self.downscale_factor)
        whole = self.context(features.deep, text, size)
        last, repeats = whole.last(batch), text.tokens.shape[0] // batch

        def conditional(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self.predict(latents, timesteps, last)

        def guided(latents: Tensor, timesteps: Tensor) -> Tensor:
            return self.predict(latents.repeat(repeats, 1, 1, 1), timesteps.repeat(repeats), whole)

        return conditional, guided

    def predict(self, latents: Tensor, timesteps: Tensor, context: UNetContext) -> Tensor:
        """Return the U-Net's prediction (B, C, h, w) for noisy latents at timesteps (B,)."""
        prediction: Tensor = self.unet(latents.to(context.text.tokens.dtype), timesteps, context)[0]
        return prediction

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
            features = self.encode_lq(self.pad(lq), tile_size)
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

    def pad(self, images: Tensor) -> Tensor:
        """Return pictures padded by reflection at the right and bottom to what encoder and fusion can halve."""
        return pad_to_multiple(images, self.downscale_factor * 2)

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

    # --- folders -----------------------------------------------------------------------------------------------

    def save_folder(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a diffusers-layout folder that ``load_model`` reads, in the place of an earlier one; the model stays usable."""
        whole = Base(self.vae, self.unet.to_diffusers(), self.text, self.scheduler_config)
        with quiet():
            try:
                (whole if self.vae.dtype == self.unet.rest.dtype == dtype else _as_dtype(whole, dtype)).save(folder)
            finally:
                self.unet.rest.conv_in = nn.Identity()
        for name, part in self.added_parts().items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            state = {key: value.detach().to(dtype).contiguous() for key, value in part.state_dict().items()}
            save_file(state, folder / name / "model.safetensors")
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    def added_parts(self) -> dict[str, nn.Module]:
        """Return what a folder holds beside the base, by the name of its subfolder."""
        return {"lq_encoder": self.lq_encoder, "fusion": self.unet.fusion, "decoder": self.decoder}


def _as_dtype(base: Base, dtype: torch.dtype) -> Base:
    """Return a copy of the base's weights in another dtype, sharing configs."""
    return Base(
        copy.deepcopy(base.vae).to(dtype),
        copy.deepcopy(base.unet).to(dtype),
        copy.deepcopy(base.text).to(dtype),
        base.scheduler,
    )


def read_network(folder: Path) -> NetworkConfig:
    """Return the network of a folder that ``save_folder`` wrote.

    Raises:
        UserError: its ``unildiff.json`` is missing, damaged or of another version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"model: {folder} has no {CONFIG}; give a folder made by `unildiff export`, or tiny")
    try:
        return network_config(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"model: {path} is damaged or of another version ({reason}); export the model again") from None


def network_config(values: dict[str, Any]) -> NetworkConfig:
    """Return the config that ``unildiff.json`` holds."""
    detail = {**values["detail"], "kernel_sizes": tuple(values["detail"]["kernel_sizes"])}
    return NetworkConfig(**{**values, "fusion": FusionConfig(**values["fusion"]), "detail": DetailConfig(**detail)})


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> UniLDiff:
    """Load a folder that ``save_folder`` wrote.

    Raises:
        UserError: if a part is missing or does not fit.
    """
    network = read_network(folder)
    model = UniLDiff(load_base(str(folder), dtype), network)
    load_parts(model, folder)
    return model.to(dtype)


def load_parts(model: UniLDiff, folder: Path) -> None:
    """Fill LQ encoder, fusion and decoder from a folder that ``save_folder`` wrote.

    Raises:
        UserError: if a part is missing or does not fit.
    """
    for name, part in model.added_parts().items():
        path = folder / name / "model.safetensors"
        if not path.is_file():
            raise UserError(f"model: {path} is missing; export the model again")
        stored = load_file(path)
        if missing := sorted(part.state_dict().keys() - stored.keys()):
            raise UserError(
                f"model: {path} does not fit its config: it lacks {', '.join(missing[:3])} ({len(missing)} in all); "
                "another version of unildiff made it, or another config: train that part again, or use that version"
            )
        try:
            part.load_state_dict(stored)
        except RuntimeError as error:
            raise UserError(f"model: {path} does not fit its config ({str(error).splitlines()[0]})") from error
