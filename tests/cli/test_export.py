import json
import re
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.small import NETWORK, small_base
from unildiff.callbacks import AtomicCheckpointIO, ExponentialMovingAverage
from unildiff.cli.main import main
from unildiff.core.model import UniLDiff
from unildiff.data.images import read_rgb
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.joint import JointFinetuneModule
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.weights.folder import load_model, save_base
from unildiff.weights.load import model_from_checkpoint
from unildiff.weights.pipeline import UniLDiffPipeline
from unildiff.weights.restoring import restore_image

SAMPLE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def batch(_: Any) -> dict[str, Any]:
    images = torch.from_numpy(SAMPLE).permute(2, 0, 1)[None, :, :32, :32]
    return {"lq": images, "gt": 255 - images, "caption": ["a cat"], "degradation": ["low"], "name": ["x"]} | {
        "key": torch.tensor([5])
    }


def trained(stage: Any, folder: Path, average: bool) -> Path:
    """Train for two large steps and return the checkpoint, in a run folder as `fit` leaves it."""
    callbacks = [ExponentialMovingAverage(0.5)] if average else []
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    trainer.fit(stage, DataLoader([0, 1], collate_fn=batch))
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if average:  # what its validation would use
        callbacks[0].on_validation_start(trainer, stage)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, UniLDiff]]:
    """Alignment, joint and decoder, each from the one before: checkpoint and the model as it stood at the end."""
    root = tmp_path_factory.mktemp("runs")
    base = root / "base"
    save_base(small_base(), base)
    settings: dict[str, Any] = {"base": str(base), "network": NETWORK, "sampling": SamplingSettings(2)}
    settings |= {"optimizer": OptimizerConfig(learning_rate=0.01, warmup_steps=0, schedule="constant")}
    alignment = AlignmentModule(**settings)
    first = trained(alignment, root / "alignment", average=False)
    joint = JointFinetuneModule(**settings, init_from=str(first))
    second = trained(joint, root / "joint", average=True)
    decoder = DecoderFinetuneModule(**settings, init_from=str(second))
    third = trained(decoder, root / "decoder", average=True)
    stages = {"alignment": (first, alignment), "joint": (second, joint), "decoder": (third, decoder)}
    return {name: (path, stage.model.eval()) for name, (path, stage) in stages.items()}


def same_weights(first: UniLDiff, second: UniLDiff) -> bool:
    """Whether all weights are equal, but for detail experts that no stage has trained: those are silent."""
    a, b = first.state_dict(), second.state_dict()
    silent = not any(
        value.any() for name, value in a.items() if name.startswith("decoder.details") and ".output." in name
    )
    names = [name for name in a if not (silent and name.startswith("decoder.details"))]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in names)


@pytest.mark.parametrize("stage", ["alignment", "joint", "decoder"])
def test_a_checkpoint_is_the_whole_model_again(stage: str, chain: dict[str, tuple[Path, UniLDiff]]) -> None:
    path, model = chain[stage]
    assert same_weights(model_from_checkpoint(path)[0], model)


def test_the_stage_before_is_found_from_another_folder(
    chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = chain["decoder"]
    root = path.parents[2]
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] |= {"init_from": "joint/checkpoints/last.ckpt", "base": "base"}
    run = root / "relative"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    (run / "run.fit.json").write_text(json.dumps({"folder": str(root)}))
    monkeypatch.chdir(tmp_path)
    assert same_weights(model_from_checkpoint(run / "checkpoints" / "last.ckpt")[0], model)


def test_restore_reads_checkpoints(chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path) -> None:
    path, model = chain["decoder"]
    Image.fromarray(SAMPLE).save(tmp_path / "image.png")
    arguments = [tmp_path / "image.png", tmp_path / "out.png", "--model", path, "--num_inference_steps=2"]
    assert main(["restore", *map(str, arguments)]) == 0
    expected = restore_image(model, SAMPLE, settings=SamplingSettings(2)).permute(1, 2, 0).numpy()
    assert np.array_equal(read_rgb(tmp_path / "out.png"), expected)


