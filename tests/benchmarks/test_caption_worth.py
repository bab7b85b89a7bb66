from pathlib import Path

import pytest

from benchmarks import caption_worth
from tests.small import small_model


def test_each_caption_is_swapped_for_another_one() -> None:
    swapped = caption_worth.others_captions(["a cat", "a dog", "a cat", "a hat"])
    assert swapped == {"a cat": "a dog", "a dog": "a hat", "a hat": "a cat"}


def test_captions_and_guidance_reach_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model().save_folder(tmp_path)
    arguments = ["--model", str(tmp_path), "--steps", "1", "--every", "17", "--guidance", "1", "50"]
    assert caption_worth.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = {line[:26].strip(): line[26:] for line in lines if "PSNR" in line}
    assert list(scores) == [
        "input", "none", "own, guidance 1", "another's, guidance 1", "own, guidance 50", "another's, guidance 50",
    ]  # fmt: skip
    del scores["another's, guidance 1"]  # too close to the others to show in the digits printed
    assert len(set(scores.values())) == 5


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert caption_worth.main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("caption_worth: error: model: no file or folder nowhere")
