"""Curves of training: each loss, learning rates, usage of the experts, the fusion gate over the timesteps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from tests.small import NETWORK
from tests.stages.steps import Losses, make_batch, make_loader, make_stage, make_trainer

EXPERTS = replace(NETWORK, fusion=replace(NETWORK.fusion, token_experts=3))


class Recorder(DummyLogger):
    """Records logged values."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step or 0, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Ignore them."""


@pytest.mark.parametrize(
    "kind, levels, experts",
    [("alignment", ("fusion0", "fusion1"), 3), ("decoder", ("daem0", "daem1"), 2)],
)
def test_training_curves(kind: str, levels: tuple[str, ...], experts: int, base_folder: Path, tmp_path: Path) -> None:
    recorder, losses = Recorder(), Losses()
    module = make_stage(kind, base_folder, EXPERTS, auxiliary_weight=0.5)
    make_trainer(tmp_path, [losses], max_steps=3, logger=recorder, log_every_n_steps=2).fit(
        module, make_loader([make_batch(range(8))] * 3)
    )
    lines = [(step, values) for step, values in recorder.lines if "epoch" not in values]
    assert [step for step, _ in lines] == [0, 2]
    values = lines[0][1]
    assert all(isinstance(value, float) for value in values.values())
    balance = []
    for level in levels:
        usage = [values[f"expert_usage/{level}.{expert}"] for expert in range(experts)]
        assert sum(usage) == pytest.approx(1) and all(0 <= share <= 1 for share in usage)
        balance.append(0.5 * values[f"loss/importance_{level}"] + 0.5 * values[f"loss/load_{level}"])
    assert values["learning_rate/group0"] == pytest.approx(1e-3)
    if kind == "alignment":
        loss = values["loss/diffusion"]
        quarters = [name for name in values if name.startswith("loss_at_timestep/")]
        assert quarters and all(values[name.replace("loss_at_timestep", "fusion_gate")] > 0 for name in quarters)
    else:
        loss = values["loss/reconstruction"] + 0.2 * (1 - values["loss/ssim"])
    # The weighted parts add up to the total: Eq. 7 is the mean over the levels.
    assert losses.values[0] == pytest.approx(loss + 0.5 * sum(balance) / len(balance), rel=1e-5)


@pytest.mark.parametrize("kind", ["alignment", "decoder"])
def test_a_step_of_several_micro_batches_is_logged_once(kind: str, base_folder: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, max_steps=3, logger=recorder, log_every_n_steps=2, accumulate_grad_batches=4).fit(
        make_stage(kind, base_folder), make_loader([make_batch([key]) for key in range(12)])
    )
    assert [step for step, values in recorder.lines if "epoch" not in values] == [0, 2]
