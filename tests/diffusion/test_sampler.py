import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from unildiff.core.sizes import SDXL
from unildiff.diffusion.sampler import SamplingSettings, sample, start_latents
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.utils.errors import UserError

LINEAR = SamplingSettings(num_inference_steps=20, guidance_scale=1.0)


def toy_network(scaled: Tensor, timesteps: Tensor) -> Tensor:
    """Stand in for a U-Net: smooth, not linear, different at each timestep."""
    return torch.tanh(scaled * (1 + timesteps.view(-1, 1, 1, 1) / 1000)) + 0.1 * scaled.flip(-1)


def start(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "prediction_type, zero_snr",
    [("epsilon", False), ("v_prediction", False), ("sample", False), ("v_prediction", True)],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_step_by_step_as_diffusers(prediction_type: str, zero_snr: bool, spacing: str) -> None:
    config = SDXL["scheduler"] | {"prediction_type": prediction_type, "timestep_spacing": spacing}
    config |= {"rescale_betas_zero_snr": zero_snr}
    schedule, reference = NoiseSchedule(config), EulerDiscreteScheduler.from_config(config)
    reference.set_timesteps(20)
    lq, noise = start(0), start(1)
    latents = reference.add_noise(lq, noise, reference.timesteps[:1])
    mine = start_latents(lq, noise, schedule, LINEAR)
    torch.testing.assert_close(mine, latents, rtol=2e-5, atol=1e-5)
    trace: list[Tensor] = []
    result = sample(toy_network, None, mine, schedule, LINEAR, lambda _, x: trace.append(x))
    for index, timestep in enumerate(reference.timesteps):
        prediction = toy_network(reference.scale_model_input(latents, timestep), timestep.expand(2))
        latents = reference.step(prediction, timestep, latents, return_dict=False)[0]
        # From a sigma of 4096 the first step removes all but a 300th, and three digits of precision.
        torch.testing.assert_close(trace[index], latents, atol=5e-3 if zero_snr else 2e-5, rtol=2e-5)
    assert len(trace) == 20
    assert torch.equal(result, trace[-1])


def gaussian_field(schedule: NoiseSchedule, spread: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the exact epsilon for data N(0, spread^2): E[x0 | x] = x spread^2 / (spread^2 + sigma^2)."""

    def predict(scaled: Tensor, timesteps: Tensor) -> Tensor:
        sigma = float(schedule.sampling_sigmas(timesteps[:1])[0])
        x = scaled * (sigma**2 + 1) ** 0.5
        return x * sigma / (spread**2 + sigma**2)

    return predict


def test_toy_field_against_a_hand_written_loop_and_its_known_solution() -> None:
    # The probability flow of N(0, s^2) is dx/dsigma = x sigma / (s^2 + sigma^2), solved by
    # x(sigma) = x(sigma_0) sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2)): at sigma 0, x_0 s / sqrt(s^2 + sigma_0^2).
    spread, schedule, errors = 1.5, NoiseSchedule(SDXL["scheduler"]), []
    for steps in (50, 100, 200):
        settings = SamplingSettings(num_inference_steps=steps, guidance_scale=1.0)
        sigmas = schedule.sampling_sigmas(schedule.sampling_timesteps(steps)).double().numpy()
        latents = sigmas[0] * start()
        result = sample(gaussian_field(schedule, spread), None, latents, schedule, settings)
        x = latents.double().numpy()
        for sigma, sigma_next in itertools.pairwise(sigmas):
            x = x + (sigma_next - sigma) * x * sigma / (spread**2 + sigma**2)
        np.testing.assert_allclose(result.numpy(), x, rtol=2e-5, atol=1e-6)
        exact = latents.numpy() * spread / np.sqrt(spread**2 + sigmas[0] ** 2)
        errors.append(np.abs(result.numpy() - exact).max() / np.abs(exact).max())
    assert errors[2] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)  # first order: half the step, half the error
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


def test_one_point_as_data_is_reached_exactly() -> None:
    # Data are one point mu: epsilon = (x - mu) / sigma, straight lines; Euler makes no error on them.
    schedule, mu = NoiseSchedule(SDXL["scheduler"]), 0.7

    def predict(scaled: Tensor, timesteps: Tensor) -> Tensor:
        sigma = float(schedule.sampling_sigmas(timesteps[:1])[0])
        return (scaled * (sigma**2 + 1) ** 0.5 - mu) / sigma

    result = sample(predict, None, 11 * start(), schedule, LINEAR)
    torch.testing.assert_close(result, torch.full_like(result, mu), atol=2e-5, rtol=0)


class Counted:
    """Constant predictions that count their calls: ``value`` under the caption, ``without`` under the empty one."""

    def __init__(self, value: float, without: float) -> None:
        self.value, self.without = value, without
        self.single, self.double = 0, 0

    def conditional(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        self.single += 1
        return torch.full_like(latents, self.value)

    def guided(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        self.double += 1
        both = torch.full_like(latents.repeat(2, 1, 1, 1), self.without)
        both[len(latents) :] = self.value
        return both


def run(counted: Counted, guided: bool = True, **settings: Any) -> Tensor:
    chosen = SamplingSettings(**{"num_inference_steps": 20} | settings)
    return sample(
        counted.conditional, counted.guided if guided else None, start(), NoiseSchedule(SDXL["scheduler"]), chosen
    )


def test_guidance_by_hand() -> None:
    # eps = 0.2 + 5 * (0.3 - 0.2) = 0.7 at every step, so the end is start - 0.7 * sigma_0, sigma_0 = 11.0.
    counted = Counted(0.3, 0.2)
    schedule = NoiseSchedule(SDXL["scheduler"])
    sigma = float(schedule.sampling_sigmas(schedule.sampling_timesteps(20))[0])
    result = run(counted, guidance_scale=5.0)
    torch.testing.assert_close(result, start() - 0.7 * sigma, atol=1e-4, rtol=0)
    assert (counted.single, counted.double) == (0, 20)


@pytest.mark.parametrize(
    "guided, settings, single, double",
    [
        (False, {"guidance_scale": 5.0}, 20, 0),  # both passes would be the same
        (True, {"guidance_scale": 1.0}, 20, 0),  # a scale of 1 is the caption's own prediction
        (True, {"guidance_scale": 0.0}, 0, 20),
        # Steps 0..19 as shares 0, 0.05, ...: guided are 0.25 <= share < 0.75, steps 5 to 14.
        (True, {"guidance_scale": 5.0, "guidance_interval": (0.25, 0.75)}, 10, 10),
        (True, {"guidance_scale": 5.0, "guidance_interval": (0.0, 0.5)}, 10, 10),
    ],
)
def test_equal_passes_are_computed_once(guided: bool, settings: dict[str, Any], single: int, double: int) -> None:
    counted = Counted(0.3, 0.2)
    run(counted, guided, **settings)
    assert (counted.single, counted.double) == (single, double)


def test_guidance_interval_by_hand() -> None:
    # Only the first of two steps is guided: start + 0.7 (s1 - s0) + 0.3 (0 - s1).
    schedule = NoiseSchedule(SDXL["scheduler"])
    first, second, _ = schedule.sampling_sigmas(schedule.sampling_timesteps(2)).tolist()
    result = run(Counted(0.3, 0.2), num_inference_steps=2, guidance_interval=(0.0, 0.5))
    torch.testing.assert_close(result, start() + 0.7 * (second - first) - 0.3 * second, atol=1e-5, rtol=0)


def test_ending_early_by_hand() -> None:
    # From the first timestep to 400, then from there straight to the image: start + 0.3 (s400 - s1) + 0.3 (0 - s400).
    schedule = NoiseSchedule(SDXL["scheduler"])
    seen: list[float] = []

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(float(timesteps[0]))
        return torch.full_like(latents, 0.3)

    settings = SamplingSettings(num_inference_steps=2, guidance_scale=1.0, last_timestep=400)
    result = sample(predict, None, start(), schedule, settings)
    first = float(schedule.sampling_timesteps(2)[0])
    assert seen == [first, 400.0]
    sigma = float(schedule.sampling_sigmas(torch.tensor([first]))[0])
    torch.testing.assert_close(result, start() - 0.3 * sigma, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["lq", "noise"])
def test_start_as_diffusers_adds_noise(kind: Any) -> None:
    schedule, reference = NoiseSchedule(SDXL["scheduler"]), EulerDiscreteScheduler.from_config(SDXL["scheduler"])
    reference.set_timesteps(20)
    lq, noise = start(0), start(1)
    clean = lq if kind == "lq" else torch.zeros_like(lq)
    expected = reference.add_noise(clean, noise, reference.timesteps[:1])
    torch.testing.assert_close(start_latents(lq, noise, schedule, SamplingSettings(start=kind)), expected)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_interval": (0.5, 0.5)}, "guidance_interval"),
        ({"guidance_interval": (0.0, 1.1)}, "guidance_interval"),
        ({"last_timestep": -1}, "last_timestep is -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": 1e30}, r"guidance_scale is 1e\+30"),
        ({"start": "x"}, "start is 'x'; it must be one of lq, noise"),
        ({"tile_size": 64}, "tile_size is 64; it must be a whole number between 128"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SamplingSettings(**settings)


def test_the_papers_settings_are_the_defaults() -> None:
    settings = SamplingSettings()
    assert (settings.num_inference_steps, settings.guidance_scale, settings.start) == (20, 5.0, "lq")
