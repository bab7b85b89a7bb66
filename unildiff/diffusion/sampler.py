"""Euler sampling with classifier-free guidance, a plain function of a denoiser and a start.

Axis letters: B batch, C latent channels, h/w latent height and width, N steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.utils.errors import UserError
from unildiff.utils.validation import NonNegativeInt, PositiveInt, Range, Share, check_fields

SMALLEST_TILE = 128
"""Smallest tile side in pixels; smaller tiles would see too little of the image to restore it (our choice)."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(scaled noisy latents (B, C, h, w), timesteps (B,)) -> prediction of the same shape."""

Callback = Callable[[int, Tensor], Tensor | None]
"""(step index, latents (B, C, h, w)) -> latents to continue with, or None to keep them."""


@dataclass
class SamplingSettings:
    """How images are sampled; never stored in a checkpoint.

    Args:
        num_inference_steps: Euler steps (paper: 20).
        guidance_scale: classifier-free guidance (paper: 5); 1 switches guidance off.
        start: ``lq`` starts from the noised LQ latents (authors' scripts), ``noise`` from noise alone.
        guidance_interval: share of the steps, from first to last, that are guided: (0, 1) guides all (paper).
        last_timestep: last timestep; from there one step leads to the clean latents that its prediction implies. 0
            follows the whole trajectory (paper) and draws one of the images that the model considers possible; ending at
            high noise stays near their mean, which PSNR rewards (our choice). None is the model's own, see
            ``NetworkConfig``.
        tile_size: pixels of a tile's side; images with a longer side are restored in overlapping tiles. None chooses by
            the model and the image, see ``UniLDiff.default_tile_size``, and tiles any image that does not fit in memory.
        vae_tile: pixels of a tile's side for LQ encoder, VAE and decoder, where it is smaller than ``tile_size``.
        timestep_spacing: spacing of the steps; None is the base's own. Few-step bases that ship with SDXL's scheduler
            config (SDXL-Lightning, SDXL-Turbo) need ``trailing``.
    """

    num_inference_steps: PositiveInt = 20
    guidance_scale: Annotated[float, Range(0, 1000)] = 5.0
    start: Literal["lq", "noise"] = "lq"
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    last_timestep: NonNegativeInt | None = None
    tile_size: Annotated[int, Range(SMALLEST_TILE, 65_536)] | None = None
    vae_tile: Annotated[int, Range(SMALLEST_TILE, 65_536)] | None = None
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        low, high = self.guidance_interval
        if low >= high:
            raise UserError(f"guidance_interval is {self.guidance_interval}; the first value must be the smaller one")

    def timesteps(self, schedule: NoiseSchedule) -> Tensor:
        """Return the steps' timesteps, float32, descending."""
        return schedule.sampling_timesteps(self.num_inference_steps, self.last_timestep or 0, self.timestep_spacing)

    def coder_tile(self, tile_size: int | None) -> int | None:
        """Return the tile side of LQ encoder, VAE and decoder where the U-Net's tiles have ``tile_size``."""
        return min((side for side in (tile_size, self.vae_tile) if side is not None), default=None)


def start_latents(lq_latents: Tensor, noise: Tensor, schedule: NoiseSchedule, settings: SamplingSettings) -> Tensor:
    """Return the sampler's start (B, C, h, w) in variance-exploding scale: z_LQ (or 0) + sigma_max * noise.

    Equals diffusers' ``EulerDiscreteScheduler.add_noise`` at its first timestep. Starting from the LQ latents is the default of
    FaithDiff's public scripts (https://github.com/JyChen9811/FaithDiff), on which the authors' code builds.
    """
    timesteps = settings.timesteps(schedule)
    sigma: float = schedule.sampling_sigmas(timesteps).tolist()[0]
    return (lq_latents if settings.start == "lq" else torch.zeros_like(lq_latents)) + sigma * noise


def euler_step(latents: Tensor, prediction: Tensor, sigma: float, sigma_next: float, prediction_type: str) -> Tensor:
    """Return the latents at ``sigma_next``: one Euler step of the probability flow (Karras et al. 2022, Algorithm 1)."""
    if prediction_type == "epsilon":
        derivative = prediction
    else:
        if prediction_type == "v_prediction":
            denoised = latents / (sigma**2 + 1) - prediction * (sigma / (sigma**2 + 1) ** 0.5)
        else:
            denoised = prediction
        derivative = (latents - denoised) / sigma
    return latents + derivative * (sigma_next - sigma)


def sample(
    conditional: Predict,
    guided: Predict | None,
    latents: Tensor,
    schedule: NoiseSchedule,
    settings: SamplingSettings,
    callback: Callback | None = None,
) -> Tensor:
    """Return clean latents (B, C, h, w), float32.

    Args:
        conditional: prediction under the caption.
        guided: predictions under the empty caption and under the caption, (2B, C, h, w), unconditional first; None when
            both are the same, then one pass is enough.
        latents: the start, from ``start_latents``.
        schedule: of the base.
        settings: steps and guidance; CFG is eps = eps(uncond) + scale * (eps(text) - eps(uncond)).
        callback: called after each step.
    """
    timesteps = settings.timesteps(schedule)
    sigmas = schedule.sampling_sigmas(timesteps).tolist()
    latents = latents.float()
    low, high = settings.guidance_interval
    for index, timestep in enumerate(timesteps.tolist()):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        scaled = latents / (sigma**2 + 1) ** 0.5
        batch_timesteps = torch.full((latents.shape[0],), timestep, device=latents.device)
        use_guidance = settings.guidance_scale != 1.0 and low <= index / len(timesteps) < high
        if use_guidance and guided is not None:
            without, with_text = guided(scaled, batch_timesteps).float().chunk(2)
            prediction = without + settings.guidance_scale * (with_text - without)
        else:
            prediction = conditional(scaled, batch_timesteps).float()
        latents = euler_step(latents, prediction, sigma, sigma_next, schedule.prediction_type)
        replaced = callback(index, latents) if callback is not None else None
        latents = latents if replaced is None else replaced.float()
    return latents
