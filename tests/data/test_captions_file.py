"""Captions beside the data."""

import json
from pathlib import Path

import pytest

from datamodules.cdd11 import CDD11DataModule
from datamodules.folder import FolderDataModule
from tests.fake_trees import cdd11
from unildiff.data.captions import Captions
from unildiff.errors import UserError


def write(path: Path, **captions: str) -> None:
    path.write_text("".join(json.dumps({"file": file, "caption": text}) + "\n" for file, text in captions.items()))


def test_the_degraded_pictures_caption_wins_over_the_clean_ones(tmp_path):
    cdd11.write(tmp_path, "moceir inside", "test", scenes=1)
    write(tmp_path / "captions.jsonl", **{"test/clear/00001.png": "a cat", "test/low/00001.png": "a dog"})
    samples = CDD11DataModule(str(tmp_path)).test_set()
    assert {samples[i]["degradation"]: samples[i]["caption"] for i in range(3)} == {
        "low": "a dog",
        "haze": "a cat",
        "rain": "a cat",
    }


def test_a_given_file_is_used_and_a_missing_one_said(tmp_path, caplog):
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


@pytest.mark.parametrize("line", ["no json", '{"file": "a.png"}', "[1]"])
def test_broken_lines_are_named(tmp_path, line):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file": "a.png", "caption": "x"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=r"captions\.jsonl line 3"):
        Captions.read(path)
