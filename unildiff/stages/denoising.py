"""The training step of the two diffusion stages.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

import torch
from torch import Tensor

from unildiff.core.encoders import encode_latents
from unildiff.core.moe import Routing, auxiliary_loss
from unildiff.core.network import NetworkConfig
from unildiff.data.batch import RestorationBatch
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.base import OptimizerConfig, batch_pictures, crop_place, dropped_captions
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.testing import EvaluationSettings
from unildiff.utils.errors import check_share


class DenoisingModule(RestorationModule):
    """Trains the denoiser: L1 on the base's prediction target, plus the balance of token experts where there are any.

    Args:
        base: see ``RestorationModule``.
        base_vae: see ``RestorationModule``.
        network: see ``RestorationModule``.
        init_from: see ``RestorationModule``.
        optimizer: see ``OptimizerConfig``.
        sampling: see ``RestorationModule``.
        text_dropout: share of samples trained with the empty caption (supplement: 20%).
        gradient_checkpointing: recompute activations in the backward pass.
        evaluation: see ``RestorationModule``.
        noise_offset: strength of noise that is constant over a latent channel (authors' scripts: 0.02).
        auxiliary_weight: lambda of Eq. 7 (supplement: 0.01), used with token experts.
        terminal_share: share of samples trained at the last timestep, where the LQ picture alone says what is there, beside
            those that reach it by chance (our choice for the tiny model, docs/tiny-model.md; paper: 0, uniform timesteps).
    """

    uses_detail = False

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
        noise_offset: float = 0.02,
        auxiliary_weight: float = 0.01,
        terminal_share: float = 0.0,
    ) -> None:
        check_share("terminal_share", terminal_share)
        super().__init__(
            base, base_vae, network, init_from, optimizer, sampling, text_dropout, gradient_checkpointing, evaluation
        )
        self.save_hyperparameters(ignore=["sampling", "evaluation"])
        self.noise_offset, self.auxiliary_weight, self.terminal_share = noise_offset, auxiliary_weight, terminal_share

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        noise = KeyedNoise(batch["key"], self.device)
        lq, gt = batch_pictures(batch, "lq"), batch_pictures(batch, "gt")
        deep, _ = self.model.lq_encoder(lq)
        shape = (self.model.vae.config.latent_channels, *deep.shape[2:])
        with torch.no_grad():
            latents = encode_latents(self.model.vae, gt, noise.normal("posterior", *shape)).float()
        text = self.embed(dropped_captions(batch["caption"], noise, self.text_dropout))
        context = self.model.context(deep, text, (lq.shape[2], lq.shape[3]), *crop_place(batch))
        epsilon = noise.normal("epsilon", *shape)
        epsilon = epsilon + self.noise_offset * noise.normal("offset", shape[0], 1, 1)
        total = self.model.schedule.num_train_timesteps
        timesteps = noise.integers("timestep", total)
        if self.terminal_share:
            timesteps[noise.uniform("terminal") < self.terminal_share] = total - 1
        routings: list[Routing] = []
        gates: list[Tensor] = []

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            prediction: Tensor
            prediction, fused = self.model.unet(noisy, steps, context, noise)
            routings.extend(fused.routings)
            gates.extend([] if fused.gate is None else [fused.gate])
            return prediction

        per_sample = diffusion_loss(predict, latents, epsilon, timesteps, self.model.schedule)
        loss = per_sample.mean()
        if self.logs_now:
            scalars = {"loss/diffusion": loss.detach()} | routing_scalars(routings, "fusion")
            quarters = timesteps * 4 // total
            for quarter in sorted(set(quarters.tolist())):  # loss and fusion gate over the timesteps, in four bins
                inside = quarters == quarter
                scalars[f"loss_at_timestep/quarter{quarter}"] = per_sample.detach()[inside].mean()
                if gates:
                    scalars[f"fusion_gate/quarter{quarter}"] = gates[0][inside].mean()
            self.log_scalars(scalars)
        return loss + self.auxiliary_weight * auxiliary_loss(routings) if routings else loss


@torch.no_grad()
def routing_scalars(routings: list[Routing], name: str) -> dict[str, Tensor | float]:
    """Return, per routed level, the balancing losses and each expert's share of the inputs, by their curves' names."""
    scalars: dict[str, Tensor | float] = {}
    for level, routing in enumerate(routings):
        metrics = routing.metrics()
        usage = metrics.pop("usage")
        scalars |= {f"loss/{loss.removesuffix('_loss')}_{name}{level}": value for loss, value in metrics.items()}
        scalars |= {f"expert_usage/{name}{level}.{expert}": share for expert, share in enumerate(usage.tolist())}
    return scalars
