from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import windows
from tests.small import small_model
from unildiff.weights.folder import save_model


def test_a_window_is_compared_alone_and_in_its_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that lights up what is small by 9 and leaves the whole but for one corner of its middle window alone."""
    save_model(small_model(), tmp_path)

    def restored_array(model: Any, picture: np.ndarray, *rest: Any) -> np.ndarray:
        if picture.shape[0] < 200:
            return picture + np.uint8(9)
        changed = picture.copy()
        changed[150, 200] += 101 * 75  # inside every window; by the mean of one of 101x75: 1 of 255
        return changed

    photograph = np.zeros((300, 400, 3), np.int64)
    monkeypatch.setattr(windows, "restored_array", restored_array)
    monkeypatch.setattr(windows, "clean_photographs", lambda which: {"black": (photograph, "nothing")})
    assert windows.main(["--model", str(tmp_path), "--steps", "1"]) == 0
    name, *cells = capsys.readouterr().out.splitlines()[-1].split()
    expected = [101 * 75 / (300 * 400)]
    for height, width in windows.WINDOWS:
        expected += [9, 101 * 75 / (height * width)]
    assert name == "black" and [float(cell) for cell in cells] == pytest.approx(expected, abs=0.005)


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert windows.main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("windows: error: model: no file or folder nowhere")
