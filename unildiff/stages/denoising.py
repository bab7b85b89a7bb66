"""The training step of the diffusion stages: alignment, joint and joint with adapters.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

import torch
from torch import Tensor

from unildiff.core.encoders import encode_latents
from unildiff.core.moe import Routing
from unildiff.data.batch import RestorationBatch
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.noise import KeyedNoise
from unildiff.stages.base import batch_images, crop_place, dropped_captions
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.settings import DenoisingSettings


class DenoisingModule(RestorationModule):
    """Trains the denoiser: L1 on the prediction target of the base, plus the balancing loss of token experts if there are any."""

    settings: DenoisingSettings
    uses_detail = False

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        settings, model = self.settings, self.model
        noise = KeyedNoise(batch["key"], self.device)
        lq, gt = batch_images(batch, "lq"), batch_images(batch, "gt")
        deep, _ = model.lq_encoder(lq)
        shape = (model.vae.config.latent_channels, *deep.shape[2:])
        with torch.no_grad():
            latents = encode_latents(model.vae, gt, noise.normal("posterior", *shape)).float()
        text = self.embed(dropped_captions(batch["caption"], noise.keys, settings.text_dropout))
        context = model.context(deep, text, (lq.shape[2], lq.shape[3]), *crop_place(batch))
        epsilon = noise.normal("epsilon", *shape)
        epsilon = epsilon + settings.noise_offset * noise.normal("offset", shape[0], 1, 1)
        total = model.schedule.num_train_timesteps
        timesteps = noise.integers("timestep", total)
        if settings.terminal_share:
            at_the_end = noise.uniform("terminal") < settings.terminal_share
            timesteps = torch.where(at_the_end, total - 1, timesteps)
        routings: list[Routing] = []
        gates: list[Tensor] = []

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            prediction: Tensor
            prediction, fused = model.unet(noisy, steps, context, noise)
            routings.extend(fused.routings)
            gates.extend([] if fused.gate is None else [fused.gate])
            return prediction

        per_sample = diffusion_loss(predict, latents, epsilon, timesteps, model.schedule)
        loss = per_sample.mean()
        if self.should_log:
            scalars = {"loss/diffusion": loss.detach()} | routing_scalars(routings, "fusion")
            quarters = timesteps * 4 // total
            for quarter in sorted(set(quarters.tolist())):  # loss and fusion gate over the timesteps, in four bins
                inside = quarters == quarter
                scalars[f"loss_at_timestep/quarter{quarter}"] = per_sample.detach()[inside].mean()
                if gates:
                    scalars[f"fusion_gate/quarter{quarter}"] = gates[0][inside].mean()
            self.log_scalars(scalars)
        return loss + settings.auxiliary_weight * self.balance(routings, self.global_step) if routings else loss


@torch.no_grad()
def routing_scalars(routings: list[Routing], name: str) -> dict[str, Tensor | float]:
    """Return the balancing losses and each expert's share of the inputs per routed level, by the names of their curves."""
    scalars: dict[str, Tensor | float] = {}
    for level, routing in enumerate(routings):
        metrics = routing.metrics()
        usage = metrics.pop("usage")
        scalars |= {f"loss/{loss.removesuffix('_loss')}_{name}{level}": value for loss, value in metrics.items()}
        scalars |= {f"expert_usage/{name}{level}.{expert}": share for expert, share in enumerate(usage.tolist())}
    return scalars
