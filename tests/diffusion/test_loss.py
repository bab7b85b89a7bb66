import pytest
import torch

from unildiff.core.sizes import SDXL
from unildiff.diffusion.loss import diffusion_loss
from unildiff.diffusion.schedule import NoiseSchedule

LATENTS = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).view(2, 1, 1, 2)
NOISE = torch.tensor([[0.5, 1.0], [-1.0, 2.0]]).view(2, 1, 1, 2)
TIMESTEPS = torch.tensor([0, 1])
# Linear betas 0.36 and 0: alphas_cumprod 0.64 twice, so a = 0.8 and s = 0.6 at both timesteps.
CONFIG = SDXL["scheduler"] | {"beta_schedule": "linear", "beta_start": 0.36, "beta_end": 0.0, "num_train_timesteps": 2}


@pytest.mark.parametrize(
    "prediction_type, expected",
    [
        # The network says 0, so the loss is the mean of |target|.
        # noise: (0.5 + 1) / 2 and (1 + 2) / 2
        ("epsilon", [0.75, 1.5]),
        # 0.8 noise - 0.6 latents: |0.4 - 0.6| and |0.8 + 1.2|; |-0.8 - 0.3| and |1.6 - 0|
        ("v_prediction", [1.1, 1.35]),
        # latents: (1 + 2) / 2 and 0.5 / 2
        ("sample", [1.5, 0.25]),
    ],
)
def test_by_hand(prediction_type: str, expected: list[float]) -> None:
    schedule = NoiseSchedule(CONFIG | {"prediction_type": prediction_type})
    seen = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((noisy, timesteps))
        return torch.zeros_like(noisy)

    loss = diffusion_loss(predict, LATENTS, NOISE, TIMESTEPS, schedule)
    torch.testing.assert_close(loss, torch.tensor(expected))
    # 0.8 latents + 0.6 noise: 0.8 + 0.3, -1.6 + 0.6; 0.4 - 0.6, 0 + 1.2
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][0].flatten(), torch.tensor([1.1, -1.0, -0.2, 1.2]))
    assert torch.equal(seen[0][1], TIMESTEPS)


def test_a_half_precision_network_has_a_float32_loss() -> None:
    schedule = NoiseSchedule(CONFIG)
    loss = diffusion_loss(lambda noisy, _: noisy.bfloat16(), LATENTS, NOISE, TIMESTEPS, schedule)
    assert loss.dtype == torch.float32
