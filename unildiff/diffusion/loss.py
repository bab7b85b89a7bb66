"""The training loss of the diffusion, as a function of tensors.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from collections.abc import Callable

from torch import Tensor

from unildiff.diffusion.schedule import NoiseSchedule


def diffusion_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
) -> Tensor:
    """Return the L1 loss between prediction and target, one number per sample (B,).

    Args:
        predict: the network, (noisy latents (B, C, h, w), timesteps (B,)) -> prediction (B, C, h, w).
        latents: clean latents (B, C, h, w), scaled by the VAE's factor.
        noise: standard normal noise (B, C, h, w), noise offset included where one is used.
        timesteps: int64 (B,) in 0..T-1.
        schedule: gives the noisy latents and the target; the paper's base predicts epsilon.

    Source: L1 on epsilon is the loss of the authors' public training scripts (docs/sources.md, "Diffusion").
    """
    noisy = schedule.add_noise(latents, noise, timesteps)
    error = predict(noisy, timesteps).float() - schedule.target(latents, noise, timesteps)
    return error.abs().flatten(1).mean(1)
