"""Test and prediction by a real stage: which decoder makes a row, tiles, folders and names on several ranks, NaN."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from datamodules.folder import FolderDataModule
from tests.fake_trees.images import save, scene
from tests.small import NETWORK
from tests.stages.ranks import on_two_ranks
from tests.stages.steps import make_batch, make_loader, make_stage, make_trainer
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.images import read_rgb
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages import restoration
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.settings import EvaluationSettings
from unildiff.utils.errors import UserError

ONE_STEP = SamplingSettings(1, 1.0)
ROWS = EvaluationSettings(stages=["no_diffusion", "after_joint", "round_trip"])


class Kept:
    """Replaces a TestRun and keeps the images."""

    def __init__(self) -> None:
        self.images: dict[str, Tensor] = {}
        self.timed = torch.no_grad  # any context

    def add(self, batch: Any, images: dict[str, Tensor]) -> None:
        self.images = images


def images_of(module: RestorationModule, batch: Any) -> dict[str, Tensor]:
    module.eval()
    module.test_run = kept = Kept()  # type: ignore[assignment]
    module.test_step(batch, 0)
    return kept.images


@pytest.mark.parametrize("kind", ["alignment", "joint", "joint_lora", "decoder"])
def test_rows_are_decoded_as_the_stages_own_images(kind: str, base_folder: Path) -> None:
    batch = make_batch([1])
    module = make_stage(kind, base_folder, sampling=ONE_STEP, evaluation=ROWS)
    with torch.no_grad():  # a detail decoder that differs from the plain one
        module.model.decoder.conv_out.bias += 0.3
    images, model = images_of(module, batch), module.model
    features = model.encode_lq(model.pad(to_unit(batch["lq"])))
    expected = to_uint8(model.decode(features.latents, features, (32, 32), detail=kind == "decoder"))
    assert torch.equal(images["no_diffusion"], expected)
    assert torch.equal(images["restored"], images["after_joint"]) is (kind != "decoder")


class Small(nn.Module):
    """An encoder that runs out of memory on wide images."""

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder, self.side = encoder, side

    def forward(self, images: Tensor) -> Any:
        if images.shape[3] > self.side:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return self.encoder(images)


def test_out_of_memory_switches_to_tiles_for_every_row(base_folder: Path) -> None:
    batch = make_batch([1], size=300)
    tiles = SamplingSettings(1, 1.0, tile_size=150)
    expected = images_of(make_stage("decoder", base_folder, sampling=tiles, evaluation=ROWS), batch)
    module = make_stage("decoder", base_folder, sampling=ONE_STEP, evaluation=ROWS)
    sides: list[int] = []
    module.model.vae.encoder.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    whole = images_of(module, batch)
    largest = max(sides)
    sides.clear()
    module.model.lq_encoder = Small(module.model.lq_encoder, 200)  # type: ignore[assignment]
    found = images_of(module, batch)
    assert all(torch.equal(found[row], expected[row]) for row in expected)
    assert not torch.equal(found["round_trip"], whole["round_trip"]) and max(sides) < largest


def photos(folder: Path) -> Path:
    """a.jpg beside a.png, which go to different ranks, and two more."""
    for index, name in enumerate(["a.jpg", "a.png", "b.png", "deep/a.png"]):
        save(folder / name, scene(index, (24, 32)))
    return folder


def predict(base_folder: Path, rank: int, folder: Path) -> dict[str, Any]:
    """Predict on one of two ranks whose views of the disk differ, and open a test's folder there."""
    module = make_stage("joint", base_folder, sampling=ONE_STEP)
    if rank == 1:  # as if the other rank had already created the first folder
        restoration.free_folder = lambda path: path.with_name(f"{path.name}-2")
    trainer = make_trainer(folder / "run", strategy="ddp", devices=2, use_distributed_sampler=False)
    trainer.predict(module, datamodule=FolderDataModule(str(folder / "photos"), num_workers=0))
    predicted = str(module.predictions.folder)
    module.on_test_start()
    return {"predicted": predicted, "tested": str(module.test_run.folder)}


