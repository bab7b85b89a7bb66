"""Adapters train, are saved, and are merged as peft merges them; later stages do not need peft."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import NETWORK
from tests.stages.ranks import on_two_ranks
from tests.stages.steps import make_batch, make_loader, make_trainer, without_trainer
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard
from unildiff.cli.main import main
from unildiff.cli.plan_inputs import parse_run
from unildiff.core.model import UniLDiff
from unildiff.planning.shapes import base_sizes
from unildiff.planning.step import measure_step
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.joint_lora import JointLoRAModule
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.load import load_restorer
from unildiff.weights.lora import LoRAConfig, frozen_to_bfloat16, with_merged_adapters

pytest.importorskip("peft")
RATE = OptimizerConfig(1e-2, None, 0.0, 0, "constant")


def stage(base_folder: Path, **lora: Any) -> JointLoRAModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return JointLoRAModule(
            base=str(base_folder),
            network=NETWORK,
            optimizer=RATE,
            gradient_checkpointing=True,
            lora=LoRAConfig(4, **lora),
        )


def two_steps(base_folder: Path, rank: int, folder: Path) -> dict[str, Any]:
    """Two steps of two accumulated batches by DDP in bf16-mixed, the frozen part halved."""
    module, ema = stage(base_folder, frozen_dtype="bfloat16"), ExponentialMovingAverage(decay=0.5)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    # 64 pixels are 2x2 tokens at the U-Net's lowest level; with a single token, queries and keys have no effect.
    batches = [make_batch([10 * index + 2 * rank, 10 * index + 2 * rank + 1], size=64) for index in range(4)]
    trainer = make_trainer(
        folder, [ema, NonFiniteGuard(), Checkpointing()], max_steps=2, accumulate_grad_batches=2, strategy="ddp",
        devices=2, precision="bf16-mixed", enable_checkpointing=True, use_distributed_sampler=False,
        gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, make_loader(batches))
    after = dict(module.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value.to(after[name].dtype), after[name])}
    kept = {name: value.dtype for name, value in after.items()}
    return {"moved": moved, "kept": kept, "weights": {name: after[name].detach() for name in moved}}


@pytest.fixture(scope="module")
def ranks(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("lora")
    return folder / "checkpoints" / "last.ckpt", on_two_ranks(folder, partial(two_steps, base_folder))


@pytest.fixture(scope="module")
def checkpoint(ranks: tuple[Path, Any]) -> Path:
    return ranks[0]


def test_two_processes_train_adapters_and_nothing_else_of_the_unet(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    path, (first, second) = ranks
    trained = {name for name in first["kept"] if ".lora_" in name or name.startswith(("model.lq_", "model.unet.fus"))}
    unet = {name for name in first["moved"] if name.startswith("model.unet.rest.")}
    assert unet and all(".lora_" in name for name in unet)
    assert first["moved"] == second["moved"] == trained
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert all(value.isfinite().all() for value in first["weights"].values())
    # Frozen weights are halved, trained ones and norms are not.
    halved = {name for name, dtype in first["kept"].items() if dtype == torch.bfloat16}
    assert "model.unet.conv_in.weight" in halved and "model.vae.encoder.conv_in.bias" in halved
    assert not halved & trained and not any("norm" in name for name in halved)
    content = torch.load(path, weights_only=True)
    assert set(content["state_dict"]) == set(content["ema_state_dict"]) == trained
    assert content["hyper_parameters"]["lora"] == {"rank": 4, "frozen_dtype": "bfloat16"}


def test_adapters_start_without_effect_and_frozen_halves_change_nothing_under_autocast(base_folder: Path) -> None:
    whole, halved = stage(base_folder), stage(base_folder)
    frozen_to_bfloat16(halved)
    losses = []
    for module in (whole, halved):
        without_trainer(module)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(module.training_step(make_batch([1, 2]), 0).item())
    assert losses[0] == losses[1]
    for name, value in whole.named_parameters():
        assert ".lora_B." not in name or not value.any()


def pixels(model: UniLDiff) -> Tensor:
    """Return one prediction of the U-Net, the only part that adapters change."""
    torch.manual_seed(0)
    latents, deep = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 8, 8)
    context = model.context(deep, model.embed(["a red cat"]), (64, 64))
    with torch.no_grad():
        return model.predict(latents, torch.tensor([500]), context)


def test_merged_by_hand_as_by_peft(checkpoint: Path, base_folder: Path) -> None:
    saved = read_checkpoint(checkpoint)
    module = stage(base_folder)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, value in saved.weights.items():
            parameters[name].copy_(value)
    with_adapters = pixels(module.eval().model)
    merged = load_restorer(str(checkpoint))
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(pixels(merged), with_adapters, atol=1e-5, rtol=1e-4)
    module.model.unet.rest.fuse_lora()  # peft's own merge, in place
    theirs = dict(module.model.unet.rest.named_parameters())
    changed = 0
    for name, value in merged.unet.rest.named_parameters():
        layer, _, kind = name.rpartition(".")
        expected = theirs.get(f"{layer}.base_layer.{kind}", theirs.get(name))
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
        changed += f"{layer}.base_layer.{kind}" in theirs and kind == "weight"
    assert changed == sum(".lora_A." in name for name in saved.weights)


def test_the_decoder_stage_and_export_take_them_merged(checkpoint: Path, base_folder: Path, tmp_path: Path) -> None:
    decoder = DecoderFinetuneModule(base=str(base_folder), network=NETWORK, init_from=str(checkpoint))
    expected = pixels(load_restorer(str(checkpoint)))
    assert torch.equal(pixels(decoder.model.eval()), expected)
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert torch.equal(pixels(load_restorer(str(tmp_path / "out"))), expected)


def test_adapters_of_another_unet_are_refused() -> None:
    layer = "model.unet.rest.block.to_q"
    adapters = {f"{layer}.lora_A.default.weight": torch.ones(2, 3), f"{layer}.lora_B.default.weight": torch.ones(4, 2)}
    base = {"unet.rest.block.to_q.weight": torch.zeros(4, 3)}
    # B A of ones is the rank everywhere.
    assert torch.equal(with_merged_adapters(adapters, base)[f"{layer}.weight"], torch.full((4, 3), 2.0))
    for wrong in ({"unet.rest.block.to_q.weight": torch.zeros(4, 5)}, {}):
        with pytest.raises(UserError, match=r"to_q\.lora_A\.default\.weight does not fit the U-Net"):
            with_merged_adapters(adapters, wrong)
    with pytest.raises(UserError, match="does not fit"):
        with_merged_adapters({name: value for name, value in adapters.items() if "lora_A" not in name}, base)


def test_halved_weights_need_autocast(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"frozen_dtype: bfloat16 needs --trainer\.precision bf16-mixed, not 32-true"):
        make_trainer(tmp_path, max_steps=1).fit(
            stage(base_folder, frozen_dtype="bfloat16"), make_loader([make_batch([1])])
        )
    with pytest.raises(UserError, match="rank is 0"):
        LoRAConfig(0)


def test_the_named_config_is_planned_with_its_adapters(base_folder: Path) -> None:
    variant = ["--config", "configs/joint.yaml", "--config", "configs/variants/lora_24gb.yaml", "--data.batch_size=2"]
    run = parse_run(variant, None).run
    assert (run.devices, run.step.batch_size, run.accumulation) == (1, 2, 32)
    assert run.step.settings["lora"] == {"rank": 64, "frozen_dtype": "bfloat16"}
    own = {"base": str(base_folder), "init_from": None, "lora": {"rank": 4, "frozen_dtype": "bfloat16"}}
    settings = replace(run.step, crop_size=64).with_settings(**own)
    cost = measure_step(base_sizes(str(base_folder)), NETWORK, settings)
    module = stage(base_folder)
    adapters = sum(parameter.numel() for name, parameter in module.named_parameters() if ".lora_" in name)
    assert cost.parameters["adapters (LoRA)"] == cost.trained["adapters (LoRA)"] == adapters
    assert "U-Net" not in cost.trained
    assert sum(cost.trained.values()) == sum(parameter.numel() for _, parameter in module.trained_parameters())
    frozen_to_bfloat16(module)
    assert cost.weights == sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
