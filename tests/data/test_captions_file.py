"""Captions beside the data."""

import json
from pathlib import Path

import pytest

from datamodules.cdd11 import CDD11DataModule
from datamodules.derain import DerainDataModule
from datamodules.folder import FolderDataModule
from tests.fake_trees import cdd11, rain
from unildiff.cli.commands.restore import _captions
from unildiff.data.captions import Captions
from unildiff.data.tools.pack_writer import pack_set
from unildiff.utils.errors import UserError


def write(path: Path, **captions: str) -> None:
    path.write_text("".join(json.dumps({"file": file, "caption": text}) + "\n" for file, text in captions.items()))


def test_the_degraded_images_caption_wins_over_the_clean_ones(tmp_path):
    cdd11.write(tmp_path, "moceir inside", "test", scenes=1)
    write(tmp_path / "captions.jsonl", **{"test/clear/00001.png": "a cat", "test/low/00001.png": "a dog"})
    samples = CDD11DataModule(str(tmp_path)).test_set()
    assert {samples[i]["degradation"]: samples[i]["caption"] for i in range(3)} == {
        "low": "a dog",
        "haze": "a cat",
        "rain": "a cat",
    }


def test_a_given_file_is_used_and_a_missing_one_reported(tmp_path, caplog):
    cdd11.write(tmp_path, "moceir inside", "test", scenes=1)
    caplog.set_level("INFO")
    assert CDD11DataModule(str(tmp_path)).test_set()[0]["caption"] == ""
    assert f"no captions.jsonl in {tmp_path}: every caption is empty" in caplog.text
    write(tmp_path / "mine.jsonl", **{"test/clear/00001.png": "a cat"})
    assert CDD11DataModule(str(tmp_path), captions=str(tmp_path / "mine.jsonl")).test_set()[0]["caption"] == "a cat"
    with pytest.raises(UserError, match=r"captions: .*absent\.jsonl"):
        CDD11DataModule(str(tmp_path), captions=str(tmp_path / "absent.jsonl")).test_set()


def test_one_degradations_folder_finds_the_captions_of_the_whole(tmp_path, monkeypatch):
    cdd11.write(tmp_path, "moceir inside", "test", scenes=1)
    write(tmp_path / "captions.jsonl", **{"test/low/00001.png": "a dog"})
    monkeypatch.chdir(tmp_path / "test")
    assert FolderDataModule("low").predict_set()[0]["caption"] == "a dog"


def test_a_given_file_may_lie_elsewhere_but_must_be_of_the_images(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "mine.jsonl"
    for split in ("train", "test"):
        cdd11.write(root, "moceir inside", split, scenes=2)
    write(root / "captions.jsonl", **{"test/clear/00001.png": "a cat", "test/clear/00002.png": "a cow"})
    write(elsewhere, **{"test/clear/00001.png": "a dog"})
    pack_set("cdd11", root, tmp_path / "packed")
    for place in ({"root": str(root)}, {"packed": str(tmp_path / "packed")}):
        data = CDD11DataModule(degradations="low", captions=str(elsewhere), crop_size=8, **place)
        samples = data.test_set()
        assert [samples[i]["caption"] for i in range(2)] == ["a dog", ""]  # what lies with the data is not mixed in
        with pytest.raises(
            UserError, match=r"captions: .*mine\.jsonl names none of the 4 images .*; give the captions"
        ):
            data.train_set()
    folder = FolderDataModule(str(root / "test"), captions=str(elsewhere))
    with pytest.raises(UserError, match=r"captions: .*mine\.jsonl names none of"):
        folder.predict_set()


def test_captions_of_the_training_images_alone_are_enough_to_train(tmp_path, caplog):
    rain.write(tmp_path / "set", "unildiff", "train", count=3)
    rain.write(tmp_path / "set", "unildiff", "val", count=3)
    write(tmp_path / "mine.jsonl", **{f"train/rain/gt/{number}.png": "a dog" for number in (1, 2, 3)})
    data = DerainDataModule(root=str(tmp_path / "set"), captions=str(tmp_path / "mine.jsonl"), crop_size=8)
    data.setup("fit")
    assert data.listed_captions() == {"a dog", ""}
    assert "names none of the 6 images" in caplog.text
    caplog.clear()
    DerainDataModule(root=str(tmp_path / "set"), captions=str(tmp_path / "mine.jsonl")).setup("validate")
    assert "names none of the 6 images" in caplog.text and "every caption is empty" in caplog.text


def test_restore_takes_captions_from_elsewhere_or_says_that_they_are_of_others(tmp_path):
    (tmp_path / "photos").mkdir()
    write(tmp_path / "mine.jsonl", **{"a.png": "a dog"})
    photo = tmp_path / "photos" / "a.png"
    assert _captions(tmp_path / "photos", tmp_path / "mine.jsonl", [photo])(photo) == "a dog"
    with pytest.raises(UserError, match="names none of the 1 images"):
        _captions(tmp_path / "photos", tmp_path / "mine.jsonl", [tmp_path / "photos" / "b.png"])


@pytest.mark.parametrize(
    "line",
    ["no json", '{"file": "a.png"}', "[1]", '{"file": "a.png", "caption": null}', '{"file": 5, "caption": "x"}'],
)
def test_broken_lines_are_named(tmp_path, line):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file": "a.png", "caption": "x"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=r"captions\.jsonl line 3"):
        Captions.read(path)
