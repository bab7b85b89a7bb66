import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.stages.steps import gradients, make_batch, make_loader, make_stage, make_trainer
from unildiff.callbacks import NonFiniteGuard
from unildiff.core.daff import FusionConfig
from unildiff.diffusion.noise import KeyedNoise
from unildiff.stages.base import StageModule, dropped_captions, plain
from unildiff.stages.optimiser import OptimizerConfig, learning_rate_factor
from unildiff.utils.errors import UserError


class Rates(Callback):
    """Records the learning rates of every optimiser step."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.steps.append([group["lr"] for group in optimizer.param_groups])


def test_warm_up_then_cosine_by_hand() -> None:
    # Two warm-up steps at 1/3 and 2/3; then six cosine steps over the six that are left: cos of 0, 30, ..., 150 degrees.
    factor = learning_rate_factor(2, 8, "cosine")
    expected = [1 / 3, 2 / 3] + [0.5 * (1 + math.cos(math.radians(angle))) for angle in (0, 30, 60, 90, 120, 150)]
    assert [factor(step) for step in range(8)] == pytest.approx(expected)
    assert factor(8) == pytest.approx(0) and factor(9) == pytest.approx(0)


def test_constant_and_short_runs() -> None:
    assert [learning_rate_factor(1, 4, "constant")(step) for step in range(4)] == [0.5, 1, 1, 1]
    # 300 warm-up steps in a run of 4 would never reach the peak: the warm-up is at most half of the run.
    assert [learning_rate_factor(300, 4, "constant")(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_schedule_goes_by_optimiser_steps_and_joint_has_two_rates(base_folder: Path, tmp_path: Path) -> None:
    # Paper: 5e-6 for the LQ encoder, 1e-5 for the rest. 8 batches, 2 accumulated: 4 optimiser steps.
    module = make_stage("joint", base_folder, optimizer=OptimizerConfig(1e-5, 5e-6, 0.0, 1, "cosine"))
    rates = Rates()
    make_trainer(tmp_path, [rates], max_steps=4, accumulate_grad_batches=2).fit(
        module, make_loader([make_batch([1])] * 8)
    )
    # Warm-up 1/2, then the cosine of 0, 60, 120 degrees: 1, 3/4, 1/4.
    by_group = [[group[index] for group in rates.steps] for index in range(2)]
    assert sorted(by_group) == [
        pytest.approx([5e-6 * factor for factor in (0.5, 1, 0.75, 0.25)]),
        pytest.approx([1e-5 * factor for factor in (0.5, 1, 0.75, 0.25)]),
    ]
    groups = {group["initial_lr"]: {id(p) for p in group["params"]} for group in module.optimizers().param_groups}
    encoder = {id(p) for p in module.model.lq_encoder.parameters()}
    assert groups[5e-6] == encoder
    assert groups[1e-5] == {id(p) for p in module.model.unet.parameters()}
    assert all(group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8 for group in module.optimizers().param_groups)


def test_one_rate_is_one_group(base_folder: Path, tmp_path: Path) -> None:
    module = make_stage("alignment", base_folder, optimizer=OptimizerConfig(1e-3, 5e-4, 0.01, 0, "constant"))
    make_trainer(tmp_path, max_steps=1).fit(module, make_loader([make_batch([1])]))
    (group,) = module.optimizers().param_groups
    assert group["lr"] == 1e-3 and group["weight_decay"] == 0.01


def test_a_run_without_an_end_is_refused_in_one_line(base_folder: Path, tmp_path: Path) -> None:
    module = make_stage("alignment", base_folder)
    with pytest.raises(UserError, match=r"--trainer\.max_steps"):
        make_trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(module, make_loader([make_batch([1])]))


def test_text_is_dropped_for_the_stated_share_of_samples(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = list(range(4000))
    captions = [f"caption {index}" for index in range(4000)]
    kept = dropped_captions(captions, keys, 0.2)
    # Standard error of the share: sqrt(0.2 * 0.8 / 4000) = 0.0063; four of them.
    assert abs(kept.count("") / 4000 - 0.2) < 0.026
    assert all(caption in ("", captions[index]) for index, caption in enumerate(kept))
    assert dropped_captions(captions, keys, 0.0) == captions
    assert dropped_captions(captions, keys, 1.0) == [""] * 4000
    # The stage embeds the remaining captions, and each sample is decided by its own key.
    module, seen = make_stage("alignment", base_folder, text_dropout=0.5), []

    def embed(captions: Sequence[str]) -> Any:
        seen.append(list(captions))
        raise InterruptedError

    monkeypatch.setattr(module, "embed", embed)
    batch = make_batch(range(20))
    with pytest.raises(InterruptedError):
        module.training_step(batch, 0)
    assert seen == [dropped_captions(batch["caption"], batch["key"].tolist(), 0.5)]
    assert 0 < seen[0].count("") < 20


def test_noise_offset_is_constant_over_a_channel(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unildiff.stages import denoising

    noises = []

    def loss(predict: Any, latents: Any, noise: torch.Tensor, timesteps: Any, schedule: Any) -> torch.Tensor:
        noises.append(noise)
        raise InterruptedError

    monkeypatch.setattr(denoising, "diffusion_loss", loss)
    for offset in (0.0, 0.5):
        with pytest.raises(InterruptedError):
            make_stage("alignment", base_folder, noise_offset=offset).training_step(make_batch(), 0)
    difference = noises[1] - noises[0]
    torch.testing.assert_close(difference, difference[..., :1, :1].expand_as(difference), atol=1e-6, rtol=0)
    expected = 0.5 * KeyedNoise([1, 2, 3, 4]).normal("offset", 4, 1, 1)
    torch.testing.assert_close(difference[..., :1, :1], expected, atol=1e-6, rtol=0)


def test_hyper_parameters_become_plain_values() -> None:
    values = plain({"fusion": FusionConfig(hidden_size=64), "path": Path("a/b"), "kernels": (3, 5)})
    assert values["fusion"]["hidden_size"] == 64 and values["path"] == "a/b" and values["kernels"] == [3, 5]
    assert issubclass(StageModule, torch.nn.Module)


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True)])
def test_the_optimiser_is_one_kernel_unless_it_undoes_loss_scaling(
    precision: Any, fused: bool | None, base_folder: Path, tmp_path: Path
) -> None:
    module = make_stage("alignment", base_folder)
    trainer = make_trainer(tmp_path, max_steps=1, precision=precision, gradient_clip_val=1.0)
    trainer.fit(module, make_loader([make_batch([1])]))
    assert trainer.global_step == 1 and module.optimizers().param_groups[0]["fused"] is fused


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clipping_by_the_guards_norm_is_torchs(limit: float, base_folder: Path, tmp_path: Path) -> None:
    clipped, by_torch = Gradients(), Gradients()
    for callbacks in ([NonFiniteGuard(), clipped], [by_torch]):
        module = make_stage("alignment", base_folder)
        fit = make_trainer(tmp_path, callbacks, max_steps=3, gradient_clip_val=limit)
        fit.fit(module, make_loader([make_batch()] * 3))
    assert len(clipped.kept) == len(by_torch.kept) == 2
    for ours, theirs in zip(clipped.kept, by_torch.kept, strict=True):
        norm = torch.cat([value.flatten() for value in theirs.values()]).norm()
        assert (norm > 0.999 * limit) == (limit < 1)  # clipped in one case, unchanged in the other
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-9)


class Infinite(Callback):
    """Makes the gradients of one step infinite, or so large that their norm is infinite."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 1:
            for _, parameter in pl_module.trained_parameters():
                parameter.grad = (
                    torch.full_like(parameter, self.factor) if parameter.grad is None else parameter.grad + self.factor
                )


@pytest.mark.parametrize("factor", [math.inf, 1e30])
def test_an_infinite_norm_is_skipped_and_not_clipped(factor: float, base_folder: Path, tmp_path: Path) -> None:
    guard, module = NonFiniteGuard(), make_stage("alignment", base_folder)
    fit = make_trainer(tmp_path, [Infinite(factor), guard], max_steps=3, gradient_clip_val=1.0)
    fit.fit(module, make_loader([make_batch()] * 3))
    assert (guard.skipped, guard.in_a_row, fit.global_step) == (1, 0, 3)
    assert all(torch.isfinite(parameter).all() for _, parameter in module.trained_parameters())


class Gradients(Callback):
    """Records the gradients of each step but the last, as the optimiser receives them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if found := gradients(pl_module):
            self.kept.append(found)
