"""What each stage trains and what it freezes, by its gradients and by the weights after three steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import NETWORK, SMALL
from tests.stages.steps import (
    Losses,
    gradients,
    make_batch,
    make_loader,
    make_stage,
    make_trainer,
    wake,
    without_trainer,
)
from unildiff.core.tiny import make_tiny_base
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages import pretrain
from unildiff.stages.base import StageModule
from unildiff.stages.optimiser import OptimizerConfig

EXPERTS = replace(NETWORK, fusion=replace(NETWORK.fusion, token_experts=2))
AUTHORS = replace(NETWORK, fusion=replace(NETWORK.fusion, double_outputs="authors", rope=False))
PLAIN = replace(NETWORK, fusion=replace(NETWORK.fusion, kind="plain"), detail=replace(NETWORK.detail, kind="none"))
PIXELS = replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))
WINDOWS = replace(NETWORK, detail=replace(NETWORK.detail, routing="window", window_size=8, top_k=2))

# arXiv 2507.23685, the three stages: prefixes of the trained parts. In `model`: vae, text, lq_encoder, unet (with fusion), decoder.
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "alignment": ("alignment", {}, ("unet.fusion.",)),
    "alignment with token experts": ("alignment", {"network": EXPERTS}, ("unet.fusion.",)),
    "alignment, authors' outputs": ("alignment", {"network": AUTHORS}, ("unet.fusion.",)),
    "alignment without DAFF": ("alignment", {"network": PLAIN}, ("unet.fusion.",)),
    "joint": ("joint", {}, ("unet.fusion.", "unet.rest.", "unet.conv_in.", "lq_encoder.")),
    "decoder": ("decoder", {}, ("decoder.",)),
    "decoder with a way to the pixels": ("decoder", {"network": PIXELS}, ("decoder.",)),
    "decoder with windows": ("decoder", {"network": WINDOWS}, ("decoder.",)),
    "decoder without DAEM": ("decoder", {"network": PLAIN}, ("decoder.",)),
}


@pytest.fixture(autouse=True)
def small_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "make_tiny_base", lambda words, seed: make_tiny_base(words, seed, SMALL))


def build(case: str, base_folder: Path) -> tuple[StageModule, tuple[str, ...]]:
    if case in CASES:
        kind, settings, trained = CASES[case]
        return make_stage(kind, base_folder, **settings), trained
    optimizer = OptimizerConfig(1e-3, None, 0.0, 0, "constant")
    if case == "pretrain VAE":
        return pretrain.PretrainVAEModule("unused", optimizer), ("vae.",)
    return pretrain.PretrainUNetModule(str(base_folder), "unused", optimizer), ("unet.conv_in.", "unet.rest.", "text.")


ALL = [*CASES, "pretrain VAE", "pretrain U-Net"]


def unused(name: str) -> bool:
    """Return whether a weight of the base has no effect: it follows the text encoder's penultimate layer."""
    return name.startswith("model.text.") and ("layers.1." in name or "final_layer_norm" in name)


@pytest.mark.parametrize("case", ALL)
def test_gradients(case: str, base_folder: Path) -> None:
    module, trained = build(case, base_folder)
    without_trainer(module)
    wake(module)
    for first in (1, 5, 9):  # twelve images: each expert gets work
        module.training_step(make_batch(range(first, first + 4), size=64), 0).backward()
    expected = {
        name
        for name, _ in module.named_parameters()
        if name.removeprefix("model.").startswith(trained) and not unused(name)
    }
    found = gradients(module)
    assert set(found) == expected == {name for name, _ in module.trained_parameters()}
    assert [name for name, gradient in found.items() if not gradient.any()] == []
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize(
    "case", ["alignment", "alignment with token experts", "joint", "decoder", "decoder with windows"]
)
def test_weights_that_change_within_three_steps(case: str, base_folder: Path, tmp_path: Path) -> None:
    module, _ = build(case, base_folder)
    before = {name: value.clone() for name, value in module.named_parameters()}
    batches = [make_batch(range(first, first + 6), size=64) for first in (1, 7, 13)]
    make_trainer(tmp_path, max_steps=3).fit(module, make_loader(batches))
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in module.trained_parameters()}


@pytest.mark.parametrize("kind, rate, factor", [("alignment", 1e-2, 0.9), ("joint", 3e-3, 0.6), ("decoder", 1e-2, 0.5)])
def test_twenty_steps_on_one_batch_lower_the_loss(
    kind: str, rate: float, factor: float, base_folder: Path, tmp_path: Path
) -> None:
    module = make_stage(kind, base_folder, optimizer=OptimizerConfig(rate, None, 0.0, 0, "constant"))
    losses = Losses()
    make_trainer(tmp_path, [losses], max_steps=20).fit(module, make_loader([make_batch()] * 20))
    assert losses.values[-1] < factor * losses.values[0]


def test_images_that_the_start_judged_clean_are_restored(base_folder: Path, tmp_path: Path) -> None:
    """Data that a model is fine-tuned on may have degradations that its judgement of clean images does not know."""
    tone = replace(NETWORK, detail=replace(NETWORK.detail, tone=True))
    module = make_stage("decoder", base_folder, tone, optimizer=OptimizerConfig(1e-2, None, 0.5, 0, "constant"))
    correction: Any = module.model.decoder.tone
    correction.clean.output.bias.data.fill_(9)
    correction.output.weight.data.normal_(std=0.01)
    batch = make_batch(size=64)
    lq = batch["lq"] / 127.5 - 1
    before = {name: value.clone() for name, value in correction.state_dict().items() if "clean" not in name}
    assert torch.equal(module.model.restore(lq, batch["caption"], [1, 2, 3, 4], SamplingSettings(1)), lq)
    make_trainer(tmp_path, max_steps=2).fit(module, make_loader([batch] * 2))
    restored = module.model.eval().restore(lq, batch["caption"], [1, 2, 3, 4], SamplingSettings(1))
    assert all((each - given).abs().max() > 0.01 for each, given in zip(restored, lq, strict=True))
    after = correction.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # weight decay leaves it alone, too


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_proportion_of_the_last_timestep(share: float, base_folder: Path) -> None:
    module = make_stage("joint", base_folder, terminal_share=share)
    without_trainer(module)
    seen: list[torch.Tensor] = []
    module.model.unet.register_forward_pre_hook(lambda unet, inputs: seen.append(inputs[1]))
    for first in range(0, 96, 32):
        module.training_step(make_batch(range(first, first + 32), size=16), 0)
    timesteps = torch.cat(seen)
    assert len(timesteps) == 96
    if share == 0.5:  # half of 96, within three standard deviations of 4.9
        assert 33 < (timesteps == 999).sum() < 63
    else:
        assert (timesteps == 999).float().mean() == pytest.approx(share, abs=0.05)
    assert share == 1 or len(timesteps.unique()) > 20  # the others are drawn uniformly
