import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from benchmarks.brightness import REACH, local_means, oracles, report


def picture(seed: int) -> Tensor:
    return torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(seed))


def test_local_means_are_scipys_inside_and_count_nothing_beyond_the_edges() -> None:
    values = picture(0)
    means = local_means(values).numpy()
    inner = slice(REACH // 2, -(REACH // 2))
    expected = np.stack([uniform_filter(each, REACH, mode="constant") for each in values.numpy()])
    np.testing.assert_allclose(means[:, inner, inner], expected[:, inner, inner], atol=1e-5)
    corner = values[:, : REACH // 2 + 1, : REACH // 2 + 1].mean(dim=(1, 2))
    np.testing.assert_allclose(means[:, 0, 0], corner, atol=1e-5)


def test_oracles_take_away_a_wrong_exposure_and_a_slow_drift() -> None:
    truth = (picture(1) * 100 + 60).to(torch.uint8)
    exact = truth.float() / 127.5 - 1
    darker = exact - 40 / 127.5
    as_it_is, exposed, brightened = oracles(darker, truth)
    assert torch.equal(as_it_is.float(), truth.float() - 40)
    assert torch.equal(exposed, truth) and torch.equal(brightened, truth)
    drift = torch.linspace(-20, 20, 70)[None, None] / 127.5
    _, exposed, brightened = oracles(exact + drift, truth)
    inner = slice(REACH // 2, -(REACH // 2))  # a straight line is its own mean where nothing is cut off
    assert (brightened[..., inner].float() - truth[..., inner].float()).abs().max() <= 1
    assert (exposed.float() - truth.float()).abs().max() >= 19


def test_report_says_what_daem_adds_with_and_without_the_truths_brightness() -> None:
    values = {"input": 10.0, "plain decoder": 15.0, "plain decoder+exposure": 16.0, "plain decoder+brightness": 20.0}
    values |= {"DAEM": 15.5, "DAEM+exposure": 17.0, "DAEM+brightness": 22.0}
    scores = {row: {name: {"psnr": value} for name in ("low", "avg")} for row, value in values.items()}
    lines = report(scores).splitlines()  # type: ignore[arg-type]
    worth = {line[:26].strip(): line[26:].split() for line in lines if line.startswith("worth")}
    assert worth == {
        "worth of DAEM": ["0.50", "0.50"],
        "worth of DAEM+exposure": ["1.00", "1.00"],
        "worth of DAEM+brightness": ["2.00", "2.00"],
    }


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.brightness import main

    assert main(["--model", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("brightness: error: model: no file or folder nowhere")
