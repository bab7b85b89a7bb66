"""A folder of one's own."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.folder import FolderDataModule
from tests.fake_trees.pictures import pair, save, scene
from unildiff.utils.errors import UserError


def module(root: Path, **settings) -> FolderDataModule:
    return FolderDataModule(str(root), num_workers=0, **settings)


def test_predict_takes_every_picture_keeps_names_and_reports_the_broken(tmp_path):
    for name in ("a.png", "b.jpg", "deep/er/a.png"):
        save(tmp_path / name, scene(1, (10, 14)))
    (tmp_path / "broken.png").write_text("?")
    (tmp_path / "notes.txt").write_text("not a picture")
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
    assert len(train) == 3 and (train[5]["lq"] == train[5]["gt"] + 40).all()


def test_two_stars_go_through_folders_and_links(tmp_path):
    root = tmp_path / "set"
    pair(root, "day/one/lq/a.png", "day/one/gt/a.png", 1)
    pair(root, "lq/b.png", "gt/b.png", 2)
    pair(tmp_path, "elsewhere/lq/c.png", "elsewhere/gt/c.png", 3)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "day")  # a folder of its own already
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
    with pytest.raises(UserError, match=r"alone\.png .and 1 more findings.; mend them"):
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
        (tmp_path / "some", "test", r"no pictures match 'gt/\*' in .*some; give other patterns"),
        (tmp_path / "some", "fit", r"no train pairs; give --data\.train_lq"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            module(root).setup(stage)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="rule: no 'order'; choose from same, prefix"):
        module(tmp_path, rule="order")


def test_only_broken_pictures_is_said(tmp_path):
    (tmp_path / "a.png").write_text("?")
    with pytest.raises(UserError, match="the predict set is empty"):
        module(tmp_path).setup("predict")