@pytest.mark.parametrize("stage", ["joint", "decoder"])
def test_exported_folder_has_the_same_pixels(
    stage: str, chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = chain[stage]
    out = tmp_path / "exported"
    assert main(["export", str(path), "--out", str(out), "--dtype", "float32"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and str(out) in printed.out
    assert same_weights(load_model(out), model)
    expected = restore_image(model, SAMPLE, "a cat", SamplingSettings(2)).permute(1, 2, 0).numpy()
    pipeline = UniLDiffPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    assert np.array_equal(np.asarray(pipeline(SAMPLE, "a cat", 2).images[0]), expected)
    Image.fromarray(SAMPLE).save(tmp_path / "image.png")
    arguments = [tmp_path / "image.png", tmp_path / "out.png", "--model", out, "--num_inference_steps=2"]
    assert main(["restore", *map(str, arguments)]) == 0
    without_caption = np.asarray(pipeline(SAMPLE, num_inference_steps=2).images[0])
    assert np.array_equal(read_rgb(tmp_path / "out.png"), without_caption)
    again = tmp_path / "again"  # a folder can be exported as well, and written over
    for _ in range(2):
        assert main(["export", str(out), "--out", str(again)]) == 0
    assert load_model(again, torch.float16).vae.dtype == torch.float16
    assert (again / "README.md").read_text() == (out / "README.md").read_text()


def test_card_says_data_recipe_protocol_and_scores(chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path) -> None:
    path, _ = chain["decoder"]
    run = path.parent.parent
    about = {
        "data": "CDD11DataModule",
        "data_fingerprint": "abc",
        "seed": 42,
        "commit": "f00",
        "command": "unildiff fit x",
    }
    (run / "run.fit.json").write_text(json.dumps(about))
    (run / "test").mkdir()
    about = {
        "protocol": "onerestore",
        "data": "cdd11",
        "data_kind": "sample",
        "count": {"low": 1, "haze": 2},
        "seed": 0,
    }
    (run / "test" / "run.json").write_text(json.dumps(about | {"steps": 20, "guidance_scale": 5.0, "start": "lq"}))
    rows = "degradation,name,psnr,ssim\nlow,a,20.0,0.5\nhaze,a,30.0,0.75\nhaze,b,31.0,0.85\n"
    (run / "test" / "scores.csv").write_text(rows)
    for file in ("run.json", "scores.csv"):  # of tests that were stopped
        (run / f"test-{file}").mkdir()
        (run / f"test-{file}" / file).write_text("{}")
    for name, record, scores in (("record", "{", rows), ("list", "[]", rows), ("scores", "{}", "name,psnr\na,b\n")):
        (run / f"test-damaged-{name}").mkdir()
        (run / f"test-damaged-{name}" / "run.json").write_text(record)
        (run / f"test-damaged-{name}" / "scores.csv").write_text(scores)
    (run / "test-own").mkdir()
    own = {"data": "folder", "data_kind": "real", "published": False, "count": []}
    (run / "test-own" / "run.json").write_text(json.dumps(own))
    (run / "test-own" / "scores.csv").write_text(rows)
    with pytest.warns(UserWarning, match="the model card leaves out") as caught:
        assert main(["export", str(path), "--out", str(tmp_path / "exported")]) == 0
    card = re.sub(" +", " ", (tmp_path / "exported" / "README.md").read_text())
    warned = " ".join(str(each.message) for each in caught)
    assert all(f"test-damaged-{name}" in warned for name in ("record", "list", "scores")) and "damaged" not in card
    for said in (
        "library_name: diffusers",
        "| trained on | CDD11DataModule |",
        "| seed | 42 |",
        "| optimizer, learning rate | 0.01 |",
        "| averaged weights (EMA) | yes |",
        "| optimiser steps | 2 |",
        "| protocol | onerestore |",
        "cdd11 (3 images, sample set)",
        "folder (3 images)",
        "| sampling | the steps end at t = 0 |",
        "| haze | 2 | 30.5 | 0.8 |",
        "| avg | 3 | 25.25 | 0.65 |",  # over degradations
    ):
        assert said in card, said


def test_the_stage_before_may_have_moved(
    chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = chain["decoder"]
    joint, _ = chain["joint"]
    moved = joint.rename(tmp_path / "moved.ckpt")
    try:
        assert main(["export", str(path), "--out", str(tmp_path / "a")]) == 2
        error = capsys.readouterr().err
        assert str(joint) in error and "--init_from" in error and not (tmp_path / "a").exists()
        assert main(["export", str(path), "--out", str(tmp_path / "a"), "--init_from", str(moved)]) == 0
    finally:
        moved.rename(joint)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing.ckpt", "--out", "x"], "no file or folder nothing.ckpt"),
        (["text.ckpt", "--out", "x"], "is not a checkpoint"),
        (["text.ckpt"], "nothing to write; give --out DIR"),
        (["text.ckpt", "--out", "full"], "is not empty"),
        (["text.ckpt", "--out", "text.ckpt"], "is a file"),
        (["full", "--out", "x"], "no unildiff.json"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and expected in error[0], error


def test_a_checkpoint_of_another_network_is_refused(chain: dict[str, tuple[Path, UniLDiff]], tmp_path: Path) -> None:
    from unildiff.utils.errors import UserError

    path, _ = chain["joint"]
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["network"]["fusion"]["hidden_size"] = 32
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="weights do not match"):
        model_from_checkpoint(tmp_path / "other.ckpt")
