"""What an earlier release wrote is still read, and gives the same images, scores and training.

``release_0.1.tar.xz`` was written by the command line of version 0.1.0, before the code was reorganised: a small base of
random weights, six training pairs and two test pairs, a joint run of four steps (the checkpoint of its second), a decoder
run started from it, an export, a test and a restored folder. These tests use nothing but the command line and the files.
"""

import csv
import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unildiff.cli.main import main

ARCHIVE = Path(__file__).with_name("release_0.1.tar.xz")
DATA = ["--data", "folder", "--data.root", "pairs", "--data.lq", "test/lq/*", "--data.gt", "test/gt/*"]
TRAINING = ["--data.train_lq", "train/lq/*", "--data.train_gt", "train/gt/*", "--data.crop_size", "32"]
TRAINING += ["--data.batch_size", "2", "--data.num_workers", "0"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked files, read only by agreement."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def inside(release: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder: the release was given relative paths."""
    monkeypatch.chdir(release)
    return release


def levels_apart(first: Path, second: Path) -> int:
    one, two = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int) for path in (first, second))
    return int(np.abs(one - two).max())


def test_an_exported_folder_restores_the_same_images(inside: Path, tmp_path: Path) -> None:
    assert (
        main(["restore", "pairs/test/lq", str(tmp_path / "out"), "--model", "exported", "--num_inference_steps", "3"])
        == 0
    )
    for name in ("scene0.png", "scene1.png"):
        assert (
            levels_apart(inside / "restored" / name, tmp_path / "out" / name) <= 1
        )  # another processor may round otherwise


def test_a_decoder_checkpoint_gets_the_same_scores(inside: Path, tmp_path: Path) -> None:
    arguments = ["test", *DATA, "--ckpt_path", "decoder/checkpoints/last.ckpt", "--run_dir", str(tmp_path)]
    assert main([*arguments, "--data.num_workers", "0", "--model.sampling.num_inference_steps", "3"]) == 0
    before, now = (
        list(csv.DictReader(path.open())) for path in (Path("tested/test/scores.csv"), tmp_path / "test/scores.csv")
    )
    for row, again in zip(before, now, strict=True):
        assert (row["name"], row["degradation"]) == (again["name"], again["degradation"])
        for key in ("psnr", "ssim", "input_psnr", "input_ssim"):
            assert float(again[key]) == pytest.approx(float(row[key]), abs=2e-3 if key == "psnr" else 2e-4)
    fields, new = (json.loads(path.read_text()) for path in (Path("tested/test/run.json"), tmp_path / "test/run.json"))
    assert not fields.keys() - new.keys(), "a field of run.json is gone"
    same = ("stage", "data", "data_kind", "blind", "count", "seed", "steps", "guidance_scale", "start", "protocol")
    assert {key: fields[key] for key in same} == {key: new[key] for key in same}


def test_a_checkpoint_exports_to_the_same_weights(inside: Path, tmp_path: Path) -> None:
    assert main(["export", "decoder/checkpoints/last.ckpt", "--out", str(tmp_path / "out")]) == 0
    old = {path.relative_to("exported") for path in Path("exported").rglob("*") if path.is_file()}
    assert not {file for file in old if not (tmp_path / "out" / file).is_file()}
    for file in old:
        if file.suffix == ".safetensors":
            before, now = load_file(Path("exported") / file), load_file(tmp_path / "out" / file)
            assert before.keys() == now.keys(), file
            assert all(torch.equal(before[key], now[key]) for key in before), file
    before, now = (
        json.loads((folder / "unildiff.json").read_text()) for folder in (Path("exported"), tmp_path / "out")
    )
    assert not missing(before, now)


def missing(before: dict[str, object], now: dict[str, object]) -> list[str]:
    """Return the keys of ``before``, at any depth, that are gone or have another value."""
    gone = []
    for key, value in before.items():
        if isinstance(value, dict):
            inner = now.get(key)
            gone += [f"{key}.{name}" for name in missing(value, inner if isinstance(inner, dict) else {})]
        elif now.get(key) != value:
            gone.append(key)
    return gone


def test_a_run_resumes_from_an_earlier_checkpoint_to_the_same_weights(inside: Path, tmp_path: Path) -> None:
    config = Path("joint/config.fit.yaml")
    arguments = ["fit", "--config", str(config), "--ckpt_path", "joint/checkpoints/step-000002.ckpt"]
    assert main([*arguments, "--run_dir", str(tmp_path / "resumed")]) == 0
    checkpoint = torch.load(tmp_path / "resumed/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoint["hyper_parameters"]["_class_path"] == "unildiff.stages.joint.JointFinetuneModule"
    sums = json.loads(Path("joint_step4.json").read_text())
    assert sums.keys() == checkpoint["state_dict"].keys()
    for key, (total, absolute) in sums.items():
        value = checkpoint["state_dict"][key].double()
        assert float(value.sum()) == pytest.approx(total, abs=1e-5 * (1 + absolute)), key
        assert float(value.abs().sum()) == pytest.approx(absolute, rel=1e-5), key


def test_the_next_stage_starts_from_an_earlier_checkpoint(inside: Path, tmp_path: Path) -> None:
    network = json.dumps(
        {"fusion": {"hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}, "detail": {"width": 8, "kernel_sizes": [3, 5]}}
    )
    arguments = ["fit", "--model", "decoder", "--model.base", "base", "--model.network", network, *DATA, *TRAINING]
    arguments += ["--model.init_from", "joint/checkpoints/step-000002.ckpt", "--trainer.max_steps", "1"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    assert main([*arguments, "--run_dir", str(tmp_path / "decoder")]) == 0
    assert (tmp_path / "decoder/checkpoints/last.ckpt").is_file()


def test_nothing_of_the_release_was_changed(release: Path) -> None:
    assert sorted(os.listdir(release)) == sorted(
        ["base", "decoder", "exported", "joint", "joint_step4.json", "pairs", "restored", "tested"]
    )
