"""Pretraining of the tiny base, because weights cannot be downloaded everywhere: VAE first, then the U-Net.

Axis letters: B batch, H/W pixels, C latent channels, h/w latent height and width.
Not part of the paper. The result is an ordinary diffusers folder that takes the place of SDXL.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from unildiff.core.daff import FusionConfig
from unildiff.core.encoders import decode_latents, encode_latents, unshuffle_factor
from unildiff.core.pixels import to_unit
from unildiff.core.text import TextEncoders
from unildiff.core.tiny import make_tiny_base
from unildiff.core.tiny_start import start_from_patches
from unildiff.core.unet import FusedUNet, UNetContext
from unildiff.data.batch import RestorationBatch
from unildiff.deadleaves.renderer import VOCABULARY, render
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.stages.base import StageModule, batch_images, dropped_captions
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.utils.keys import sample_key
from unildiff.utils.validation import NonNegativeFloat, NonNegativeInt, Seed, Share, check_arguments
from unildiff.weights.base import load_base
from unildiff.weights.folder import save_base


class _Parts(torch.nn.Module):
    """The parts of a base that a stage needs, under the names used in checkpoints."""

    vae: AutoencoderKL
    unet: FusedUNet
    text: TextEncoders

    def __init__(self, **parts: torch.nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class PretrainVAEModule(StageModule):
    """Trains the tiny VAE to reproduce images: L1 in pixels and a weak KL term.

    Args:
        output: folder to which the base is written at the end of training, in diffusers' layout.
        optimizer: AdamW and its schedule.
        kl_weight: weight of the KL divergence, mean over latents (our choice).
        chroma_weight: weight of the L1 loss on the difference from grey (our choice: without it the tiny VAE produced grey
            images for a thousand steps, because brightness is most of the error).
        degraded_share: share of each batch taken from the LQ images, since the LQ start and the LQ encoder need
            latents of degraded images too (our choice).
        squared_weight: weight of the squared error in addition to L1 (our choice).
        start_pictures: number of generated images whose patches initialise the encoder; 0 starts at random.
        seed: seed of the initialisation.
    """

    trained = ("vae.",)
    model: _Parts
    latent_std: Tensor

    def __init__(
        self,
        output: str,
        optimizer: OptimizerConfig | None = None,
        kl_weight: NonNegativeFloat = 2e-5,
        chroma_weight: NonNegativeFloat = 2.0,
        degraded_share: Share = 0.25,
        squared_weight: NonNegativeFloat = 0.0,
        start_pictures: NonNegativeInt = 0,
        seed: Seed = 0,
    ) -> None:
        check_arguments(PretrainVAEModule, locals())
        super().__init__(optimizer or OptimizerConfig(learning_rate=1e-3))
        self.save_hyperparameters()
        base = make_tiny_base(list(VOCABULARY), seed)
        self.base = [base]  # in a list: only self.model's parts belong to the module tree
        self.model = _Parts(vae=base.vae)
        self.output, self.kl_weight, self.chroma_weight = Path(output), kl_weight, chroma_weight
        self.degraded_share, self.squared_weight, self.start_pictures = degraded_share, squared_weight, start_pictures
        self.started = False
        self.register_buffer("latent_std", torch.tensor(1.0), persistent=False)
        self.freeze_untrained()

    def setup(self, stage: str) -> None:
        """Initialise from patches of generated images, once; a checkpoint that is loaded afterwards replaces them."""
        super().setup(stage)
        if stage == "fit" and self.start_pictures and not self.started:
            self.started = True
            keys = [sample_key("start", 0, index) for index in range(self.start_pictures)]
            images = torch.stack([torch.from_numpy(render(key, 160).image).permute(2, 0, 1) for key in keys])
            start_from_patches(self.model.vae, to_unit(images))

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the loss on ground-truth images and a share of degraded ones."""
        count = round(self.degraded_share * len(batch["name"]))
        images = torch.cat([batch_images(batch, "lq")[:count], batch_images(batch, "gt")[count:]])
        vae = self.model.vae
        factor = unshuffle_factor(vae)
        posterior = vae.encode(torch.nn.functional.pixel_unshuffle(images, factor)).latent_dist
        noise = KeyedNoise(batch["key"], images.device).normal("posterior", *posterior.mean.shape[1:])
        weight = max(0.02, 1 / (self.global_step + 1))  # a plain mean at first, which forgets the initial 1
        self.latent_std.lerp_(posterior.mean.detach().float().std(), weight)
        decoded = decode_latents(vae, (posterior.mean + posterior.std * noise) * vae.config.scaling_factor)
        error = decoded.float() - images
        reconstruction = error.abs().mean()
        chroma = (error - error.mean(dim=1, keepdim=True)).abs().mean()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1.0 - posterior.logvar.float()).mean()
        if self.should_log:
            self.log_scalars(
                {"loss/reconstruction": reconstruction.detach(), "loss/chroma": chroma.detach(), "loss/kl": kl.detach()}
            )
        loss: Tensor = reconstruction + self.chroma_weight * chroma + self.kl_weight * kl
        if self.squared_weight:
            loss = loss + self.squared_weight * error.square().mean()
        return loss

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Log the PSNR of the round trip, averaged over images."""
        images = batch_images(batch, "gt")
        decoded = decode_latents(self.model.vae, encode_latents(self.model.vae, images)).clamp(-1, 1)
        psnr = peak_signal_noise_ratio(decoded, images, data_range=2.0, reduction="elementwise_mean", dim=(1, 2, 3))
        self.log("val/psnr", psnr, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the standard deviation of the latents beside the weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["latent_std"] = float(self.latent_std)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the standard deviation of the latents."""
        super().on_load_checkpoint(checkpoint)
        self.latent_std.fill_(checkpoint["latent_std"])

    def on_train_end(self) -> None:
        """Write the base, its latents scaled to unit variance."""
        self.model.vae.register_to_config(scaling_factor=float(1.0 / self.latent_std))
        if self.trainer.is_global_zero:
            save_base(self.base[0], self.output)


