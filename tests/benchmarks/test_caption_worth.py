from pathlib import Path
from typing import Any

import pytest

from benchmarks import caption_worth, held_out
from tests.small import small_model
from unildiff.weights.folder import save_model


def test_each_caption_is_swapped_for_another_one() -> None:
    swapped = caption_worth.others_captions(["a cat", "a dog", "a cat", "a hat"])
    assert swapped == {"a cat": "a dog", "a dog": "a hat", "a hat": "a cat"}


def test_captions_and_guidance_reach_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(small_model(), tmp_path)
    asked: list[tuple[str, str, float]] = []

    def latents_of(model: Any, sample: Any, settings: Any, caption: str) -> Any:
        asked.append((sample["caption"], caption, settings.guidance_scale))
        return held_out.latents_of(model, sample, settings, caption)

    monkeypatch.setattr(caption_worth, "latents_of", latents_of)
    arguments = ["--model", str(tmp_path), "--steps", "1", "--every", "17", "--guidance", "1", "50"]
    assert caption_worth.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = {line[:26].strip(): line[26:] for line in lines if "PSNR" in line}
    assert list(scores) == [
        "input", "none", "own, guidance 1", "another's, guidance 1", "own, guidance 50", "another's, guidance 50",
    ]  # fmt: skip
    # Printed digits tell captions apart where they are guided by; what is asked for, everywhere.
    assert len({scores[row] for row in ("none", "own, guidance 50", "another's, guidance 50")}) == 3
    assert len(asked) == 10
    for first in (0, 5):
        own = asked[first][0]
        other = asked[first + 2][1]
        assert own and other not in ("", own)
        assert asked[first : first + 5] == [
            (own, caption, guidance)
            for caption, guidance in (("", 1.0), (own, 1.0), (other, 1.0), (own, 50.0), (other, 50.0))
        ]


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert caption_worth.main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("caption_worth: error: model: no file or folder nowhere")


def test_steps_that_the_schedule_does_not_have_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small_model(), tmp_path)
    assert caption_worth.main(["--model", str(tmp_path), "--steps", "1001"]) == 2
    assert capsys.readouterr().err == (
        "caption_worth: error: steps: num_inference_steps is 1001; it must be in 1..1000\n"
    )
