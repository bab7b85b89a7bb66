"""The noise schedule, read from the base's own scheduler config.

Axis letters: B batch, T training timesteps, N sampling steps.
A scheduler built without the base's config has other betas and another spacing and is silently wrong, so there are no
defaults: every number comes from the config (diffusers' keys). Variance preserving: x_t = a_t x_0 + s_t noise.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
NOT_IMPLEMENTED: dict[str, tuple[object, ...]] = {
    "trained_betas": (None,),
    "use_karras_sigmas": (None, False),
    "use_exponential_sigmas": (None, False),
    "use_beta_sigmas": (None, False),
    "use_flow_sigmas": (None, False),
    "use_lu_lambdas": (None, False),
    "interpolation_type": (None, "linear"),
    "final_sigmas_type": (None, "zero"),
    "timestep_type": (None, "discrete"),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
"""Keys of diffusers that change the schedule, with the values that leave it unchanged; all others are refused."""


class NoiseSchedule:
    """Training and sampling views of one diffusion schedule (Ho et al. 2020; Karras et al. 2022 for the sigmas).

    Args:
        config: a diffusers scheduler config: ``num_train_timesteps``, ``beta_schedule`` (``linear`` or
            ``scaled_linear``), ``beta_start``, ``beta_end``, ``prediction_type``, ``timestep_spacing``, for ``leading``
            spacing ``steps_offset``, and ``rescale_betas_zero_snr``: the last timestep is pure noise (Lin et al. 2023).

    Raises:
        ValueError: the schedule, spacing or prediction type is unknown, or a key of ``NOT_IMPLEMENTED`` is set.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        for key, harmless in NOT_IMPLEMENTED.items():
            if config.get(key) not in harmless:
                raise ValueError(f"the scheduler config sets {key} to {config[key]!r}, which is not implemented")
        self.num_train_timesteps = int(config["num_train_timesteps"])
        self.prediction_type: str = config["prediction_type"]
        self.timestep_spacing: str = config["timestep_spacing"]
        self.steps_offset = int(config.get("steps_offset", 0))
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type {self.prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
        start, end, count = float(config["beta_start"]), float(config["beta_end"]), self.num_train_timesteps
        if config["beta_schedule"] == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32, device="cpu") ** 2
        elif config["beta_schedule"] == "linear":
            betas = torch.linspace(start, end, count, dtype=torch.float32, device="cpu")
        else:
            raise ValueError(f"beta_schedule {config['beta_schedule']!r} is not one of linear, scaled_linear")
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)  # (T,)
        if config.get("rescale_betas_zero_snr"):
            if self.prediction_type == "epsilon":
                raise ValueError(
                    "rescale_betas_zero_snr needs v_prediction or sample: pure noise does not determine epsilon"
                )
            self.alphas_cumprod = _without_signal_at_the_end(self.alphas_cumprod)
        self._on_device: dict[torch.device, Tensor] = {}  # copied once: a copy in every step would make a GPU wait

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and noise scales (a_t, s_t), each (B, 1, 1, 1), for integer timesteps (B,)."""
        if timesteps.device not in self._on_device:
            self._on_device[timesteps.device] = self.alphas_cumprod.to(timesteps.device)
        alphas_cumprod = self._on_device[timesteps.device][timesteps].view(-1, 1, 1, 1)
        return alphas_cumprod.sqrt(), (1.0 - alphas_cumprod).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t (B, C, h, w) of clean latents at timesteps (B,)."""
        signal, sigma = self.scales(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network learns to predict, (B, C, h, w): noise, velocity (Salimans & Ho 2022) or latents."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self.scales(timesteps)
        return signal * noise - sigma * latents

    def denoised(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean latents (B, C, h, w) that a prediction at timesteps (B,) implies (variance preserving)."""
        signal, sigma = self.scales(timesteps)
        if self.prediction_type == "sample":
            return prediction
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / signal
        return signal * noisy - sigma * prediction

    def sampling_timesteps(self, num_inference_steps: int, last: int = 0, spacing: str | None = None) -> Tensor:
        """Return the N timesteps of a sampler, float32, descending.

        Args:
            num_inference_steps: N.
            last: 0 follows the spacing; above 0 the timesteps are equally spaced from the spacing's first one to
                ``last`` (a single step uses the first one).
            spacing: ``leading``, ``trailing`` or ``linspace``; None uses the base's config.

        Raises:
            ValueError: the number of steps is not in 1..T, the spacing is unknown, or ``last`` is not below the first.
        """
        total, spacing = self.num_train_timesteps, spacing or self.timestep_spacing
        if not 1 <= num_inference_steps <= total:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be in 1..{total}")
        if spacing == "leading":
            steps = np.arange(num_inference_steps) * (total // num_inference_steps)
            timesteps = steps[::-1].astype(np.float32) + self.steps_offset
        elif spacing == "trailing":
            # Truncated: for some N (61, 103, ...) rounding of the stride gives one step too many, at timestep -1.
            places = np.arange(total, 0, -total / num_inference_steps)[:num_inference_steps]
            timesteps = places.round().astype(np.float32) - 1
        elif spacing == "linspace":
            timesteps = np.linspace(0, total - 1, num_inference_steps, dtype=np.float32)[::-1].copy()
        else:
            raise ValueError(f"timestep_spacing {spacing!r} is not one of {', '.join(SPACINGS)}")
        if last:
            if not last < timesteps[0]:
                raise ValueError(f"last_timestep is {last}; it must be below the sampler's first, {timesteps[0]:g}")
            timesteps = np.linspace(timesteps[0], last, num_inference_steps).round().astype(np.float32)
        return torch.from_numpy(timesteps)

    def sampling_sigmas(self, timesteps: Tensor) -> Tensor:
        """Return N + 1 noise levels s_t / a_t for the sampler's timesteps (N,), ending in 0 (variance exploding)."""
        levels = ((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().numpy()
        sigmas = np.interp(timesteps.numpy(), np.arange(len(levels)), levels)
        return torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))


NO_SIGNAL = 2.0**-24
"""Squared signal scale of a last timestep without signal: diffusers' value, which gives a sigma of 4096, not infinity."""


def _without_signal_at_the_end(alphas_cumprod: Tensor) -> Tensor:
    """Return squared signal scales (T,) whose roots are shifted and stretched to end at 0 (Lin et al. 2023, Algorithm 1)."""
    signal = alphas_cumprod.sqrt()
    squared = ((signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))) ** 2
    squared[-1] = NO_SIGNAL
    return squared
