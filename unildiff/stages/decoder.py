"""Stage 3, decoder fine-tune: the VAE decoder with DAEM on restored latents (paper.md: 10,000 steps).

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from unildiff.core.moe import auxiliary_loss
from unildiff.core.network import LQFeatures, NetworkConfig
from unildiff.data.batch import RestorationBatch, cut_batch
from unildiff.data.latents import CachedBatch, LatentCache, of_batch
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.ssim import training_ssim
from unildiff.stages.base import OptimizerConfig, batch_pictures, crop_place, dropped_captions
from unildiff.stages.denoising import routing_scalars
from unildiff.stages.latent_cache import LatentCacheConfig, fill_cache, open_cache
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.testing import EvaluationSettings
from unildiff.utils.errors import UserError
from unildiff.weights.load import HANDED_TO_DECODER, check_sampling


class DecoderFinetuneModule(RestorationModule):
    """Trains the VAE decoder with DAEM; all else, the LQ encoder included, is frozen. Starts from a joint checkpoint.

    Loss, on pictures in [0, 1]: L1 + ssim_weight * (1 - SSIM) + auxiliary_weight * Eq. 7 (paper.md, "Stage-3 loss").

    Args:
        base: see ``RestorationModule``.
        base_vae: see ``RestorationModule``.
        network: see ``RestorationModule``.
        init_from: see ``RestorationModule``.
        optimizer: the paper gives no learning rate for this stage; 1e-4 is our choice.
        sampling: see ``RestorationModule``.
        text_dropout: share of samples restored with the empty caption.
        gradient_checkpointing: recompute activations in the backward pass.
        evaluation: see ``RestorationModule``.
        latents: the restored latents it learns from: ``sample`` runs the sampler with ``training_sampling`` each step,
            ``cached`` has it run once before training over ``cache.samples`` samples and keeps the result on disk,
            ``one_step`` takes the clean latents that one prediction at a random timestep implies, ``lq`` skips the
            diffusion and decodes the LQ picture's own latents (ablation).
        training_sampling: few unguided steps (our choice: a decoder step costs less than 20 guided ones; the tiny recipe's
            are guided, as pictures are restored).
        cache: where ``cached`` keeps them, and how many; never read from a checkpoint.
        ssim_weight: l1 of the loss (authors' refiner script: 0.2).
        auxiliary_weight: lambda of Eq. 7 (supplement: 0.01).
        cut_every: every so many optimiser steps, the step is made on the quarters of its crops, restored and compared as
            pictures of their own: what DAEM decides for a whole picture is then learnt of small ones, too (our choice; 0:
            never, as in the paper).
    """

    trained = ("decoder.",)
    hand_over: ClassVar[dict[str, str]] = HANDED_TO_DECODER

    def __init__(
        self,
        base: str = "tiny",
        base_vae: str | None = None,
        network: NetworkConfig | None = None,
        init_from: str | None = None,
        optimizer: OptimizerConfig | None = None,
        sampling: SamplingSettings | None = None,
        text_dropout: float = 0.2,
        gradient_checkpointing: bool = False,
        evaluation: EvaluationSettings | None = None,
        latents: Literal["sample", "cached", "one_step", "lq"] = "sample",
        training_sampling: SamplingSettings | None = None,
        cache: LatentCacheConfig | None = None,
        ssim_weight: float = 0.2,
        auxiliary_weight: float = 0.01,
        cut_every: int = 0,
    ) -> None:
        if cut_every < 0 or (cut_every and latents == "cached"):
            reason = "cached latents are of whole crops" if cut_every > 0 else "it counts steps"
            raise UserError(
                f"cut_every: {cut_every}, but {reason}; give --model.cut_every 0, or a number of steps and "
                "--model.latents sample"
            )
        super().__init__(
            base, base_vae, network, init_from, optimizer, sampling, text_dropout, gradient_checkpointing, evaluation
        )
        self.save_hyperparameters(ignore=["sampling", "training_sampling", "evaluation", "cache"])
        self.latents = latents
        self.training_sampling = training_sampling or SamplingSettings(num_inference_steps=4, guidance_scale=1.0)
        self.cache = cache or LatentCacheConfig()
        self.latent_cache: LatentCache
        self.cut_every = cut_every
        self.ssim_weight, self.auxiliary_weight = ssim_weight, auxiliary_weight

    def setup(self, stage: str) -> None:
        """Refuse a cache of something else, too."""
        super().setup(stage)
        if stage == "fit":
            check_sampling(self.model, self.training_sampling, "training_sampling")
            if self.latents == "cached":
                self.latent_cache = open_cache(self)

    def check_crops(self, side: int) -> None:
        """Refuse crops that have no quarters, too, where there are to be some."""
        super().check_crops(side)
        if self.cut_every:
            self.check_quarters(side, side)

    def on_fit_start(self) -> None:
        """Make what the cache lacks."""
        if self.latents == "cached":
            fill_cache(self, self.latent_cache)

    @torch.no_grad()
    def decoder_inputs(self, batch: RestorationBatch, noise: KeyedNoise) -> tuple[Tensor, list[Tensor]]:
        """Return restored latents (B, C, h, w) of the kind that ``latents`` names, and the skips, finest first."""
        lq = batch_pictures(batch, "lq")
        if self.latents == "cached":
            latents, skips = of_batch(cast(CachedBatch, batch))
            return latents, skips or self.model.lq_encoder(lq)[1]
        corner, original = crop_place(batch)
        features = self.model.encode_lq(lq, corner=corner, original=original)
        if self.latents == "lq":
            return features.latents, features.skips
        restored = self.sampled_latents if self.latents == "sample" else self.predicted_latents
        return restored(batch, features, noise), features.skips

    def sampled_latents(self, batch: RestorationBatch, features: LQFeatures, noise: KeyedNoise) -> Tensor:
        """Return what the sampler makes of LQ pictures, (B, C, h, w)."""
        captions = dropped_captions(batch["caption"], noise, self.text_dropout)
        return self.model.sample_latents(features, captions, batch["key"], self.training_sampling)

    def predicted_latents(self, batch: RestorationBatch, features: LQFeatures, noise: KeyedNoise) -> Tensor:
        """Return the clean latents (B, C, h, w) that one prediction at a random timestep implies."""
        captions = dropped_captions(batch["caption"], noise, self.text_dropout)
        size = (batch["lq"].shape[2], batch["lq"].shape[3])
        context = self.model.context(features.deep, self.embed(captions), size, *crop_place(batch))
        schedule = self.model.schedule
        timesteps = noise.integers("timestep", schedule.num_train_timesteps)
        epsilon = noise.normal("epsilon", *features.latents.shape[1:])
        # The noisy latents of a sampler that is under way: from the LQ latents, since the truth is not known to it.
        noisy = schedule.add_noise(features.latents.float(), epsilon, timesteps)
        prediction: Tensor = self.model.unet(noisy, timesteps, context)[0].float()
        return schedule.denoised(prediction, noisy, timesteps)

    def check_quarters(self, height: int, width: int) -> None:
        """Refuse crops whose quarters would have to be padded.

        Raises:
            UserError: what size they may have.
        """
        multiple = 4 * self.model.downscale_factor  # twice what ``UniLDiff.pad`` pads to
        if height % multiple or width % multiple:
            raise UserError(
                f"cut_every: crops of {height}x{width} have no quarters that need no padding; give --data.crop_size a "
                f"multiple of {multiple}, or --model.cut_every 0"
            )

    def cuts(self, step: int) -> bool:
        """Whether the optimiser step is made on quarters."""
        return self.cut_every > 0 and (step + 1) % self.cut_every == 0

    @property
    def is_due(self) -> bool:
        """Whether this step is the first of its kind, whole crops or quarters, since scalars were due."""
        step, every = self.global_step, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = step - step % every
        return not any(self.cuts(earlier) == self.cuts(step) for earlier in range(due, step))

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        quarters = self.cuts(self.global_step)
        if quarters:
            self.check_quarters(*batch["lq"].shape[2:])
            batch = cut_batch(batch, 2)
        noise = KeyedNoise(batch["key"], self.device)
        gt = batch_pictures(batch, "gt")
        latents, skips = self.decoder_inputs(batch, noise)
        image, routings = self.model.decoder(latents, skips, batch_pictures(batch, "lq"), noise)
        image, gt = (image.float() + 1) / 2, (gt + 1) / 2  # SSIM's constants are meant for pictures from 0 up
        reconstruction = (image - gt).abs().mean()
        with torch.autocast(image.device.type, enabled=False):  # a variance as a difference of squares needs float32
            ssim = training_ssim(image, gt)
        loss: Tensor = reconstruction + self.ssim_weight * (1 - ssim)
        if self.logs_now:
            losses = {"loss/reconstruction": reconstruction.detach(), "loss/ssim": ssim.detach()}
            scalars = losses | routing_scalars(routings, "daem")
            self.log_scalars({f"{name}_of_quarters" if quarters else name: value for name, value in scalars.items()})
        return loss + self.auxiliary_weight * auxiliary_loss(routings) if routings else loss
