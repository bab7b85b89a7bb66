from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from benchmarks.brightness import KINDS, REACH_PIXELS, local_means, main, oracles, report
from benchmarks.held_out import held_out, number, score
from benchmarks.tiny_goals import way
from tests.small import small_model
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.weights.folder import save_model
from unildiff.weights.load import load_restorer


def picture(seed: int) -> Tensor:
    return torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.6


def test_local_means_are_scipys_inside_and_count_nothing_beyond_the_edges() -> None:
    values = picture(0)
    means = local_means(values).numpy()
    half = REACH_PIXELS // 2
    expected = np.stack([uniform_filter(each, REACH_PIXELS, mode="constant") for each in values.numpy()])
    np.testing.assert_allclose(means[:, half:-half, half:-half], expected[:, half:-half, half:-half], atol=1e-5)
    np.testing.assert_allclose(means[:, 0, 0], values[:, : half + 1, : half + 1].mean(dim=(1, 2)), atol=1e-5)


def test_oracles_take_away_a_wrong_exposure_and_a_slow_drift() -> None:
    truth = picture(1)
    darker = truth - torch.tensor([0.3, 0.2, -0.1])[:, None, None]
    as_it_is, exposed, brightened = oracles(darker, truth)
    assert torch.equal(as_it_is, darker)
    torch.testing.assert_close(exposed, truth)
    torch.testing.assert_close(brightened, truth)
    drift = torch.linspace(-0.2, 0.2, 70)[None, None]
    _, exposed, brightened = oracles(truth + drift, truth)
    half = REACH_PIXELS // 2  # a straight line is its own mean where nothing is cut off
    torch.testing.assert_close(brightened[..., half:-half], truth[..., half:-half])
    torch.testing.assert_close(exposed, truth + drift)


def test_report_says_what_daem_adds_with_and_without_the_truths_brightness() -> None:
    values = {"input": 10.0, "after_joint": 15.0, "after_joint+exposure": 16.0, "after_joint+brightness": 20.0}
    values |= {"restored": 15.5, "restored+exposure": 17.0, "restored+brightness": 22.0}
    scores = {row: {name: {"psnr": value} for name in ("low", "avg")} for row, value in values.items()}
    lines = report(scores).splitlines()  # type: ignore[arg-type]
    worth = {line[:26].strip(): line[26:].split() for line in lines if line.startswith("worth")}
    assert worth == {
        "worth of DAEM": ["0.50", "0.50"],
        "worth of DAEM+exposure": ["1.00", "1.00"],
        "worth of DAEM+brightness": ["2.00", "2.00"],
    }


def test_rows_are_those_of_the_goals_and_oracles_are_ahead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small_model(), tmp_path)
    assert main(["--model", str(tmp_path), "--steps", "1", "--every", "17"]) == 0
    lines = capsys.readouterr().out.splitlines()
    psnr = {line[:26].strip(): float(line.split()[-1]) for line in lines[3:]}
    model, settings = load_restorer(str(tmp_path)), SamplingSettings(1, 5.0)
    goals = score(held_out("validation")[::17], lambda sample: way(model, sample, settings))
    for row in ("input", "after_joint", "restored"):
        assert psnr[row] == pytest.approx(number(goals[row], "psnr"), abs=0.006)
    for row in ("after_joint", "restored"):
        as_it_is, exposed, brightened = (psnr[row + kind] for kind in KINDS)
        assert as_it_is < exposed < brightened


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("brightness: error: model: no file or folder nowhere")
