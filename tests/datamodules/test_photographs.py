"""Folders of clean images as training data: equal for any workers, resumable, mixed with scenes, refused by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.photographs import PhotographsDataModule
from tests.samples import same
from unildiff.data.clean_images import ScaledFiles, fit_within, kind_of
from unildiff.data.pair import Pair
from unildiff.degradations.tasks import EVALUATED, TASKS
from unildiff.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for name, size in (("forest1", (50, 80)), ("forest2", (60, 40)), ("deep/sea0", (45, 90)), ("small", (20, 24))):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return tmp_path / "images"


def module(root: Path, **settings) -> PhotographsDataModule:
    small = {"crop_size": 32, "count": 24, "batch_size": 4, "num_workers": 0, "seed": 1, "val_size": 48}
    return PhotographsDataModule(str(root), **(small | settings))


def scenes(tmp_path: Path, share: float) -> dict:
    return {"scenes": share, "scene_cache": str(tmp_path / "cache"), "scene_count": 5}


def test_workers_and_position_do_not_change_samples(folder: Path, tmp_path: Path) -> None:
    def batches(workers: int, consumed: int = 0) -> list:
        data = module(folder, num_workers=workers, **scenes(tmp_path, 0.4))
        data.prepare_data()
        data.setup("fit")
        data.load_state_dict({"consumed": consumed})
        return list(data.train_dataloader())

    whole, workers, resumed = batches(0), batches(2), batches(0, consumed=8)
    assert len(whole) == 6 and all(same(a, b) for a, b in zip(whole, workers, strict=True))
    assert all(same(a, b) for a, b in zip(whole[2:], resumed[:4], strict=False))


def test_crops_are_cut_from_the_scaled_image_and_degraded(folder: Path) -> None:
    data = module(folder, scale=(1, 1), hflip=False, degradations=["clear", "noise_25"])
    images = {p.stem: np.asarray(Image.open(p)) for p in folder.rglob("*.png")}
    for position in range(24):
        sample = data.train_set()[position]
        gt = sample["gt"].permute(1, 2, 0).numpy()
        stem = sample["name"].rsplit("_", 1)[0].split("_")[-1]
        if stem != "small":  # reflected up to the crop
            windows = np.lib.stride_tricks.sliding_window_view(images[stem], (32, 32), axis=(0, 1))
            assert (windows == gt.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
        difference = sample["lq"].float() - sample["gt"].float()
        assert (difference.abs().max() == 0) == (sample["degradation"] == "clear")


def test_images_are_scaled_but_not_below_the_crop(tmp_path: Path) -> None:
    pairs = []
    for height, width in ((100, 200), (40, 90)):
        Image.new("RGB", (width, height)).save(tmp_path / f"{height}.png")
        pairs.append(Pair("clear", "clear", "x", None, tmp_path / f"{height}.png"))
    files = ScaledFiles(pairs, (0.45, 0.6), crop=32)
    scaled = [files.clean(0, key).image.shape[:2] for key in range(50)]
    assert 45 <= min(h for h, _ in scaled) <= 47 and 58 <= max(h for h, _ in scaled) <= 60
    assert all(abs(w - 2 * h) <= 1 for h, w in scaled)
    assert {files.clean(1, key).image.shape[0] for key in range(9)} == {32}


def test_the_share_of_scenes_and_the_weights_of_tasks(folder: Path, tmp_path: Path) -> None:
    data = module(folder, count=400, weights={"clear": 6.0, "snow": 0}, **scenes(tmp_path, 0.25))
    data.prepare_data()
    drawn = [data.train_set()[position] for position in range(400)]
    made = sum(not any(stem in sample["name"] for stem in ("forest", "sea", "small")) for sample in drawn)
    assert abs(made - 100) < 36  # four standard errors
    kinds = [sample["degradation"] for sample in drawn]
    assert abs(kinds.count("clear") - 400 * 6 / 19) < 38 and set(kinds) == {*TASKS} - {"snow"}


def test_captions_come_from_the_file_or_from_names(folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"file": "forest2.png", "caption": "tall firs"}\n')
    named = {pair.name: pair.caption for pair in module(folder, captions_from_names=True).train_set().pairs}
    assert named == {"forest1": "forest", "forest2": "tall firs", "deep_sea0": "sea", "small": "small"}
    assert {pair.caption for pair in module(folder).train_set().pairs} == {"", "tall firs"}
    assert kind_of(Path("Snow_field-12.b3.jpg")) == "Snow field b"


def test_validation_is_a_fixed_subset_and_tests_are_all(folder: Path) -> None:
    data = module(folder, val_root=str(folder), val_each=2, seed=3)
    data.setup("fit")
    pairs = data._sets["val"].pairs
    assert len(pairs) == 7 * 2 and {p.degradation for p in pairs} <= set(EVALUATED)
    assert {name: sum(p.name == name for p in pairs) for name in {p.name for p in pairs}} == dict.fromkeys(
        {"forest1", "forest2", "deep_sea0", "small", "china", "flower", "grace_hopper"}, 2
    )
    assert data.counts() == dict.fromkeys(EVALUATED, 7)
    other = module(folder, val_root=str(folder), val_each=2, seed=4).val_set()
    assert all(same(data.val_set()[i], other[i]) for i in range(14))
    assert all(side % 8 == 0 and side <= 48 for i in range(14) for side in other[i]["gt"].shape[1:])


def test_fit_within_cuts_about_the_centre() -> None:
    image = np.arange(21 * 30 * 3, dtype=np.uint32).reshape(21, 30, 3).astype(np.uint8)
    assert np.array_equal(fit_within(image, 100, 8), image[2:18, 3:27])
    assert fit_within(image, 10).shape == (7, 10, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degradations": ["fog"]}, "degradations: unknown fog"),
        ({"val_degradations": ["fog"]}, "val_degradations: unknown fog"),
        ({"scale": (0, 1)}, r"scale(\[1\])? is"),
        ({"scale": (0.5, 2)}, r"scale(\[1\])? is"),
        ({"scenes": 0.5}, "give --data.scene_cache"),
        ({"scenes": 1.5, "scene_cache": "c"}, "scenes"),
        ({"scenes": 0.5, "scene_cache": "c", "scene_size": 31}, "scene_size is 31"),
        ({"count": 0}, "count is 0; it must be"),
        ({"val_each": 99}, "val_each is 99"),
        ({"evening": 0.5, "degradations": ["low"]}, "add clear"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(folder, **settings)


def test_folders_without_images_and_equal_names_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").touch()
    with pytest.raises(UserError, match="text holds no images"):
        module(tmp_path / "text").train_set()
    with pytest.raises(UserError, match="no images to validate on"):
        module(folder, val_shipped=False).val_set()
    Image.new("RGB", (9, 9)).save(folder / "forest1.bmp")
    with pytest.raises(UserError, match=r"two images in .* are named forest1"):
        module(folder).train_set()


def test_the_fingerprint_covers_every_setting_of_the_samples(folder: Path, tmp_path: Path) -> None:
    def fingerprint(**settings) -> str:
        data = module(folder, **settings)
        data.prepare_data()
        data.setup("fit")
        return data.fingerprint()

    changed = [{}, {"seed": 2}, {"weights": {"clear": 2.0}}, {"scale": (0.5, 1.0)}, {"evening": 0.2}, {"val_each": 1}]
    changed += [scenes(tmp_path, 0.5), scenes(tmp_path, 0.6), {"degradations": ["low"]}]
    made = [fingerprint(**settings) for settings in changed]
    assert len(set(made)) == len(made) and fingerprint(num_workers=1) == made[0]
