from pathlib import Path

import pytest

from benchmarks import caption_worth
from tests.small import small_model


def test_each_caption_is_swapped_for_the_next_different_one() -> None:
    swapped = caption_worth.others_captions(["a cat", "a dog", "a cat", "a hat"])
    assert swapped == {"a cat": "a dog", "a dog": "a hat", "a hat": "a cat"}


def test_captions_reach_the_model_and_without_guidance_an_empty_one_is_guidance_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model().save_folder(tmp_path)
    arguments = ["--model", str(tmp_path), "--validation", "--steps", "1", "--every", "17", "--guidance", "1", "5"]
    assert caption_worth.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    numbers = {line[:26].strip(): float(line.split()[-4]) for line in lines if "PSNR" in line}
    assert len(numbers) == 7
    assert numbers["none, guidance 1"] == numbers["none, guidance 5"]  # nothing to guide by
    assert len({numbers[f"{name}, guidance 5"] for name in ("own", "none", "another's")}) > 1


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert caption_worth.main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("caption_worth: error: model: no file or folder nowhere")
