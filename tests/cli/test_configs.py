import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.small import sdxl_like_base, small_model
from tests.stages.ranks import on_two_ranks
from unildiff.cli.main import main
from unildiff.utils.paths import config_names, config_path
from unildiff.weights.folder import save_base, save_model

STAGES = ("alignment", "joint", "decoder")
SMALL_NETWORK = {
    "fusion": {"hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
    "detail": {"width": 8, "kernel_sizes": [3, 5]},
}

FEW_LATENTS = ["--model.cache.samples=32", "--model.training_sampling.num_inference_steps=2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with SDXL's structure, in a diffusers folder."""
    folder = tmp_path_factory.mktemp("base")
    save_base(sdxl_like_base(), folder)
    return folder


def smaller(base: Path, steps: int, batch: int = 32, accumulation: int = 2) -> list[str]:
    """Arguments that put a recipe on this machine and change nothing else: base, sizes, images, device."""
    fusion = [f"--model.network.fusion.{name}={value}" for name, value in SMALL_NETWORK["fusion"].items()]
    detail = [f"--model.network.detail.{name}={value}" for name, value in SMALL_NETWORK["detail"].items()]
    data = ["--data", "deadleaves", "--data.crop_size=32", f"--data.batch_size={batch}", "--data.num_workers=0"]
    trainer = [f"--trainer.max_steps={steps}", f"--trainer.accumulate_grad_batches={accumulation}"]
    trainer += ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    return [f"--model.base={base}", "--model.base_vae=null", *fusion, *detail, *data, *trainer]


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    assert set(content["ema_state_dict"]) == set(content["state_dict"])
    return dict(content["state_dict"])


def test_every_config_opens_with_the_command_that_runs_it() -> None:
    for name in config_names():
        first = config_path(name).read_text().splitlines()[0]
        assert "unildiff " in first, f"{name}: {first}"


def test_the_recipe_is_the_papers() -> None:
    """arXiv 2507.23685, supplement 2.2, read again by hand."""
    content = {stage: yaml.safe_load(config_path(f"configs/{stage}.yaml").read_text()) for stage in STAGES}
    steps = {stage: config["trainer"]["max_steps"] for stage, config in content.items()}
    assert steps == {"alignment": 6000, "joint": 40000, "decoder": 10000}
    for config in content.values():
        trainer, data = config["trainer"], config["data"]["init_args"]
        assert trainer["devices"] * data["batch_size"] * trainer["accumulate_grad_batches"] == 64
        assert data["crop_size"] == 512
        model = config["model"]["init_args"]
        assert model["text_dropout"] == 0.2 and model["auxiliary_weight"] == 0.01
        assert model["sampling"]["num_inference_steps"] == 20 and model["sampling"]["guidance_scale"] == 5.0
    optimizers = {stage: config["model"]["init_args"]["optimizer"] for stage, config in content.items()}
    assert optimizers["alignment"]["learning_rate"] == 5e-5
    assert optimizers["joint"]["learning_rate"] == 1e-5
    assert optimizers["joint"]["lq_encoder_learning_rate"] == 5e-6
    assert optimizers["joint"]["schedule"] == "cosine"


def test_the_three_stages_step_one_after_the_other(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that each stage finds the one before where its config says
    single = ["--config", "configs/variants/one_gpu.yaml", "--trainer.devices=1"]
    for stage in STAGES:
        few = FEW_LATENTS if stage == "decoder" else []
        assert main(["fit", "--config", f"configs/{stage}.yaml", *single, *smaller(base, steps=1), *few]) == 0
        assert Path(f"runs/sdxl/{stage}/checkpoints/last.ckpt").exists()
    trained = {stage: set(weights(Path(f"runs/sdxl/{stage}/checkpoints/last.ckpt"))) for stage in STAGES}
    assert all(name.startswith("model.unet.fusion.") for name in trained["alignment"])
    assert trained["alignment"] < trained["joint"]
    assert {name.split(".")[1] for name in trained["joint"]} == {"unet", "lq_encoder"}
    assert {name.split(".")[1] for name in trained["decoder"]} == {"decoder"}


def test_another_global_batch_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unildiff.utils.errors import UserError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNILDIFF_DEBUG", "1")
    arguments = ["fit", "--config", "configs/alignment.yaml", "--config", "configs/variants/one_gpu.yaml"]
    for batch, accumulation, advice in ((8, 4, "accumulate_grad_batches 8"), (5, 4, "batch_size that divides 64 / 1")):
        with pytest.raises(UserError, match=advice) as caught:
            main([*arguments, *smaller(base, 1, batch, accumulation)])
        assert f"1 devices x batch {batch} x accumulation 4 is {batch * 4}, the recipe's is 64" in str(caught.value)


def run_on_this_rank(command: list[str], rank: int, folder: Path) -> dict[str, int]:
    os.chdir(folder)
    return {"code": main(command)}


def test_two_processes_run_the_recipe_as_it_is(base: Path, tmp_path: Path) -> None:
    """DDP with its settings, accumulation and checkpointed activations; the auxiliary loss of DAEM and of token experts."""
    sizes = [*smaller(base, steps=2, batch=4, accumulation=8), "--model.network.fusion.token_experts=3"]
    joint = ["fit", "--config", "configs/joint.yaml", *sizes, "--model.init_from=null", "--trainer.devices=2"]
    assert on_two_ranks(tmp_path, partial(run_on_this_rank, joint)) == [{"code": 0}] * 2  # as torchrun starts it
    decoder = ["fit", "--config", "configs/decoder.yaml", *sizes, *FEW_LATENTS, "--trainer.devices=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    line = [sys.executable, "-m", "unildiff", *decoder]  # starts its second process itself
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for stage in ("joint", "decoder"):
        moved = weights(tmp_path / "runs" / "sdxl" / stage / "checkpoints" / "last.ckpt")
        assert all(value.isfinite().all() for value in moved.values())


def tiny_configs() -> list[str]:
    return [name for name in config_names() if name.startswith("configs/tiny/") and not name.endswith("test.yaml")]


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_model(small_model(), folder, torch.float32)  # with its own network, for configs that name none
    return folder


@pytest.mark.parametrize("name", tiny_configs())
def test_tiny_configs_run_two_steps(
    name: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(config_path(name).read_text())
    model = content["model"].get("init_args", {})
    arguments = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    arguments += ["--data.batch_size=2", "--data.num_workers=0", "--data.crop_size=64"]
    arguments += ["--trainer.devices=1", "--trainer.strategy=auto"]
    if "cache" in content["data"]["init_args"]:
        arguments.append("--data.cache=null")
    if "scene_count" in content["data"]["init_args"]:  # all scenes are rendered before the first step
        arguments.append("--data.scene_count=8")
    for key in ("root", "val_root"):  # photographs: any folder of clean images
        if key in content["data"]["init_args"]:
            (tmp_path / key).mkdir()
            for number in range(2):
                image = np.random.default_rng(number).integers(0, 256, (180, 240, 3), np.uint8)
                Image.fromarray(image).save(tmp_path / key / f"beach{number}.png")
            arguments.append(f"--data.{key}={tmp_path / key}")
    if "base" in model:
        arguments.append(f"--model.base={tiny_base}")
    if "init_from" in model:
        arguments.append("--model.init_from=null")
    if "output" in model:
        arguments.append(f"--model.output={tmp_path / 'made'}")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", name, *arguments, "--run_dir", "run"]) == 0
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 2