def test_two_ranks_write_into_one_folder_under_the_names_of_one(base_folder: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    first, second = on_two_ranks(tmp_path, partial(predict, base_folder))
    assert first == second == {name: str(tmp_path / "run" / kind) for name, kind in (("predicted", "restored"), ("tested", "test"))}  # fmt: skip
    module = make_stage("joint", base_folder, sampling=ONE_STEP)
    data = FolderDataModule(str(tmp_path / "photos"), num_workers=0)
    make_trainer(tmp_path / "alone").predict(module, datamodule=data)
    folders = [tmp_path / run / "restored" for run in ("run", "alone")]
    names = [{file.relative_to(folder).as_posix() for file in folder.rglob("*.png")} for folder in folders]
    assert names[0] == names[1] == {"a.jpg.png", "a.png.png", "b.png", "deep/a.png"}
    for name in names[0]:
        assert (read_rgb(folders[0] / name) == read_rgb(folders[1] / name)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_results_that_are_not_finite_are_not_written(
    value: float, base_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = make_stage("joint", base_folder, sampling=ONE_STEP).eval()
    with torch.no_grad():
        module.model.vae.decoder.conv_out.bias[0] = value
    message = "the restored image is not finite (NaN or infinity); use other weights"
    with pytest.raises(UserError, match=rf"^p1: {re.escape(message)}"):
        images_of(module, make_batch([1]))
    # Training continues, and the image counts with its value in 8 bits.
    batch = make_batch([1])
    module.trainer = SimpleNamespace(loggers=[])  # type: ignore[assignment]
    module.validation_step(batch, 0)
    assert f"validation: p1: {message}" in caplog.text
    black = peak_signal_noise_ratio(batch["gt"].numpy(), np.zeros_like(batch["gt"].numpy()), data_range=255)
    assert float(module.metrics.compute()["psnr/avg"]) == pytest.approx(black, abs=1e-4)
    # In prediction the image is named and left out.
    save(tmp_path / "photos" / "a.png", scene(1, (24, 32)))
    data = FolderDataModule(str(tmp_path / "photos"), num_workers=0)
    make_trainer(tmp_path / "run").predict(module, datamodule=data)
    assert f"not restored: a.png: {message}" in caplog.text and message in data.skipped[0]
    assert not list((tmp_path / "run").rglob("*.png"))


def test_images_of_any_loader_are_restored(base_folder: Path, tmp_path: Path) -> None:
    """A loader of another datamodule does not list its names beforehand."""
    module = make_stage("joint", base_folder, sampling=ONE_STEP)
    make_trainer(tmp_path).predict(module, make_loader([make_batch([1, 2])]))
    assert {path.name for path in (tmp_path / "restored").iterdir()} == {"p1.png", "p2.png"}


def test_how_images_were_sampled_is_written_down(base_folder: Path, tmp_path: Path) -> None:
    for name in ("lq", "gt"):
        save(tmp_path / "data" / name / "a.png", scene(1, (24, 32)))
    sampling = SamplingSettings(2, 3.0, "noise", guidance_interval=(0.0, 0.5), tile_size=150)
    module = make_stage("joint", base_folder, replace(NETWORK, last_timestep=400), sampling=sampling)
    data = FolderDataModule(str(tmp_path / "data"), lq="lq/*", gt="gt/*", num_workers=0)
    make_trainer(tmp_path / "run").test(module, datamodule=data, verbose=False)
    info = json.loads((tmp_path / "run" / "test" / "run.json").read_text())
    expected = {"steps": 2, "guidance_scale": 3.0, "start": "noise", "guidance_interval": [0.0, 0.5]}
    expected |= {"last_timestep": 400, "tile_size": 150}
    assert {key: info.get(key) for key in expected} == expected


@pytest.mark.parametrize("captions", [False, True])
def test_a_test_leaves_curves_and_warns_without_captions(
    captions: bool, base_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("lq", "gt"):
        for index in range(2):
            save(tmp_path / "data" / name / f"{index}.png", scene(index + (name == "lq"), (24, 32)))
    if captions:
        (tmp_path / "data" / "captions.jsonl").write_text('{"file": "lq/0.png", "caption": "a red cat"}\n')
    module = make_stage("joint", base_folder, sampling=SamplingSettings(1, 5.0))
    data = FolderDataModule(str(tmp_path / "data"), lq="lq/*", gt="gt/*", num_workers=0)
    logger = TensorBoardLogger(tmp_path, name="curves", version="")
    make_trainer(tmp_path / "run", logger=logger).test(module, datamodule=data, verbose=False)
    assert ("no image has one" in caplog.text) is not captions
    about = json.loads((module.test_run.folder / "run.json").read_text())
    assert (about["captioned_share"], about["effective_guidance"]) == ((0.5, 5.0) if captions else (0.0, 1.0))
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    rows = module.test_run.evaluators["restored"].rows()
    mean = sum(float(row["psnr"] or 0) for row in rows) / 2
    assert events.Scalars("test/psnr/folder")[-1].value == pytest.approx(mean, rel=1e-5)
    assert events.Scalars("test/psnr/avg")[-1].value == pytest.approx(mean, rel=1e-5)
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert "base:" in (tmp_path / "curves" / "hparams.yaml").read_text()


def test_weights_are_tested_in_the_requested_dtype(base_folder: Path, tmp_path: Path) -> None:
    for name in ("lq", "gt"):
        save(tmp_path / "data" / name / "a.png", scene(1, (24, 32)))
    psnr = {}
    for dtype in (None, torch.bfloat16):
        module = make_stage("decoder", base_folder, sampling=ONE_STEP)
        module.inference_dtype = dtype
        data = FolderDataModule(str(tmp_path / "data"), lq="lq/*", gt="gt/*", num_workers=0)
        make_trainer(tmp_path / str(dtype)).test(module, datamodule=data, verbose=False)
        info = json.loads((module.test_run.folder / "run.json").read_text())
        assert info["dtype"] == ("float32" if dtype is None else "bfloat16")
        psnr[dtype] = module.test_run.evaluators["restored"].rows()[0]["psnr"]
    assert psnr[None] != psnr[torch.bfloat16] == pytest.approx(psnr[None], abs=0.5)
