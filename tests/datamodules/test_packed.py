"""A packed set gives exactly the samples of the folder it was packed from."""

import importlib
import shutil

import pytest

import datamodules
from datamodules.cdd11 import CDD11DataModule
from datamodules.three_task import ThreeTaskDataModule
from tests.fake_trees import blur, cdd11, haze, lowlight, noise, rain, raindrop, udc
from tests.samples import same
from unildiff.data.tools.pack_writer import pack_set
from unildiff.utils.errors import UserError


@pytest.fixture
def roots(tmp_path):
    """Return a packed CDD-11 and a packed three-task set, whose source folders are deleted."""
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
    assert all(map(same, whole, packed)) and len(whole) == len(packed)
    assert name != "cdd11" or "a cat" in {sample["caption"] for sample in packed}


def make(name: str, **settings):
    path, _, kind = datamodules.class_path(name).rpartition(".")
    return getattr(importlib.import_module(path), kind)(crop_size=8, seed=2, num_workers=0, **settings)


def write_all(root) -> None:
    """Six tasks with every set that joins a test only on request, and both displays."""
    for split in ("train", "test"):
        for tree, layout in ((haze, "moceir"), (rain, "moceir"), (blur, "adair"), (lowlight, "adair")):
            tree.write(root, layout, split)
        raindrop.write(root, "unildiff", split) if split == "train" else raindrop.write(root, "original", split)
        noise.write(root, "unildiff", "train") if split == "train" else noise.write(root, "instructir", split)
        udc.write(root, "udc", split)
    raindrop.write(root, "original", "test_b")
    noise.write_further(root, "urban100", "instructir")
    noise.write_further(root, "kodak24", "promptir")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    root = tmp_path_factory.mktemp("everything")
    write_all(root / "files")
    for name in ("raindrop", "udc", "denoise", "autodir"):
        pack_set(name, root / "files", root / name)
    return root


@pytest.mark.parametrize(
    ("name", "settings", "counts"),
    [
        ("raindrop", {}, {"raindrop": 3}),
        ("raindrop", {"test_b": True}, {"raindrop": 3, "raindrop_b": 3}),
        ("udc", {"displays": ["toled"]}, {"toled": 2}),
        ("udc", {}, {"toled": 2, "poled": 2}),
        ("denoise", {"also_test": []}, {"noise_15": 2, "noise_25": 2, "noise_50": 2}),
        ("denoise", {"test_sigmas": [50]}, {"noise_50": 2, "urban100_noise_50": 2}),
        ("denoise", {"test_sigmas": [15], "also_test": ["urban100"]}, {"noise_15": 2, "urban100_noise_15": 2}),
        ("denoise", {"test_sigmas": [25], "also_test": ["kodak24"]}, {"noise_25": 2, "kodak24_noise_25": 2}),
        ("autodir", {"tasks": ["raindrop"]}, {"raindrop": 3}),
        ("autodir", {"tasks": ["raindrop"], "also_test": ["raindrop_b"]}, {"raindrop": 3, "raindrop_b": 3}),
    ],
)
def test_only_the_requested_sets(everything, name, settings, counts):
    whole = make(name, root=str(everything / "files"), **settings)
    packed = make(name, packed=str(everything / name), **settings)
    assert whole.counts() == packed.counts() == counts
    first, second = samples(whole), samples(packed)
    assert len(first) == len(second) and all(map(same, first, second))


def test_the_fingerprint_of_a_pack_covers_the_sets_that_are_read(everything):
    pack = str(everything / "raindrop")
    assert make("raindrop", packed=pack).fingerprint() != make("raindrop", packed=pack, test_b=True).fingerprint()


def test_missing_sets_of_a_pack_are_reported(roots, everything):
    """As with files: no requested set is silently left out, and no other dataset is read."""
    rain.write(roots / "rain", "moceir", "test")
    pack_set("three_task", roots / "rain", roots / "part")
    assert make("three_task", packed=str(roots / "part"), tasks=["rain"]).counts() == {"rain": 12}
    with pytest.raises(
        UserError, match=r"packed: .*part has no test pairs of BSD400 \+ WED / BSD68, OTS / SOTS-outdoor"
    ):
        make("three_task", packed=str(roots / "part")).counts()
    with pytest.raises(UserError, match="also_test: urban100 is of the task noise; add it to tasks"):
        make("three_task", tasks=["rain"], also_test=["urban100"])
    for get in ("counts", "train_set", "val_set", "contents"):
        with pytest.raises(UserError, match=r"packed: .* is a pack of udc, not cdd11; give --data udc"):
            getattr(make("cdd11", packed=str(everything / "udc")), get)()
