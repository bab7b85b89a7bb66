from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from unildiff.core.sizes import SDXL, TINY
from unildiff.diffusion.sampler import SamplingSettings, start_latents
from unildiff.diffusion.schedule import NoiseSchedule

# scheduler/scheduler_config.json of SDXL base 1.0, as published.
PUBLISHED: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 3, 3, generator=generator)
    return latents, noise


TIMESTEPS = torch.tensor([0, 1, 500, 951, 999])


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_noisy_latents_and_targets_as_diffusers(
    beta_schedule: str, zero_snr: bool, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    latents, noise = pair
    for prediction_type in ("epsilon", "v_prediction", "sample")[zero_snr:]:
        config = SDXL["scheduler"] | {"beta_schedule": beta_schedule, "prediction_type": prediction_type}
        config |= {"rescale_betas_zero_snr": zero_snr}
        schedule, reference = NoiseSchedule(config), DDPMScheduler.from_config(config)
        # At the last of zero_snr's timesteps the signal is 0 in DDPM and 2^-12 here, as in diffusers' Euler scheduler.
        close = {"atol": 2e-3 if zero_snr else 1e-5, "rtol": 1.3e-6}
        torch.testing.assert_close(
            schedule.add_noise(latents, noise, TIMESTEPS), reference.add_noise(latents, noise, TIMESTEPS), **close
        )
        expected = {
            "epsilon": noise,
            "v_prediction": reference.get_velocity(latents, noise, TIMESTEPS),
            "sample": latents,
        }
        torch.testing.assert_close(schedule.target(latents, noise, TIMESTEPS), expected[prediction_type], **close)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_denoised_undoes_the_target(prediction_type: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    latents, noise = pair
    schedule = NoiseSchedule(SDXL["scheduler"] | {"prediction_type": prediction_type})
    noisy = schedule.add_noise(latents, noise, TIMESTEPS)
    target = schedule.target(latents, noise, TIMESTEPS)
    # At t = 999 the signal is 0.068 of the sum: epsilon loses a digit there.
    torch.testing.assert_close(schedule.denoised(target, noisy, TIMESTEPS), latents, atol=2e-5, rtol=0)


def test_scales_by_hand() -> None:
    # Linear betas 0.1 and 0.2: alphas_cumprod 0.9 and 0.9 * 0.8 = 0.72.
    config = SDXL["scheduler"] | {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2}
    schedule = NoiseSchedule(config | {"num_train_timesteps": 2})
    signal, sigma = schedule.scales(torch.tensor([0, 1]))
    torch.testing.assert_close(signal.flatten() ** 2, torch.tensor([0.9, 0.72]))
    torch.testing.assert_close(sigma.flatten() ** 2, torch.tensor([0.1, 0.28]))


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 20, 50, 333, 1000])
def test_sampling_timesteps_and_sigmas_as_diffusers(spacing: str, steps: int, zero_snr: bool) -> None:
    config = PUBLISHED | {"timestep_spacing": spacing, "prediction_type": "v_prediction"}
    config |= {"rescale_betas_zero_snr": zero_snr}
    reference = EulerDiscreteScheduler.from_config(config)
    reference.set_timesteps(steps)
    schedule = NoiseSchedule(config)
    timesteps = schedule.sampling_timesteps(steps)
    np.testing.assert_array_equal(timesteps.numpy(), reference.timesteps.numpy())
    # diffusers converts to betas and back, which loses digits at timesteps with hardly any signal.
    rtol = 2e-5 if zero_snr else 1e-6
    np.testing.assert_allclose(schedule.sampling_sigmas(timesteps).numpy(), reference.sigmas.numpy(), rtol=rtol)


def test_first_step_of_sdxl_and_of_the_tiny_base() -> None:
    # docs/sources.md, "Diffusion": leading spacing starts 20 steps at t = 951 (sigma 11.0), not at 999 (14.6).
    sdxl, tiny = NoiseSchedule(PUBLISHED), NoiseSchedule(TINY["scheduler"])
    for schedule, timestep, sigma in ((sdxl, 951, 11.0), (tiny, 999, 4096)):
        timesteps = schedule.sampling_timesteps(20)
        assert timesteps[0] == timestep
        assert schedule.sampling_sigmas(timesteps)[0] == pytest.approx(sigma, abs=0.05)
        assert schedule.sampling_sigmas(timesteps)[-1] == 0


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps_gives_as_many_descending_timesteps(spacing: str) -> None:
    # 61 trailing steps are 62 in diffusers, the last at timestep -1: 1000 / 61 * 61 comes out above 1000.
    schedule = NoiseSchedule(PUBLISHED | {"timestep_spacing": spacing})
    for steps in range(1, 1001):
        timesteps = schedule.sampling_timesteps(steps)
        assert len(timesteps) == steps
        assert timesteps.min() >= 0
        assert steps == 1 or timesteps.diff().max() < 0


@pytest.mark.parametrize(
    "key, value",
    [
        ("prediction_type", "flow"),
        ("beta_schedule", "squaredcos_cap_v2"),
        ("use_karras_sigmas", True),
        ("rescale_betas_zero_snr", True),  # with SDXL's epsilon
        ("trained_betas", [0.1, 0.2]),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("use_flow_sigmas", True),
        ("use_lu_lambdas", True),
        ("interpolation_type", "log_linear"),
        ("final_sigmas_type", "sigma_min"),
        ("timestep_type", "continuous"),
        ("sigma_max", 80.0),
    ],
)
def test_unknown_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        NoiseSchedule(PUBLISHED | {key: value})


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_trailing_by_a_setting_on_a_base_whose_config_says_leading(steps: int) -> None:
    """As SDXL-Lightning and SDXL-Turbo are sampled: diffusers with SDXL's config and ``timestep_spacing="trailing"``."""
    reference = EulerDiscreteScheduler.from_config(PUBLISHED, timestep_spacing="trailing")
    reference.set_timesteps(steps)
    schedule, settings = NoiseSchedule(PUBLISHED), SamplingSettings(steps, timestep_spacing="trailing")
    timesteps = settings.timesteps(schedule)
    assert timesteps[0] == 999 != SamplingSettings(steps).timesteps(schedule)[0]
    np.testing.assert_array_equal(timesteps.numpy(), reference.timesteps.numpy())
    np.testing.assert_allclose(schedule.sampling_sigmas(timesteps).numpy(), reference.sigmas.numpy(), rtol=1e-6)
    latents = torch.zeros(1, 4, 2, 2)
    start = start_latents(latents, torch.ones_like(latents), schedule, settings)
    assert float(start.max()) == pytest.approx(float(reference.sigmas[0]), rel=1e-6)


@pytest.mark.parametrize("config", [EulerDiscreteScheduler().config, dict(PUBLISHED)])
def test_configs_that_diffusers_writes_by_default_are_accepted(config: dict[str, object]) -> None:
    NoiseSchedule(config)


def test_timesteps_that_end_early() -> None:
    schedule = NoiseSchedule(PUBLISHED | {"timestep_spacing": "trailing"})
    assert schedule.sampling_timesteps(4, 900).tolist() == [999, 966, 933, 900]
    assert schedule.sampling_timesteps(1, 900).tolist() == [999]
    with pytest.raises(ValueError, match="last_timestep is 999; it must be below the sampler's first, 999"):
        schedule.sampling_timesteps(4, 999)


def test_steps_and_spacing_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        NoiseSchedule(PUBLISHED).sampling_timesteps(1001)
    with pytest.raises(ValueError, match="timestep_spacing 'log'"):
        NoiseSchedule(PUBLISHED | {"timestep_spacing": "log"}).sampling_timesteps(20)
