"""Your own folder of images or pairs."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.folder import FolderDataModule
from tests.fake_trees.images import pair, save, scene
from unildiff.data.captions import Captions
from unildiff.data.datasets import EvalSet, PredictSet
from unildiff.data.pair import Pair
from unildiff.data.sources import FilePairs
from unildiff.utils.errors import UserError


def module(root: Path, **settings) -> FolderDataModule:
    return FolderDataModule(str(root), num_workers=0, **settings)


def test_predict_takes_every_image_keeps_names_and_reports_broken_files(tmp_path):
    for name in ("a.png", "b.jpg", "deep/er/a.png"):
        save(tmp_path / name, scene(1, (10, 14)))
    (tmp_path / "broken.png").write_text("?")
    (tmp_path / "notes.txt").write_text("not an image")
    data = module(tmp_path)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [batch["name"] for batch in batches] == [["a.png"], ["b.jpg"], ["deep/er/a.png"]]
    assert batches[0]["lq"].shape == (1, 3, 10, 14) and set(batches[0]) == {"lq", "caption", "name", "key"}
    assert len(data.skipped) == 1 and "broken.png" in data.skipped[0]
    with pytest.raises(UserError, match=r"broken\.png"):
        data = module(tmp_path, on_error="raise")
        data.setup("predict")
        list(data.predict_dataloader())


def test_what_has_no_ground_truth_is_restored_and_never_scored(tmp_path):
    save(tmp_path / "a.png", scene(1, (10, 14)))
    images = EvalSet(FilePairs([Pair("x", "x", "a", tmp_path / "a.png", None)]), Captions({}), 0)
    assert PredictSet(images)[0]["lq"].shape == (3, 10, 14)
    with pytest.raises(UserError, match=r"a\.png has no ground truth to score with"):
        images[0]


def test_pairs_by_patterns(tmp_path):
    for number in range(1, 12):
        pair(tmp_path, f"x/in/{number}_hazy.png", f"x/out/{number}.png", number)
    data = module(
        tmp_path,
        lq="x/in/*",
        gt="x/out/*",
        rule="prefix",
        degradation="haze",
        train_lq="x/in/1*",
        train_gt="x/out/*",
        crop_size=8,
    )
    assert data.counts() == {"haze": 11}
    samples, train = data.test_set(), data.train_set()
    assert all((samples[i]["lq"] == samples[i]["gt"] + 40).all() for i in range(11))
    assert len(train) == 2 and (train[5]["lq"] == train[5]["gt"] + 40).all()  # one of three is held out


def test_two_stars_go_through_folders_and_links(tmp_path):
    root = tmp_path / "set"
    pair(root, "day/one/lq/a.png", "day/one/gt/a.png", 1)
    pair(root, "lq/b.png", "gt/b.png", 2)
    pair(tmp_path, "elsewhere/lq/c.png", "elsewhere/gt/c.png", 3)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "day")  # the target is already a folder
    (root / "round").symlink_to(root)
    data = module(root, lq="**/lq/*", gt="**/gt/*.png", on_error="raise")
    below = [pair.lq.relative_to(root).as_posix() for pair in data.test_set().pairs]
    assert below == ["day/one/lq/a.png", "linked/lq/c.png", "lq/b.png"]
    assert module(root, lq="day/**/lq/a*", gt="da*/**/g?/*").counts() == {"folder": 1}
    for pattern, part in (("**foo/*", r"\*\*foo"), ("lq/a**", r"a\*\*")):
        with pytest.raises(UserError, match=rf"pattern .*: \*\* stands for folders and not in '{part}'") as error:
            module(root, lq=pattern).test_set()
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"pattern '\.': give it relative to"):
        module(root, lq=".").test_set()


def test_faults_are_left_out_and_noted(tmp_path):
    for name in ("a", "b", "c"):
        pair(tmp_path, f"lq/{name}.png", f"gt/{name}.png", 1)
    save(tmp_path / "lq/alone.png", scene(2))
    save(tmp_path / "gt/b.png", scene(2, (4, 4)))
    (tmp_path / "lq/c.png").write_bytes((tmp_path / "lq/c.png").read_bytes()[:-60])
    data = module(tmp_path)
    assert data.counts() == {"folder": 1}
    assert [any(name in line for line in data.skipped) for name in ("alone.png", "lq/b.png", "lq/c.png")] == [True] * 3
    with pytest.raises(UserError, match=r"alone\.png .and 1 more finding.; mend them"):
        module(tmp_path, on_error="raise").test_set()


def test_users_mistakes_get_one_line(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none/readme.txt").touch()
    save(tmp_path / "some/lq/a.png", np.zeros((4, 4, 3), np.uint8))
    for root, stage, message in [
        (tmp_path / "absent", "predict", "no such folder: .*absent; give the one that holds the images to restore"),
        (file, "predict", "not a folder but a file"),
        (tmp_path / "empty", "predict", "empty folder"),
        (tmp_path / "none", "predict", "no images in .*none"),
        (tmp_path / "some", "test", r"no images match 'gt/\*' in .*some; give other patterns"),
        (
            tmp_path / "some",
            "fit",
            r"no train pairs in .*some/train/lq and gt; move them there or give --data\.train_lq and --data\.train_gt",
        ),
    ]:
        with pytest.raises(UserError, match=message) as error:
            module(root).setup(stage)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="rule: no 'order'; choose from same, prefix"):
        module(tmp_path, rule="order")


def test_a_folder_of_only_broken_images_is_reported(tmp_path):
    (tmp_path / "a.png").write_text("?")
    with pytest.raises(UserError, match="the predict set is empty"):
        module(tmp_path).setup("predict")


def write_pairs(root: Path, *folders: str, names: str = "abcdefgh") -> None:
    for folder in folders:
        for number, name in enumerate(names):
            pair(root, f"{folder}/lq/{name}.png", f"{folder}/gt/{name}.png", number + ord(folder[0]))


def files(samples) -> list[str]:
    return sorted(f"{pair.gt.parent.parent.name}/{pair.name}" for pair in samples.pairs)


def test_validates_on_held_out_training_pairs_by_default(tmp_path, caplog):
    write_pairs(tmp_path, "train", "test")
    data = module(tmp_path, crop_size=8)
    data.setup("fit")
    train, val = files(data.training_samples()), files(data._made("val"))
    assert len(val) == 1 and sorted(train + val) == [f"train/{name}" for name in "abcdefgh"]
    assert "validation: 1 of 8 scenes held out of training" in caplog.text
    again = module(tmp_path, crop_size=8)
    again.setup("validate")
    assert files(again._made("val")) == val  # the same at every run
    assert data.counts() == {"folder": 8}
    assert len(module(tmp_path, val_scenes=3).val_set()) == 3
    assert len(module(tmp_path, val_scenes=0).train_set()) == 8


@pytest.mark.parametrize("given", [{}, {"val_lq": "valid/lq/*", "val_gt": "valid/gt/*"}])
def test_validates_on_its_own_pairs_if_it_has_any(tmp_path, given):
    write_pairs(tmp_path, "train", "valid" if given else "val")
    data = module(tmp_path, crop_size=8, **given)
    data.setup("fit")
    assert len(data.training_samples().pairs) == 8 and len(data._made("val")) == 8
    assert {pair.gt.parts[-3] for pair in data._made("val").pairs} == {"valid" if given else "val"}
    with pytest.raises(UserError, match="the val pairs need both patterns, val_lq and val_gt"):
        module(tmp_path, val_lq="val/lq/*").val_set()


def test_a_lack_of_validation_images_is_reported(tmp_path, caplog):
    write_pairs(tmp_path, "train", names="a")
    data = module(tmp_path, crop_size=8)
    data.setup("fit")
    assert "no validation: FolderDataModule has no validation images" in caplog.text
    with pytest.raises(UserError, match="has no validation images and holds none out of training; add some"):
        module(tmp_path).setup("validate")


def test_validation_images_are_centres_with_their_position(tmp_path):
    pair(tmp_path, "val/lq/a.png", "val/gt/a.png", 1)
    sample = module(tmp_path, val_crop=8).val_set()[0]
    assert (sample["gt"].permute(1, 2, 0).numpy() == scene(1)[2:10, 4:12]).all()
    assert (sample["original_size"], sample["crop"]) == ((12, 16), (2, 4))
    whole = module(tmp_path, val_crop=None).val_set()[0]
    assert whole["gt"].shape == (3, 12, 16) and "crop" not in whole


def test_equal_names_in_several_folders_pair_folder_by_folder(tmp_path):
    numbers = {}
    for number, place in enumerate(("one", "two", "three")):
        for name in ("001", "002"):
            numbers[f"scene_{place}", name] = 10 * number + int(name)
            pair(tmp_path, f"scene_{place}/input/{name}.png", f"scene_{place}/gt/{name}.png", 10 * number + int(name))
    data = module(tmp_path, lq="scene_*/input/*", gt="scene_*/gt/*", on_error="raise")
    samples = data.test_set()
    assert [(p.name, p.lq.parts[-3], p.gt.parts[-3]) for p in samples.pairs] == [
        (f"{place}_{name}", f"scene_{place}", f"scene_{place}")
        for place in ("one", "three", "two")
        for name in ("001", "002")
    ]
    assert all((samples[i]["lq"] == samples[i]["gt"] + 40).all() for i in range(6))
    # a missing partner is not searched in another folder, where the name means something else
    (tmp_path / "scene_one/gt/002.png").unlink()
    (tmp_path / "scene_two/input/002.png").unlink()
    with pytest.raises(UserError, match=r"scene_one/input/002\.png"):
        data = module(tmp_path, lq="scene_*/input/*", gt="scene_*/gt/*", on_error="raise")
        data.test_set()


def test_one_folder_of_ground_truth_pairs_with_several_degraded_ones(tmp_path):
    for number, place in enumerate(("day", "night")):
        pair(tmp_path, f"lq/{place}/{number}.png", f"gt/{number}.png", number)
    assert module(tmp_path, lq="lq/*/*", gt="gt/*", on_error="raise").counts() == {"folder": 2}
    assert module(tmp_path, lq="lq/**/*", gt="gt/**/*", on_error="raise").counts() == {"folder": 2}


def test_share_of_captioned_images(tmp_path, caplog):
    write_pairs(tmp_path, "test")
    (tmp_path / "captions.jsonl").write_text('{"file": "test/gt/a.png", "caption": "a cat"}\n')
    data = module(tmp_path)
    data.setup("test")
    assert data.captioned() == {"test": 1 / 8}
    assert "captions: 12% of the test images have one" in caplog.text
