"""bfloat16 autocast stays finite and close; gradient checkpointing changes only the work."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.small import NETWORK
from tests.stages.steps import gradients, make_batch, make_stage, wake, without_trainer

CASES = {
    "alignment": ("alignment", replace(NETWORK, fusion=replace(NETWORK.fusion, token_experts=2))),
    "joint": ("joint", NETWORK),
    "decoder": ("decoder", NETWORK),
    "decoder, to pixels": ("decoder", replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))),
}


def step(
    case: str, base_folder: Path, bf16: bool = False, checkpointing: bool = False
) -> tuple[float, dict[str, Tensor]]:
    kind, network = CASES[case]
    module = make_stage(kind, base_folder, network, gradient_checkpointing=checkpointing)
    without_trainer(module)
    wake(module)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = module.training_step(make_batch(), 0)
    loss.backward()
    return loss.item(), gradients(module)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_finite_and_close(case: str, base_folder: Path) -> None:
    # bfloat16 keeps 8 bits, 0.4% per rounding: the loss within 2%, the direction of the gradient within cos = 0.95.
    loss, exact = step(case, base_folder)
    low_loss, low = step(case, base_folder, bf16=True)
    assert low_loss == pytest.approx(loss, rel=0.02)
    assert set(low) == set(exact) and all(gradient.isfinite().all() for gradient in low.values())
    assert all(gradient.dtype == torch.float32 for gradient in low.values())
    flat = [torch.cat([values[name].flatten() for name in sorted(exact)]) for values in (exact, low)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.95


@pytest.mark.parametrize("case", CASES)
def test_gradient_checkpointing_changes_nothing(case: str, base_folder: Path) -> None:
    loss, whole = step(case, base_folder)
    same_loss, recomputed = step(case, base_folder, checkpointing=True)
    assert same_loss == loss
    assert set(recomputed) == set(whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5)


def test_gradient_checkpointing_recomputes(base_folder: Path) -> None:
    calls: dict[str, int] = {}

    def count(name: str, module: nn.Module) -> None:
        calls[name] = 0
        module.register_forward_pre_hook(lambda *_: calls.update({name: calls[name] + 1}))

    joint = make_stage("joint", base_folder, gradient_checkpointing=True)
    decoder = make_stage("decoder", base_folder, gradient_checkpointing=True)
    count("fusion, double", joint.model.unet.fusion.double_blocks[0])
    count("fusion, single", joint.model.unet.fusion.single_blocks[0])
    count("U-Net", joint.model.unet.rest.down_blocks[0].resnets[0])
    count("LQ encoder", joint.model.lq_encoder.mid_block)
    count("decoder", decoder.model.decoder.up_blocks[0])
    for module in (joint, decoder):
        without_trainer(module)
        module.training_step(make_batch([1]), 0).backward()
    assert calls == dict.fromkeys(calls, 2)  # forward, and once more in the backward pass
