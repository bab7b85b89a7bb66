"""The decision between two versions: the paired difference by photograph, and a file that an interrupted run continues."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.validate import decision, main, summary
from tests.small import small_model
from unildiff.degradations.cdd11 import DEGRADATIONS
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_model


def rows(gain: dict[str, float]) -> dict[tuple[str, str], dict[str, float]]:
    names = [f"photo{number}" for number in range(8)]
    values = {"input_psnr": 14.0, "ssim": 0.5, "gmsd": 0.1}
    return {(d, n): {"psnr": 20 + gain.get(n, 0.0), **values} for d in (*DEGRADATIONS, "blur_2") for n in names}


def test_the_interval_over_photographs_decides() -> None:
    better = decision(rows({}), rows({f"photo{n}": 0.5 + 0.1 * n for n in range(8)}))
    assert better.startswith("PSNR, CDD-11's eleven, 88 images of 8 photographs: +0.850 dB")
    assert better.endswith("lower in 0: better")
    assert decision(rows({}), rows({"photo0": 4.0, "photo1": -3.0})).endswith("not decided")  # +0.12 dB in the mean
    assert decision(rows({f"photo{n}": 1.0 for n in range(8)}), rows({})).endswith("worse")
    with pytest.raises(UserError, match="no image in common"):
        decision(rows({}), {})
    clean = {("clear", f"photo{n}"): {"psnr": 40.0} for n in range(8)}
    kept = {key: {"psnr": 60.0} for key in clean}
    first, second = decision(rows({}) | clean, rows({}) | kept).splitlines()
    assert "+0.000 dB" in first and first.endswith("not decided")
    assert "with clean ones, 96 images" in second and "+1.667 dB" in second and second.endswith("better")
    text = summary(rows({}))
    assert "CDD-11's eleven" in text and "+6.00" in text


def test_an_interrupted_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photographs").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(
        tmp_path / "photographs" / "forest0.png"
    )
    save_model(small_model(), tmp_path / "model")
    command = ["--model", str(tmp_path / "model"), "--photographs", str(tmp_path / "photographs"), "--steps", "1"]
    command += ["--guidance", "1", "--out", str(tmp_path / "scores.csv")]
    assert main([*command, "--every", "30"]) == 0
    with (tmp_path / "scores.csv").open() as file:
        before = list(csv.DictReader(file))
    assert len(before) == 2  # of 4 photographs under 15 degradations
    assert main([*command, "--every", "20"]) == 0
    with (tmp_path / "scores.csv").open() as file:
        after = list(csv.DictReader(file))
    assert after[:2] == before and len(after) == 4
    assert main([*command, "--every", "20", "--against", str(tmp_path / "scores.csv")]) == 0
    assert main(["--photographs", str(tmp_path / "none"), "--out", str(tmp_path / "b.csv")]) == 2
    assert "unildiff data photographs" in capsys.readouterr().err
