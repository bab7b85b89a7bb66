"""Generated images: equal for any number of workers, cache made once, validation on photographs."""

import numpy as np
import pytest
import torch

from datamodules import deadleaves
from datamodules.deadleaves import DeadLeavesDataModule
from tests.samples import same
from unildiff.data.clean_images import lower_light, vary_colour
from unildiff.deadleaves import cache as scene_cache
from unildiff.deadleaves.renderer import render
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key

SMALL = {"crop_size": 32, "count": 40, "batch_size": 4, "num_workers": 0, "seed": 1, "test_count": 2}


def module(**settings) -> DeadLeavesDataModule:
    return DeadLeavesDataModule(**(SMALL | settings))


@pytest.mark.parametrize("cached", [False, True])
def test_workers_do_not_change_samples(cached, tmp_path):
    def batches(workers):
        data = module(num_workers=workers, cache=str(tmp_path / "cache") if cached else None)
        data.prepare_data()
        data.setup("fit")
        return list(data.train_dataloader())

    alone, workers = batches(0), batches(2)
    assert len(alone) == 10 and all(same(a, b) for a, b in zip(alone, workers, strict=True))
    assert len({name for batch in alone for name in batch["name"]}) == 40


def test_a_sample_is_a_scene_and_its_degradation():
    samples = module(hflip=False, saturation=(0.5, 2.0)).train_set()
    sample = samples[5]
    assert sample["key"] == sample_key(1, 0, 5)
    scene = render(sample_key("train", sample["key"]), 32)
    gt = vary_colour(scene.image, sample["key"], 0.5, 2.0)
    assert (sample["gt"].permute(1, 2, 0).numpy() == gt).all() and sample["caption"] == scene.caption
    expected = degrade(gt, sample["degradation"], sample["key"], depth=scene.depth).image
    assert (sample["lq"].permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": 15}, r"picture_size: 15; give at least crop_size \(15\) and 16"),
        ({"crop_size": 8, "picture_size": 8}, r"picture_size: 8; give at least crop_size \(8\) and 16"),
        ({"picture_size": 31}, r"picture_size: 31; give at least crop_size \(32\) and 16"),
        ({"picture_size": 0}, "picture_size is 0; it must"),
        ({"count": -3}, "count is -3; it must"),
        ({"count": 0}, "count is 0; it must"),
        ({"test_count": 0}, "test_count is 0; it must"),
        ({"val_size": 11}, "val_size is 11; it must be a whole number between 12"),
    ],
)
def test_impossible_sizes_and_counts_are_reported_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        module(**settings)


def test_the_smallest_sizes_work():
    data = module(crop_size=16, val_size=12)
    validation = data.val_set()
    assert data.train_set()[0]["gt"].shape == (3, 16, 16)
    assert all(min(validation[i]["lq"].shape[1:]) == 8 for i in range(len(validation)))
    assert module(crop_size=8, picture_size=16).train_set()[0]["gt"].shape == (3, 8, 8)


def test_colours_vary_within_the_bounds():
    flat = np.full((2, 2, 3), (120, 130, 140), np.uint8)
    made = np.array([vary_colour(flat, key, 0.5, 2.0)[0, 0] for key in range(400)], dtype=float)
    # Colour distance 20 from R to B: times 0.5 to 2, and the tint (3 x 5 % of 140, both ways) adds at most 42 or so.
    spread = made[:, 2] - made[:, 0]
    assert -35 < spread.min() < 5 and 40 < spread.max() < 90
    assert abs(made.mean() - 130) < 2  # brightness stays on average
    with pytest.raises(UserError, match="saturation"):
        module(saturation=(2.0, 1.0))


def test_dark_scenes_stay_dark_and_have_no_noise():
    bright = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    made = np.array([lower_light(bright, key)[0, 0] for key in range(400)], dtype=float)
    # The brightest channel to the power of g, and its ratio to the others stays.
    gammas = np.log(made[:, 0] / 255) / np.log(200 / 255)
    assert 1.18 < gammas.min() < 1.3 and 2.9 < gammas.max() < 3.03
    np.testing.assert_allclose(made[:, 0] / made[:, 1], 2, rtol=0.02)

    plain, evening = (module(evening=share, degradations=["clear", "low", "haze"]).train_set() for share in (0, 1))
    for first, second in ((plain[index], evening[index]) for index in range(20)):
        assert torch.equal(second["gt"], second["lq"]) == (second["degradation"] == "clear")
        assert torch.equal(first["gt"], second["gt"]) == (second["degradation"] != "clear")
        assert second["degradation"] != "clear" or second["gt"].sum() < first["gt"].sum()
    with pytest.raises(UserError, match=r"evening is 1\.5; it must be a number between 0 and 1"):
        module(evening=1.5)
    with pytest.raises(UserError, match=r"evening: 0\.5 of the clear samples, but degradations has no clear"):
        module(evening=0.5, degradations=["low"])


