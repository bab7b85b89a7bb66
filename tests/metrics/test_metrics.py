import math
import pickle

import piq
import pytest
import pytorch_msssim
import torch
from skimage import data
from torchmetrics.functional.image import peak_signal_noise_ratio

from tests.metrics.golden import PAIRS, degrade, tensor
from tests.processes import process_context
from tests.results import two_ranks
from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.gmsd import gmsd
from unildiff.metrics.ms_ssim import ms_ssim
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.metrics.registry import METRICS, check_names
from unildiff.metrics.ssim import ssim
from unildiff.metrics.torch_metrics import PSNR, SSIM, PictureMean
from unildiff.utils.errors import UserError


@pytest.fixture(scope="module")
def batches():
    """Batches of 2, 2 and 1 pictures, each with its own noise."""
    truth = tensor(data.astronaut()[:64, :80])
    noisy = torch.cat([tensor(degrade(data.astronaut()[:64, :80], seed)) for seed in range(5)])
    noisy[3] = (noisy[3].int() * 3 // 4).to(torch.uint8)
    return [(part, truth.expand(len(part), -1, -1, -1)) for part in noisy.split(2)]


def test_mean_of_per_picture_values_whatever_the_batches(batches):
    metric, structure = PSNR("onerestore"), SSIM("onerestore")
    for restored, gt in batches:
        metric.update(restored, gt)
        structure.update(restored, gt)
    restored, gt = (torch.cat(part) for part in zip(*batches, strict=True))
    theirs = peak_signal_noise_ratio(restored / 255, gt / 255, data_range=1.0, dim=(1, 2, 3))  # per-picture mean
    pooled = peak_signal_noise_ratio(restored / 255, gt / 255, data_range=1.0)
    assert metric.compute().item() == pytest.approx(theirs.item(), abs=1e-4)
    assert abs(metric.compute().item() - pooled.item()) > 0.5  # the convention matters here
    assert structure.compute().item() == pytest.approx(ssim(restored, gt, PROTOCOLS["onerestore"]).mean().item())
    assert metric.count.item() == 5


def test_memory_does_not_grow_with_the_pictures(batches):
    metric = PSNR()
    states = {name: getattr(metric, name).shape for name in metric._defaults}
    for restored, gt in batches * 3:
        metric.update(restored, gt)
    assert {name: getattr(metric, name).shape for name in metric._defaults} == states == dict.fromkeys(states, ())


def test_identical_pictures_are_counted_and_left_out_or_capped(batches):
    restored, gt = batches[0]
    for name, mean in (("onerestore", psnr(restored, gt, PROTOCOLS["onerestore"]).mean().item()), ("unildiff", None)):
        metric = PSNR(name)
        metric.update(restored, gt)
        metric.update(gt[:1], gt[:1])
        if mean is None:  # capped at 80 dB and in the mean
            mean = (2 * psnr(restored, gt, PROTOCOLS[name]).mean().item() + 80) / 3
        assert metric.compute().item() == pytest.approx(mean, abs=1e-9)
        assert (metric.count.item(), metric.identical.item()) == (3, 1)
    alone = PSNR("onerestore")
    alone.update(gt, gt)
    assert alone.compute().item() == math.inf


def test_forward_gives_the_batch_and_keeps_the_total(batches):
    metric = SSIM("moceir")
    values = [metric(restored, gt).item() for restored, gt in batches]
    assert len(set(values)) == 3
    weighted = sum(value * len(restored) for value, (restored, _) in zip(values, batches, strict=True)) / 5
    assert metric.compute().item() == pytest.approx(weighted)
    metric.reset()
    assert metric.count.item() == 0


def test_one_process_and_two_agree_on_an_odd_number_of_pictures(tmp_path):
    context = process_context()
    ranks = [context.Process(target=two_ranks.run, args=(rank, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(600)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    alone = two_ranks.results(range(two_ranks.PICTURES))
    for rank in range(2):
        together = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert together["psnr"] == pytest.approx(alone["psnr"], abs=1e-12)
        assert together["ssim"] == pytest.approx(alone["ssim"], abs=1e-12)
        assert together["parts"] == pytest.approx(alone["parts"], abs=1e-12)
        assert together["counts"] == alone["counts"] == [5, 4, 1]
        assert together["rows"] == alone["rows"]
        assert [row["name"] for row in together["rows"]] == ["3", "0", "1", "2", "4"]  # haze before low


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # torchmetrics says so of a metric that saw nothing
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
    assert result["psnr/avg"] == pytest.approx(38.1308, abs=1e-4)  # over degradations, not over pictures
    assert (result["count/low"], result["count/rain"], result["count/all"]) == (2, 2, 4)
    assert set(result) == {f"{a}/{b}" for a in ("psnr", "ssim", "count") for b in ("low", "rain")} | {
        "psnr/avg",
        "ssim/avg",
        "count/all",
    }
    metric.reset()
    assert metric.compute() == {"count/all": 0}


def test_by_degradation_wants_a_name_for_each_picture():
    gt = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 pictures, but 1 degradation names"):
        DegradationMetrics().update(gt, gt, ["low"])


@pytest.mark.parametrize("shape", [(176, 200), (177, 181)], ids=["even", "odd"])
def test_ms_ssim_is_pytorch_msssim(shape):
    truth = data.astronaut()[: shape[0], : shape[1]]
    x, y = tensor(degrade(truth)), tensor(truth)
    taps = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / 4.5)  # its own are in single precision
    window = (taps / taps.sum()).expand(3, 1, 1, 11)
    theirs = pytorch_msssim.ms_ssim(x.double(), y.double(), data_range=255, win=window).item()
    assert ms_ssim(x, y, PROTOCOLS["onerestore"], torch.float64).item() == pytest.approx(theirs, abs=1e-10)
    assert ms_ssim(x, y, PROTOCOLS["onerestore"]).item() == pytest.approx(theirs, abs=1e-6)


def test_ms_ssim_of_inverse_pictures_is_zero_not_nan_and_small_ones_are_refused():
    truth = tensor(data.astronaut()[:176, :176])
    assert ms_ssim(255 - truth, truth, PROTOCOLS["onerestore"]).item() == 0
    with pytest.raises(ValueError, match=r"160x200 .* too small for MS-SSIM"):
        ms_ssim(*[torch.zeros(1, 3, 160, 200, dtype=torch.uint8)] * 2, PROTOCOLS["onerestore"])


@pytest.mark.parametrize("pair", ["photograph", "photograph, tall", "tiny", "identical", "black and white"])
def test_gmsd_is_piq(pair):
    x, y = (tensor(z) for z in PAIRS[pair])
    theirs = piq.gmsd(x.double() / 255, y.double() / 255, reduction="none").item()
    assert gmsd(x, y, PROTOCOLS["onerestore"], torch.float64).item() == pytest.approx(theirs, abs=1e-6)
    assert gmsd(x, y, PROTOCOLS["onerestore"]).item() == pytest.approx(theirs, abs=1e-5)


def test_metrics_by_name(batches):
    restored, gt = batches[0]
    for name in ("psnr", "ssim", "gmsd"):
        metric = PictureMean(name, "moceir")
        metric.update(restored, gt)
        assert metric.compute().item() == metric.per_picture(restored, gt).mean().item()
        assert metric.higher_is_better == METRICS[name].higher_is_better
    with pytest.raises(ValueError, match="fid is a number of a whole set"):
        PictureMean("fid")


@pytest.mark.parametrize(
    ("names", "message"),
    [(["lipps"], "did you mean 'lpips'"), (["psnr", "psnr"], "asked for twice"), ([], "no metric asked for")],
)
def test_wrong_names_get_one_line(names, message):
    with pytest.raises(UserError, match=message):
        check_names(names)
