"""A packed set gives exactly the samples of the folder it was packed from."""

import shutil

import pytest
import torch

from datamodules.cdd11 import CDD11DataModule
from datamodules.three_task import ThreeTaskDataModule
from tests.fake_trees import cdd11, haze, noise, rain
from unildiff.data.pack_writer import pack_set


@pytest.fixture
def roots(tmp_path):
    """A CDD-11 and a three-task set, packed, their folders gone."""
    for split in ("train", "test"):
        cdd11.write(tmp_path / "cdd11", "onerestore", split)
        for tree in (haze, noise, rain):
            tree.write(tmp_path / "three_task", "moceir", split)
    (tmp_path / "cdd11/captions.jsonl").write_text('{"file": "CDD-11_test/clear/00001.png", "caption": "a cat"}\n')
    for name in ("cdd11", "three_task"):
        pack_set(name, tmp_path / name, tmp_path / f"packed_{name}")
    return tmp_path


def samples(data) -> list[dict]:
    data.setup("fit")
    data.setup("test")
    sets = data._sets
    val = [sets["val"][index] for index in range(len(sets["val"]))] if sets.get("val") else []
    return [sets["train"][p] for p in range(60)] + val + [sets["test"][i] for i in range(len(sets["test"]))]


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (CDD11DataModule, {}),
        (CDD11DataModule, {"degradations": "double", "val_scenes": 1}),
        (ThreeTaskDataModule, {"weights": {"noise": 2}}),
        (ThreeTaskDataModule, {"tasks": ["noise"], "test_noise": "peers", "test_sigmas": [25]}),
    ],
)
def test_equal_samples(roots, module, settings):
    name = module.dataset
    settings = {"crop_size": 8, "seed": 2, "num_workers": 0, **settings}
    whole = samples(module(root=str(roots / name), **settings))
    shutil.rmtree(roots / name)
    packed = samples(module(root=str(roots / name), packed=str(roots / f"packed_{name}"), **settings))
    for a, b in zip(whole, packed, strict=True):
        assert all(torch.equal(a[f], b[f]) if isinstance(a[f], torch.Tensor) else a[f] == b[f] for f in a)
    assert name != "cdd11" or "a cat" in {sample["caption"] for sample in packed}
