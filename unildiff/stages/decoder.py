"""Stage 3, decoder fine-tune: the VAE decoder with DAEM learns from restored latents (supplement: 10,000 steps).

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unildiff.core.network import LQFeatures
from unildiff.data.batch import RestorationBatch, cut_batch
from unildiff.data.latents import CachedBatch, LatentCache, entries_of, of_batch
from unildiff.diffusion.noise import KeyedNoise
from unildiff.metrics.ssim import training_ssim
from unildiff.stages.base import batch_images, crop_place, dropped_captions
from unildiff.stages.denoising import routing_scalars
from unildiff.stages.image_loss import log_squared_error, tone_error
from unildiff.stages.latent_cache import cached_datamodule, fill_cache, fingerprint
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.settings import DecoderSettings
from unildiff.utils.errors import UserError
from unildiff.weights.load import check_sampling
from unildiff.weights.stage_parts import INITIALISED_FROM, TRAINED

_LATER_SAMPLING = ("timestep_spacing", "vae_tile")
"""Fields of ``SamplingSettings`` that were added after latents were first cached."""


class DecoderFinetuneModule(RestorationModule):
    """Trains the VAE decoder with DAEM; everything else, the LQ encoder included, is frozen. Starts from a joint checkpoint.

    Loss on images in [0, 1]: L1 + ssim_weight * (1 - SSIM) + auxiliary_weight * Eq. 7 of the supplement,
    and the two optional terms of ``image_loss``.

    Args:
        settings: fields of ``DecoderSettings``.
    """

    settings: DecoderSettings
    latent_cache: LatentCache
    trained = TRAINED["decoder"]
    initialised_from = INITIALISED_FROM["decoder"]

    def __init__(self, **settings: Any) -> None:
        super().__init__(DecoderSettings(**settings))

    def setup(self, stage: str) -> None:
        """See the base class. Also refuse a cache of another model, of other settings or of other data."""
        super().setup(stage)
        if stage == "fit":
            self._close_clean_gate()
            check_sampling(self.model, self.settings.training_sampling, "training_sampling")
            if self.settings.latents == "cached":
                self.open_cache()

    def check_crops(self, side: int) -> None:
        """See the base class. Also refuse crops without quarters where quarters are requested."""
        super().check_crops(side)
        if self.settings.cut_every:
            self.check_quarters(side, side)

    def _close_clean_gate(self) -> None:
        """Restore every image from now on: the judgement which images are clean was trained on other degradations than these."""
        tone = self.model.decoder.tone
        if tone is not None:
            tone.clean.close()

    # --- restored latents --------------------------------------------------------------------------------------

    def open_cache(self) -> None:
        """Open the cache of restored latents after a look at what it holds, before anything takes long.

        Raises:
            UserError: it is of another model, other settings or other data.
        """
        settings, train = self.settings, cached_datamodule(self.trainer).training_samples()
        self.latent_cache = LatentCache(Path(settings.cache.folder), settings.cache.samples)
        made_by = fingerprint(
            self.model,
            train,
            self.trained,
            training_sampling={  # a setting that is not used leaves the fingerprints of earlier caches as they are
                key: value
                for key, value in asdict(settings.training_sampling).items()
                if key not in _LATER_SAMPLING or value is not None
            },
            text_dropout=settings.text_dropout,
            precision=str(self.trainer.precision),
            skips=settings.cache.skips,
        )
        self.latent_cache.open(made_by, write=self.trainer.is_global_zero)

    def on_fit_start(self) -> None:
        """Make what the cache lacks."""
        if self.settings.latents == "cached":
            fill_cache(self.latent_cache, self.trainer, self.cache_entries, self.device_mesh is not None)

    def encode_lq(self, batch: RestorationBatch) -> LQFeatures:
        """Return the features of the LQ images."""
        corner, original = crop_place(batch)
        return self.model.encode_lq(batch_images(batch, "lq"), corner=corner, original=original)

    def cache_entries(self, batch: RestorationBatch) -> dict[str, Tensor]:
        """Return what the cache keeps of a batch, on the CPU."""
        features = self.encode_lq(batch)
        latents = self.sampled_latents(batch, features)
        return entries_of(batch, latents, features.skips if self.settings.cache.skips else [])

    @torch.no_grad()
    def decoder_inputs(self, batch: RestorationBatch, noise: KeyedNoise) -> tuple[Tensor, list[Tensor]]:
        """Return restored latents (B, C, h, w) of the kind named by ``latents``, and the skips, finest first."""
        lq, kind = batch_images(batch, "lq"), self.settings.latents
        if kind == "cached":
            latents, skips = of_batch(cast(CachedBatch, batch))
            return latents, skips or self.model.lq_encoder(lq)[1]
        features = self.encode_lq(batch)
        if kind == "lq":
            return features.latents, features.skips
        if kind == "sample":
            return self.sampled_latents(batch, features), features.skips
        return self.predicted_latents(batch, features, noise), features.skips

    def sampled_latents(self, batch: RestorationBatch, features: LQFeatures) -> Tensor:
        """Return what the sampler makes of LQ images, (B, C, h, w)."""
        captions = dropped_captions(batch["caption"], KeyedNoise(batch["key"]).keys, self.settings.text_dropout)
        return self.model.sample_latents(features, captions, batch["key"], self.settings.training_sampling)

    def predicted_latents(self, batch: RestorationBatch, features: LQFeatures, noise: KeyedNoise) -> Tensor:
        """Return the clean latents (B, C, h, w) implied by one prediction at a random timestep."""
        captions = dropped_captions(batch["caption"], noise.keys, self.settings.text_dropout)
        size = (batch["lq"].shape[2], batch["lq"].shape[3])
        context = self.model.context(features.deep, self.embed(captions), size, *crop_place(batch))
        schedule = self.model.schedule
        timesteps = noise.integers("timestep", schedule.num_train_timesteps)
        epsilon = noise.normal("epsilon", *features.latents.shape[1:])
        # As in the middle of sampling: noisy LQ latents, since the sampler does not know the ground truth.
        noisy = schedule.add_noise(features.latents.float(), epsilon, timesteps)
        prediction: Tensor = self.model.unet(noisy, timesteps, context)[0].float()
        return schedule.denoised(prediction, noisy, timesteps)

    # --- quarters of crops -------------------------------------------------------------------------------------

    def check_quarters(self, height: int, width: int) -> None:
        """Refuse crops whose quarters would need padding.

        Raises:
            UserError: the sizes that would fit are named.
        """
        multiple = 4 * self.model.downscale_factor  # twice what ``UniLDiff.pad`` pads to
        if height % multiple or width % multiple:
            raise UserError(
                f"cut_every: crops of {height}x{width} have quarters that need padding; give --data.crop_size a multiple "
                f"of {multiple}, or --model.cut_every 0"
            )

    def cuts(self, step: int) -> bool:
        """Whether optimiser step ``step`` is made on quarters."""
        return self.settings.cut_every > 0 and (step + 1) % self.settings.cut_every == 0

    @property
    def logs_step(self) -> bool:
        """Whether this step is the first of its kind, whole crops or quarters, since logging was last scheduled."""
        step, every = self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        scheduled = step - step % every
        return not any(self.cuts(earlier) == self.cuts(step) for earlier in range(scheduled, step))

    # --- training ----------------------------------------------------------------------------------------------

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        settings, quarters = self.settings, self.cuts(self.global_step)
        if quarters:
            self.check_quarters(*batch["lq"].shape[2:])
            batch = cut_batch(batch, 2)
        noise = KeyedNoise(batch["key"], self.device)
        gt = batch_images(batch, "gt")
        latents, skips = self.decoder_inputs(batch, noise)
        image, routings = self.model.decoder(latents, skips, batch_images(batch, "lq"), noise)
        image, gt = (image.float() + 1) / 2, (gt + 1) / 2  # SSIM's constants are meant for images from 0 up
        reconstruction = (image - gt).abs().mean()
        with torch.autocast(image.device.type, enabled=False):  # a variance as a difference of squares needs float32
            ssim = training_ssim(image, gt)
        loss: Tensor = reconstruction + settings.ssim_weight * (1 - ssim)
        if settings.log_weight:
            loss = loss + settings.log_weight * log_squared_error(image, gt)
        if settings.tone_weight:
            loss = loss + settings.tone_weight * tone_error(image, gt)
        if self.should_log:
            losses = {"loss/reconstruction": reconstruction.detach(), "loss/ssim": ssim.detach()}
            scalars = losses | routing_scalars(routings, "daem")
            self.log_scalars({f"{name}_of_quarters" if quarters else name: value for name, value in scalars.items()})
        return loss + settings.auxiliary_weight * self.balance(routings, self.global_step) if routings else loss
