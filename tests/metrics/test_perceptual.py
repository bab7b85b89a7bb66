"""Networks with made-up weights: the real ones cannot be fetched in a test, what is done with them can be checked."""

import sys
from types import SimpleNamespace
from urllib.error import URLError

import lpips
import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from torch import nn

from tests.metrics.golden import PAIRS, tensor
from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.fid import FID
from unildiff.metrics.names import METRICS
from unildiff.metrics.perceptual import MetricUnavailable, dists_scorer, lpips_scorer
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.registry import load_scorers, make_scorer
from unildiff.results.evaluator import Evaluator

RGB, LUMA = PROTOCOLS["onerestore"], PROTOCOLS["basicsr-y"]
NETWORKS = ["lpips", "lpips_vgg", "dists", "musiq", "maniqa", "clipiqa", "niqe"]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as if not installed
    for init in ("normal_", "kaiming_normal_", "kaiming_uniform_", "uniform_", "trunc_normal_"):
        monkeypatch.setattr(f"torch.nn.init.{init}", lambda parameter, *_, **__: parameter)  # seconds for VGG-16


@pytest.fixture
def alexnet(monkeypatch):
    """AlexNet's convolutions with seeded random weights in place of the download."""

    def features(pretrained):
        assert pretrained, "random weights requested"
        torch.manual_seed(0)
        layers = []
        for i, (c_in, c_out, k, stride, pad) in enumerate(
            [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        ):
            layers += [nn.Conv2d(c_in, c_out, k, stride, pad), nn.ReLU()] + [nn.MaxPool2d(3, 2)] * (i < 2)
        return SimpleNamespace(features=nn.Sequential(*layers))

    monkeypatch.setattr(torchvision.models, "alexnet", features)


@pytest.fixture
def vgg16(monkeypatch):
    def features(weights):
        assert weights is not None
        torch.manual_seed(0)
        return SimpleNamespace(features=torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], False))

    monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", features)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_weights_a_metric_says_so_by_name_and_becomes_no_other(name, offline):
    scorers, unavailable = load_scorers(["psnr", name], RGB)
    assert list(scorers) == ["psnr"]
    assert list(unavailable) == [name]
    expected = "pip install 'unildiff.iqa.'" if METRICS[name].kind == "alone" else "could not be fetched.*no network"
    with pytest.raises(MetricUnavailable, match=f"^{name}: .*{expected}") as caught:
        make_scorer(name, RGB)
    assert "\n" not in str(caught.value)


def test_an_unavailable_metric_has_an_empty_column(offline, tmp_path):
    evaluator = Evaluator("onerestore", ["psnr", "lpips"])
    x, y = (tensor(z)[0] for z in PAIRS["photograph"])
    evaluator.add("a", "low", x, y)
    evaluator.write_csv(tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == "name,degradation,psnr,lpips"
    assert lines[1].startswith("a,low,2") and lines[1].endswith(",")
    assert "could not be fetched" in evaluator.unavailable["lpips"]


def test_lpips_is_the_package_on_rgb_in_minus_one_to_one(alexnet):
    x, y = (tensor(z) for z in PAIRS["photograph"])
    direct = lpips.LPIPS(net="alex", verbose=False).eval()
    with torch.no_grad():
        expected = direct(x / 127.5 - 1, y / 127.5 - 1).item()
    assert expected > 0
    assert lpips_scorer("alex", RGB)(x, y).item() == pytest.approx(expected, rel=1e-4)
    assert lpips_scorer("alex", LUMA)(x, y).item() == pytest.approx(expected, rel=1e-4)  # RGB whatever PSNR is on
    assert lpips_scorer("alex", RGB)(y, y).item() == 0


def test_networks_follow_the_protocols_crop_and_are_shared_between_protocols(alexnet):
    x, y = (tensor(z) for z in PAIRS["photograph"])
    scorer = lpips_scorer("alex", RGB)
    cropped = scorer.under(PROTOCOLS["daclip"])
    assert cropped(x, y).item() == scorer(x[..., 4:-4, 4:-4], y[..., 4:-4, 4:-4]).item() != scorer(x, y).item()
    assert cropped.network is scorer.network


def test_networks_judge_each_image_of_a_batch_and_train_nothing(alexnet):
    x, y = (tensor(z) for z in PAIRS["photograph"])
    metric = DegradationMetrics(RGB, ["lpips"])
    metric.update(torch.cat((x, y)), torch.cat((y, y)), ["noisy", "same"])
    values = metric.compute()
    assert values["lpips/same"] == 0 < values["lpips/noisy"]
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    assert len(list(metric.parameters())) > 10  # the network is a part of the metric: it moves with it


def test_dists_is_torchmetrics(vgg16):
    from torchmetrics.functional.image import deep_image_structure_and_texture_similarity

    x, y = (tensor(z)[..., :64, :64] for z in PAIRS["photograph"])
    both = torch.cat((x, y)), torch.cat((y, y))
    expected = deep_image_structure_and_texture_similarity(*(z / 255 for z in both))
    values = dists_scorer(RGB)(*both)
    assert values.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert values[1].item() == pytest.approx(0, abs=1e-5)
    assert dists_scorer(RGB)(x, y).shape == (1,)


def test_no_reference_metrics_look_at_the_restored_image_alone(monkeypatch):
    class Brightness(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3), keepdim=True)[..., 0]

    asked = []
    fake = SimpleNamespace(create_metric=lambda name, device: asked.append(name) or Brightness())
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    x, y = (tensor(z) for z in PAIRS["photograph"])
    assert make_scorer("musiq", LUMA)(x, y).item() == pytest.approx((x / 255).mean().item(), abs=1e-6)
    make_scorer("maniqa", RGB), make_scorer("clipiqa", RGB)
    assert asked == ["musiq", "maniqa-pipal", "clipiqa+"]


class MeanColour(nn.Module):
    num_features = 3

    def forward(self, x):
        return x.double().mean((2, 3)) / 255


def test_fid_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    gt = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    restored = torch.randint(0, 200, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    fid = FID(RGB, feature=MeanColour())
    fid.set_dtype(torch.float64)
    for x, y in zip(restored.split(3), gt.split(3), strict=True):
        fid.update(x / 255, y / 255)
    a, b = (MeanColour()(z).numpy() for z in (restored, gt))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert fid.compute().item() == pytest.approx(expected, abs=1e-6)


def test_fid_without_its_network_says_so(offline, monkeypatch):
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(MetricUnavailable, match=r"^fid: needs a package"):
        FID(RGB)
