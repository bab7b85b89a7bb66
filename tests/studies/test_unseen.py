"""Degradations that nothing trains on: each changes the image, and the costs of the judgement are those of kept images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.other_degradations import DEGRADATIONS, WEATHER, degrade
from studies.unseen import main
from tests.core.test_tone import TONE
from tests.small import small_model
from unildiff.weights.folder import save_model


def test_each_degradation_repeats_and_differs_from_image_to_image() -> None:
    image = np.random.default_rng(0).integers(40, 200, (48, 64, 3), np.uint8)
    assert set(WEATHER) < set(DEGRADATIONS)
    for name in DEGRADATIONS:
        first = degrade(image, name, 1)
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, degrade(image, name, 1))
        assert (first != image).any() and (first != degrade(image, name, 2)).any()


def test_a_model_that_judges_all_images_clean_returns_its_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)).save(tmp_path / "forest.png")
    model = small_model(network=TONE)
    model.decoder.tone.clean.output.bias.data.fill_(5)  # type: ignore[union-attr]
    save_model(model, tmp_path / "model")
    line = ["--model", str(tmp_path / "model"), "--photographs", str(tmp_path), "--steps", "1", "--every", "4"]
    assert main(line) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert len(rows) == len(DEGRADATIONS) + 1
    assert all(row[-4] == row[-2] != row[-3] for row in rows)
    assert rows[-1][-1] == str(len(DEGRADATIONS))
    assert main([*line, "--photographs", str(tmp_path / "none")]) == 2
