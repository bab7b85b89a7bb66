"""The identity study trains, resumes where it was stopped, and scores what it trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studies import identity


def test_a_short_run_resumes_and_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        Image.fromarray(draw.integers(0, 256, (40, 48, 3), np.uint8)).save(tmp_path / split / "0.png")
    monkeypatch.setattr(identity, "NAF_PARAMETERS", 0)
    monkeypatch.setattr(identity, "SHAPE", {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4})
    line = [str(tmp_path), "--settings", "none", "pixels", "naf", "--crop", "32", "--batch_size", "2"]
    line += ["--run_dir", str(tmp_path / "run")]
    assert identity.main(["score", *line]) == 2  # before there is a VAE
    steps = []
    for minutes in ("0.001", "0.01"):
        assert identity.main(["train", *line, "--minutes", minutes]) == 0
        steps.append(torch.load(tmp_path / "run" / "pixels.pt", weights_only=True)["step"])
    assert 0 < steps[0] < steps[1]
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert list(rows) == ["vae", "none", "pixels", "naf"] and rows["pixels"]["steps"] == steps[1]
    assert rows["none"]["DAEM parameters"] == 0 < rows["pixels"]["DAEM parameters"]
    assert all(5 < row[f"PSNR, {kind}"] < 60 for row in rows.values() for kind in ("clean", "rain"))
