"""FSDP2 trains like one process and resumes exactly; features that do not work with it are refused in one line."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.strategies import ModelParallelStrategy

from tests.small import NETWORK, small_model
from tests.stages.ranks import on_two_ranks
from tests.stages.steps import Losses, make_batch, make_loader, make_stage, make_trainer, wake
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard
from unildiff.stages.pretrain import PretrainVAEModule
from unildiff.stages.sharding import shard, synchronise_gradients
from unildiff.utils.errors import UserError
from unildiff.utils.paths import config_path

VARIANT = yaml.safe_load(config_path("configs/variants/fsdp2.yaml").read_text())["trainer"]


def strategy(**settings: Any) -> ModelParallelStrategy:
    """Return the strategy of the shipped config."""
    return ModelParallelStrategy(**(VARIANT["strategy"]["init_args"] | settings))


CASES = {
    "joint": ("joint", NETWORK),
    "decoder, to pixels": ("decoder", replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))),
}


def stage(case: str, base_folder: Path) -> Any:
    kind, network = CASES[case]
    module = make_stage(kind, base_folder, network, gradient_checkpointing=True)
    wake(module)
    return module


def sharded(case: str, base_folder: Path, rank: int, folder: Path) -> dict[str, Any]:
    """Two steps of two micro-batches, then the second of them once more from the first one's checkpoint."""
    batches = [make_batch([10 * index + rank]) for index in range(4)]
    ends = []
    for resume in (None, str(folder / "checkpoints" / "step-000001.ckpt")):
        losses, module = Losses(), stage(case, base_folder)
        whole = sum(parameter.numel() for parameter in module.parameters())
        saver = Checkpointing(every_n_steps=1, keep=-1)
        trainer = make_trainer(
            folder, [losses, NonFiniteGuard(), saver], max_steps=2, gradient_clip_val=1.0, strategy=strategy(), devices=2,
            enable_checkpointing=True, use_distributed_sampler=False, limit_val_batches=0, accumulate_grad_batches=2,
        )  # fmt: skip
        trainer.fit(module, make_loader(batches) if resume is None else make_loader(batches[2:]), ckpt_path=resume)
        here = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in module.parameters())
        ends.append({"weights": dict(trainer.strategy.lightning_module_state_dict()), "losses": losses.values})
        ends[-1]["share"] = here / whole
    return {"ends": ends}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one_and_resume(case: str, base_folder: Path, tmp_path: Path) -> None:
    first, second = on_two_ranks(tmp_path / "two", partial(sharded, case, base_folder))
    module = stage(case, base_folder)
    batches = [make_batch([10 * index, 10 * index + 1]) for index in range(4)]
    losses = Losses()
    trainer = make_trainer(tmp_path, [losses], max_steps=2, gradient_clip_val=1.0, accumulate_grad_batches=2)
    trainer.fit(module, make_loader(batches))
    whole, resumed = first["ends"]
    both = [(one + two) / 2 for one, two in zip(whole["losses"], second["ends"][0]["losses"], strict=True)]
    assert both == pytest.approx(losses.values, rel=1e-4)
    expected = {name: value for name, value in module.state_dict().items() if name in whole["weights"]}
    assert {name for name, _ in module.trained_parameters()} <= set(expected)
    for name, value in expected.items():  # AdamW's first steps are signs: gradients near 0 may differ by rounding alone
        torch.testing.assert_close(whole["weights"][name], value, atol=2e-4, rtol=1e-3)
    assert all(torch.equal(resumed["weights"][name], value) for name, value in whole["weights"].items())
    assert resumed["losses"] == whole["losses"][2:]
    # U-Net, fusion, LQ encoder and decoder are halved; VAE and text encoders are not sharded.
    assert 0.5 < whole["share"] < 0.75
    checkpoint = torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {name for name, _ in module.trained_parameters()}


def refused(base_folder: Path, tmp_path: Path, module: Any = None, command: str = "fit", **settings: Any) -> str:
    defaults: dict[str, Any] = {"strategy": strategy(data_parallel_size=1), "limit_val_batches": 0, "max_steps": 1}
    trainer = make_trainer(tmp_path, **(defaults | settings))
    module = module or make_stage("joint", base_folder)
    with pytest.raises(UserError) as caught:
        getattr(trainer, command)(module, make_loader([make_batch([1])]))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_incompatible_features_are_refused(base_folder: Path, tmp_path: Path) -> None:
    try:
        fit = partial(refused, base_folder, tmp_path)
        assert "averaged weights do not go with ModelParallelStrategy" in fit(callbacks=[ExponentialMovingAverage()])
        folders = ModelParallelStrategy(1, 1, save_distributed_checkpoint=True)
        assert "give save_distributed_checkpoint: false" in fit(
            callbacks=[Checkpointing()], strategy=folders, enable_checkpointing=True
        )
        assert "give --trainer.limit_val_batches 0" in fit(limit_val_batches=1.0)
        assert "FSDP2) is for fit; run test on one device" in fit(command="test")
        assert "cannot split PretrainVAEModule" in fit(module=PretrainVAEModule("unused"))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_the_shipped_config_leaves_out_refused_features() -> None:
    names = [callback["class_path"].rpartition(".")[2] for callback in VARIANT["callbacks"]]
    assert "ExponentialMovingAverage" not in names and {"GlobalBatch", "Checkpointing"} <= set(names)
    assert VARIANT["limit_val_batches"] == 0


def test_weights_are_gathered_in_bfloat16_and_gradients_reduced_once_in_float32(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = small_model().requires_grad_(False)
        model.unet.requires_grad_(True)
        shard(model, torch.distributed.init_device_mesh("cpu", (1,)), torch.bfloat16)
        block: Any = model.unet.rest.mid_block.resnets[0].conv1
        seen: list[torch.dtype] = []
        block.register_forward_pre_hook(lambda module, given: seen.append(module.weight.dtype))
        for last in (False, True):  # two micro-batches of one optimiser step
            synchronise_gradients(model, last)
            with torch.autocast("cpu", torch.bfloat16):
                features = model.encode_lq(torch.zeros(1, 3, 32, 32))
                context = model.context(features.deep, model.embed(["a cat"]), (32, 32))
                loss = model.unet(features.latents, torch.tensor([5]), context)[0].square().mean()
            loss.backward()
            assert (block.weight.grad is not None) is last  # not reduced before the last micro-batch
        assert seen == [torch.bfloat16] * 2
        assert block.weight.dtype == block.weight.grad.dtype == torch.float32
    finally:
        torch.distributed.destroy_process_group()
