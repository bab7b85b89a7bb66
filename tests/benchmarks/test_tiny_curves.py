import csv
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks.tiny_curves import LOSSES, averaged, main
from unildiff.results.curves import Curve


def test_stretches_are_means_at_their_last_step() -> None:
    kept = averaged(Curve(np.arange(6.0), np.array([1.0, 3, 5, 7, 10, 20])), 3)
    assert kept.steps.tolist() == [1, 3, 5] and kept.values.tolist() == [2, 6, 15]
    assert len(averaged(kept, 3).steps) == 3


def test_runs_become_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "docs" / "curves"
    assert main(["--runs", str(tmp_path), "--out", str(out)]) == 2
    assert "no curve of the loss of fit_vae" in capsys.readouterr().err
    for run, tag in LOSSES.items():
        with SummaryWriter(str(tmp_path / run / "curves")) as writer:
            for step in range(3):
                writer.add_scalar(tag, 0.5 - 0.1 * step, step)
                writer.add_scalar("routing/load", 1, step)
            writer.add_scalar("val/psnr/avg", 20.0, 2)
    assert main(["--runs", str(tmp_path), "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert {row["run"] for row in rows} == set(LOSSES) and {row["curve"] for row in rows if row["run"] == "joint"} == {
        "loss/diffusion",
        "val/psnr/avg",
    }
    assert next(row["value"] for row in rows if row["curve"] == "val/psnr/avg") == "20"
    assert out.with_suffix(".png").stat().st_size > 5000


def test_a_run_without_its_loss_leaves_the_files_of_an_earlier_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, tag in LOSSES.items():
        with SummaryWriter(str(tmp_path / run / "curves")) as writer:
            writer.add_scalar("val/psnr/avg" if run == "joint" else tag, 1.0, 1)
    (tmp_path / "curves.csv").write_text("earlier")
    assert main(["--runs", str(tmp_path), "--out", str(tmp_path / "curves")]) == 2
    assert "no curve of the loss of joint in" in capsys.readouterr().err
    assert (tmp_path / "curves.csv").read_text() == "earlier"