class PretrainUNetModule(StageModule):
    """Trains the tiny U-Net and text encoder on captioned ground-truth images, as the base in place of SDXL.

    Args:
        base: folder with the pretrained VAE, written by ``PretrainVAEModule``.
        output: folder to which the base is written at the end of training, in diffusers' layout.
        optimizer: AdamW and its schedule.
        text_dropout: share of samples trained with the empty caption (supplement: 20%).
    """

    trained = ("unet.", "text.")
    model: _Parts

    def __init__(
        self, base: str, output: str, optimizer: OptimizerConfig | None = None, text_dropout: Share = 0.2
    ) -> None:
        check_arguments(PretrainUNetModule, locals())
        super().__init__(optimizer or OptimizerConfig(learning_rate=1e-3))
        self.save_hyperparameters()
        loaded = load_base(base)
        self.base = [loaded]
        self.schedule = NoiseSchedule(loaded.scheduler)
        unet = FusedUNet(loaded.unet, FusionConfig(kind="plain"), int(loaded.vae.config.block_out_channels[-1]))
        self.model = _Parts(vae=loaded.vae, unet=unet, text=loaded.text)
        self.output, self.text_dropout = Path(output), text_dropout
        self.freeze_untrained()
        unet.fusion.requires_grad_(False)
        loaded.text.freeze_unused()

    def _loss(self, batch: RestorationBatch) -> Tensor:
        noise = KeyedNoise(batch["key"], self.device)
        images = batch_images(batch, "gt")
        with torch.no_grad():
            latents = encode_latents(self.model.vae, images).float()
        captions = dropped_captions(batch["caption"], noise.keys, self.text_dropout)
        context = UNetContext(None, self.model.text(captions))
        epsilon = noise.normal("epsilon", *latents.shape[1:])
        timesteps = noise.integers("timestep", self.schedule.num_train_timesteps)

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            prediction: Tensor = self.model.unet(noisy, steps, context)[0]
            return prediction

        return diffusion_loss(predict, latents, epsilon, timesteps, self.schedule).mean()

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the diffusion loss on ground-truth images."""
        loss = self._loss(batch)
        if self.should_log:
            self.log_scalars({"loss/diffusion": loss.detach()})
        return loss

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Log the diffusion loss on validation images."""
        self.log("val/diffusion", self._loss(batch), batch_size=1, sync_dist=True)

    def on_train_end(self) -> None:
        """Write the base; for this the U-Net gets its ``conv_in`` back."""
        self.model.unet.to_diffusers()
        if self.trainer.is_global_zero:
            save_base(self.base[0], self.output)
        self.model.unet.rest.conv_in = torch.nn.Identity()