def test_the_fingerprint_covers_every_setting_of_training_images(tmp_path, monkeypatch):
    def fingerprint(**settings) -> str:
        data = module(degradations=["clear", "low", "rain"], **settings)
        data.prepare_data()
        data.setup("fit")
        return data.fingerprint()

    cache = {"cache": str(tmp_path / "0"), "count": 4}
    made = [fingerprint(**settings) for settings in ({}, {"evening": 0.4}, {"weights": {"clear": 2.5}}, {"seed": 2})]
    made += [fingerprint(**settings) for settings in ({"saturation": (0.5, 2)}, {"estimated_depth": 0.5}, cache)]
    made += [fingerprint(**cache | {"cache": str(tmp_path / "1"), "scene_seed": 1}), fingerprint(picture_size=40)]
    made += [fingerprint(val_size=64)]
    monkeypatch.setattr(deadleaves, "VERSION", 99)
    made += [fingerprint()]
    assert len(set(made)) == len(made)
    assert fingerprint() == made[-1] and fingerprint(num_workers=1, batch_size=2) == made[-1]


def test_degradations_are_drawn_by_weight():
    order = module(weights={"rain": 3, "snow": 0}).train_set()._order
    drawn = [order(position)[0] for position in range(2400)]
    # shares: 3 of 12 for rain, 0 for snow, 1 of 12 for the other nine; standard error of 600 is 21
    assert abs(drawn.count("rain") - 600) < 85 and drawn.count("snow") == 0 and set(drawn) == {*DEGRADATIONS} - {"snow"}
    with pytest.raises(UserError, match="weights: no task named fog"):
        module(weights={"fog": 1}).train_set()
    with pytest.raises(UserError, match="nothing to draw"):
        module(degradations=["rain"], weights={"rain": 0}).train_set()


def test_clean_images_only_for_pretraining():
    samples = module(degradations=["clear"]).train_set()
    assert (samples[3]["lq"] == samples[3]["gt"]).all() and samples[3]["degradation"] == "clear"
    with pytest.raises(UserError, match="degradations: unknown fog; choose from low, haze"):
        module(degradations=["fog"])


def test_the_cache_holds_its_scenes_and_is_made_once(tmp_path, monkeypatch):
    data = module(cache=str(tmp_path / "c"), picture_size=48, count=9)
    data.prepare_data()
    cache = data.cache
    for item in (0, 8):
        scene, kept = render(sample_key("train", 0, item), 48), cache.clean(item, 0)
        assert (kept.image == scene.image).all() and np.abs(kept.depth - scene.depth).max() < 0.5 / 255 + 1e-6
        assert kept.caption == scene.caption and kept.depth.dtype == np.float32
    assert data.train_set()[0]["gt"].shape == (3, 32, 32)
    seen = {module(cache=str(tmp_path / "c"), picture_size=48, count=9).train_set()._order(i)[1] for i in range(9)}
    assert len(seen) > 4
    monkeypatch.setattr(scene_cache, "render", None)  # nothing is left to render
    module(cache=str(tmp_path / "c"), picture_size=48, count=9, seed=7).prepare_data()


def test_validation_is_the_photographs_and_always_the_same():
    first, second = (module(seed=seed, val_size=64).val_set() for seed in (1, 2))
    names = {(sample["degradation"], sample["name"]) for sample in map(first.__getitem__, range(33))}
    assert names == {(d, n) for d in DEGRADATIONS for n in ("china", "flower", "grace_hopper")}
    assert all(same(first[i], second[i]) for i in (0, 16, 32))
    assert all(side % 8 == 0 and side <= 64 for side in first[0]["gt"].shape[1:])
    assert first[0]["caption"].startswith("a pagoda")


def test_test_scenes_are_never_trained_on():
    data = module()
    assert data.counts() == dict.fromkeys(DEGRADATIONS, 2)
    test = {data.test_set()[index]["gt"].numpy().tobytes() for index in range(2)}
    train = {data.train_set()[index]["gt"].numpy().tobytes() for index in range(40)}
    assert len(test) == 2 and not test & train
