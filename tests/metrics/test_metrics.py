import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_msssim
import torch
from scipy import ndimage
from scipy.signal import windows
from skimage import data
from torch import nn

from tests.metrics.golden import PAIRS, degrade, luma_yiq_rounded, tensor
from tests.processes import process_context
from tests.results import two_ranks
from unildiff.cli.main import main
from unildiff.data.images import write_png
from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.names import check_names, metric_settings
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.registry import load_scorers
from unildiff.metrics.structural import gmsd, ms_ssim
from unildiff.utils.errors import UserError


def test_one_process_and_two_agree_on_an_odd_number_of_images(tmp_path):
    context = process_context()
    ranks = [context.Process(target=two_ranks.run, args=(rank, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(600)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    alone = two_ranks.results(range(two_ranks.IMAGES))
    for rank in range(2):
        together = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert together["parts"] == pytest.approx(alone["parts"], abs=1e-12)
        assert together["rows"] == alone["rows"]
        assert [row["name"] for row in together["rows"]] == ["3", "0", "1", "2", "4"]  # haze before low


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics warns about a metric without updates
def test_by_degradation_by_hand():
    # Off by 10 levels: 20 log10(25.5) = 28.13 dB; off by 1: 48.13 dB; the third is identical: left out of PSNR.
    gt = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    restored = gt + torch.tensor([10, 1, 0], dtype=torch.uint8).view(3, 1, 1, 1)
    metric = DegradationMetrics("onerestore")
    metric.update(restored, gt, ["low", "rain", "rain"])
    metric.update(restored[:1], gt[:1], ["low"])
    result = metric.compute()
    assert result["psnr/low"] == pytest.approx(28.1308, abs=1e-4)
    assert result["psnr/rain"] == pytest.approx(48.1308, abs=1e-4)
    assert result["psnr/avg"] == pytest.approx(38.1308, abs=1e-4)  # over degradations, not over images
    assert (result["count/low"], result["count/rain"], result["count/all"]) == (2, 2, 4)
    assert set(result) == {f"{a}/{b}" for a in ("psnr", "ssim", "count") for b in ("low", "rain")} | {
        "psnr/avg",
        "ssim/avg",
        "count/all",
    }
    metric.reset()
    assert metric.compute() == {"count/all": 0}


def test_by_degradation_wants_a_name_for_each_image():
    gt = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 images, but 1 degradation names"):
        DegradationMetrics().update(gt, gt, ["low"])


@pytest.mark.parametrize("shape", [(176, 200), (177, 181)], ids=["even", "odd"])
def test_ms_ssim_is_pytorch_msssim_with_exact_taps(shape):
    truth = data.astronaut()[: shape[0], : shape[1]]
    x, y = tensor(degrade(truth)), tensor(truth)
    taps = torch.from_numpy(windows.gaussian(11, 1.5))  # the library's own are rounded to float32: 3e-6 in the result
    taps = (taps / taps.sum()).expand(3, 1, 1, 11)
    theirs = pytorch_msssim.ms_ssim(x.double(), y.double(), data_range=255, win=taps).item()
    assert ms_ssim(x, y, PROTOCOLS["onerestore"]).item() == pytest.approx(theirs, abs=1e-9)
    luma = [torch.from_numpy(luma_yiq_rounded(z).astype(np.float64))[None, None] for z in (degrade(truth), truth)]
    theirs = pytorch_msssim.ms_ssim(*luma, data_range=255, win=taps[:1]).item()
    assert ms_ssim(x, y, PROTOCOLS["pyiqa-y"]).item() == pytest.approx(theirs, abs=1e-9)


def test_ms_ssim_of_inverse_images_is_zero_not_nan_and_small_ones_are_refused():
    truth = tensor(data.astronaut()[:176, :176])
    assert ms_ssim(255 - truth, truth, PROTOCOLS["onerestore"]).item() == 0
    with pytest.raises(ValueError, match=r"160x200 .* too small for MS-SSIM"):
        ms_ssim(*[torch.zeros(1, 3, 160, 200, dtype=torch.uint8)] * 2, PROTOCOLS["onerestore"])


def gmsd_by_definition(x, y):
    """Xue et al. 2013 on planes in 0..255 as pyiqa has it: rounded luma, halved without a last odd row or column."""

    def gradient(z):
        z = z[: z.shape[0] // 2 * 2, : z.shape[1] // 2 * 2].astype(np.float64)
        z = (z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4
        rows, columns = (ndimage.prewitt(z, axis, mode="constant") / 3 for axis in (0, 1))
        return np.hypot(rows, columns)

    gx, gy = gradient(x), gradient(y)
    return ((2 * gx * gy + 170) / (gx**2 + gy**2 + 170)).std()


@pytest.mark.parametrize("pair", ["photograph", "photograph, tall", "tiny", "identical", "black and white"])
def test_gmsd_is_its_definition_on_rounded_luma(pair):
    expected = gmsd_by_definition(*map(luma_yiq_rounded, PAIRS[pair]))
    assert gmsd(*map(tensor, PAIRS[pair]), PROTOCOLS["basicsr-y"]).item() == pytest.approx(expected, abs=1e-6)


class Contrast(nn.Module):
    """Stands in for one of pyiqa's networks: a reference metric where ``mode`` is FR."""

    def __init__(self, mode):
        super().__init__()
        self.metric_mode = mode

    def forward(self, x, y=None):
        return (x - (0 if y is None else y)).abs().mean((1, 2, 3))


@pytest.fixture
def pyiqa(monkeypatch):
    """The interface of pyiqa 0.1.16 with two metrics that need no weights."""
    configs = {
        "ssimc": {"metric_opts": {"type": "SSIM", "test_y_channel": False}, "metric_mode": "FR"},
        "topiq_nr": {"metric_opts": {"type": "CFANet"}, "metric_mode": "NR", "lower_better": False},
        "niqe": {"metric_opts": {"type": "NIQE"}, "metric_mode": "NR", "lower_better": True},
        "ilniqe": {"metric_opts": {"type": "ILNIQE"}, "metric_mode": "NR", "lower_better": True},
        "sfid": {"metric_opts": {"type": "FID"}, "metric_mode": "NR"},
    }
    package = SimpleNamespace(create_metric=lambda name, device: Contrast(configs[name]["metric_mode"]))
    monkeypatch.setitem(sys.modules, "pyiqa", package)
    monkeypatch.setitem(sys.modules, "pyiqa.default_model_configs", SimpleNamespace(DEFAULT_CONFIGS=configs))
    monkeypatch.setattr("unildiff.metrics.names.version", lambda _: "0.1.16")


def test_any_name_of_pyiqa_is_a_metric(pyiqa, tmp_path, capsys):
    names = ["ssimc", "topiq_nr", "pyiqa:niqe"]
    scorers, unavailable = load_scorers(names, PROTOCOLS["onerestore"])
    assert list(scorers) == names and not unavailable
    x, y = (tensor(z) for z in PAIRS["photograph"])
    assert scorers["ssimc"](x, y).item() == pytest.approx((x / 255 - y / 255).abs().mean().item(), abs=1e-6)
    assert scorers["topiq_nr"](x, y).item() == pytest.approx((x / 255).mean().item(), abs=1e-6)
    ssim, niqe = metric_settings(["psnr", "ssimc", "niqe"])
    assert ssim.startswith("ssimc: pyiqa 0.1.16 ssimc (type=SSIM, test_y_channel=False)")
    assert niqe.endswith("lower is better")
    assert DegradationMetrics("onerestore", names).unavailable == {}
    write_png(tmp_path / "out" / "a.png", PAIRS["photograph"][0])
    write_png(tmp_path / "gt" / "a.png", PAIRS["photograph"][1])
    assert main(["score", str(tmp_path / "out"), str(tmp_path / "gt"), "--metrics", "ssimc", "niqe"]) == 0
    printed = capsys.readouterr().out
    assert ssim in printed and niqe in printed
    with pytest.raises(UserError, match="metric of a set"):
        check_names(["sfid"])


def test_a_metric_of_pyiqa_alone_ranks_bundles(pyiqa, tmp_path, monkeypatch, capsys):
    write_png(tmp_path / "gt" / "a.png", PAIRS["photograph"][1])
    for name, factor in (("bright", 1), ("dark", 2)):
        write_png(tmp_path / name / "a.png", PAIRS["photograph"][0] // factor)
        folders = [str(tmp_path / name), str(tmp_path / "gt")]
        assert main(["score", *folders, "--metrics", "ilniqe", "--bundle", str(tmp_path / f"all/{name}.zip")]) == 0
    monkeypatch.setitem(sys.modules, "pyiqa.default_model_configs", None)  # the reader need not have it
    assert main(["leaderboard", str(tmp_path / "all"), "--out", str(tmp_path / "board.html")]) == 0
    page = (tmp_path / "board.html").read_text()
    assert "<th>ilniqe</th>" in page and page.index("dark.zip") < page.index("bright.zip")  # lower is better
    pair = [str(tmp_path / f"all/{name}.zip") for name in ("bright", "dark")]
    assert main(["compare", *pair, "--metrics", "ilniqe"]) == 0
    assert "ilniqe, second minus first (lower is better)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [(["lipps"], "did you mean 'lpips'.*pip install"), (["psnr", "psnr"], "listed twice"), ([], "no metric given")],
)
def test_wrong_names_get_one_line(names, message):
    with pytest.raises(UserError, match=message):
        check_names(names)
