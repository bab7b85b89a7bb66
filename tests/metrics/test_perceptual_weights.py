"""The real loading code of the learned metrics, to a number: the test writes backbone weights into the cache folder.

The weights are random, of the right shapes; only what the packages themselves ship (LPIPS' and DISTS' layer weights) is real.
"""

from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import lpips
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from tests.metrics.golden import PAIRS, tensor
from unildiff.cli.commands.score import score
from unildiff.metrics.fid import FID
from unildiff.metrics.perceptual import dists_scorer, lpips_scorer
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.registry import make_scorer

RGB = PROTOCOLS["onerestore"]
FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache folder, and no network; layers come without their random start, which takes seconds for VGG-16."""

    def refuse(*_, **__):
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    for init in ("normal_", "kaiming_normal_", "kaiming_uniform_", "uniform_", "trunc_normal_", "constant_"):
        monkeypatch.setattr(f"torch.nn.init.{init}", lambda parameter, *_, **__: parameter)
    folder = tmp_path / "hub" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def random_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights scaled so that activations neither vanish nor explode; what is not convolved is one number, expanded."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        if value.dim() == 4:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        else:
            constant = 1.0 if name.endswith(("running_var", "bn.weight")) else 0.01
            state[name] = torch.full((1,), constant).to(value.dtype).squeeze(0).expand(value.shape)
    return state


def write_backbone(hub: Path, name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):  # for its shapes alone
        network = getattr(torchvision.models, name)(weights=None)
    generator_state = random_state(network)
    torch.save(generator_state, hub / FILES[name])
    return generator_state


def lpips_by_hand(state, slices, heads, x, y):
    """Zhang et al. 2018, equation 1, layer by layer; x, y: (1, 3, H, W) in [-1, 1]."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    a, b = (x - shift) / scale, (y - shift) / scale
    total = 0.0
    for index, layers in enumerate(slices):
        for layer in layers:
            if isinstance(layer, tuple):
                number, stride, padding = layer
                weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
                a, b = (torch.relu(torch.conv2d(z, weight, bias, stride, padding)) for z in (a, b))
            else:
                a, b = (torch.max_pool2d(z, layer, 2) for z in (a, b))
        unit_a, unit_b = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (a, b))
        head = heads[f"lin{index}.model.1.weight"]
        total += torch.conv2d((unit_a - unit_b).square(), head).mean().item()
    return total


# (convolution's place in torchvision's `features`, stride, padding), or the side of a pooling window with stride 2.
ALEX = [[(0, 4, 2)], [3, (3, 1, 2)], [3, (6, 1, 1)], [(8, 1, 1)], [(10, 1, 1)]]
VGG = [
    [(0, 1, 1), (2, 1, 1)],
    [2, (5, 1, 1), (7, 1, 1)],
    [2, (10, 1, 1), (12, 1, 1), (14, 1, 1)],
    [2, (17, 1, 1), (19, 1, 1), (21, 1, 1)],
    [2, (24, 1, 1), (26, 1, 1), (28, 1, 1)],
]


@pytest.mark.parametrize(("net", "backbone", "slices"), [("alex", "alexnet", ALEX), ("vgg", "vgg16", VGG)])
def test_lpips_from_the_cache_is_its_equation(hub, net, backbone, slices):
    state = write_backbone(hub, backbone)
    x, y = (tensor(z) for z in PAIRS["photograph"])
    heads = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu", weights_only=True
    )
    expected = lpips_by_hand(state, slices, heads, x / 127.5 - 1, y / 127.5 - 1)
    scorer = lpips_scorer(net, RGB)
    assert scorer(x, y).item() == pytest.approx(expected, rel=1e-4) and expected > 1e-3
    assert scorer(y, y).item() == 0


def test_dists_from_the_cache(hub):
    write_backbone(hub, "vgg16")
    x, y = (tensor(z) for z in PAIRS["photograph"])
    scorer = dists_scorer(RGB)
    assert 0.001 < scorer(x, y).item() < 1
    assert scorer(y, y).item() == pytest.approx(0, abs=1e-5)


def test_score_prints_the_number(hub, tmp_path, capsys):
    state = write_backbone(hub, "alexnet")
    for folder, index in (("restored", 0), ("clean", 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(PAIRS["photograph"][index]).save(tmp_path / folder / "a.png")
    score(tmp_path / "restored", tmp_path / "clean", "onerestore", ["psnr", "lpips"], workers=1)
    x, y = (tensor(z) / 127.5 - 1 for z in PAIRS["photograph"])
    heads = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu", weights_only=True
    )
    expected = lpips_by_hand(state, ALEX, heads, x, y)
    assert f"{expected:.4f}" in capsys.readouterr().out


def test_fid_from_the_cache_is_its_formula(hub, monkeypatch):
    inception = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity (extra iqa)"
    )
    with monkeypatch.context() as patch, torch.device("meta"):  # for its shapes alone
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        shapes = inception.FeatureExtractorInceptionV3("shapes", ["64"])
    torch.save(random_state(shapes), hub / Path(inception.URL_INCEPTION_V3).name)
    fid = FID(RGB, feature=64)
    generator = torch.Generator().manual_seed(1)
    gt = torch.randint(0, 256, (5, 3, 48, 40), dtype=torch.uint8, generator=generator)
    restored = (gt // 2 + 20).to(torch.uint8)
    for a, b in zip(restored.split(2), gt.split(2), strict=True):
        fid.update(a, b)
    one, two = (fid.inception(z).double().numpy() for z in (restored, gt))
    covariances = np.cov(one.T), np.cov(two.T)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert fid.compute().item() == pytest.approx(expected, rel=1e-3, abs=1e-3) and expected > 0


@pytest.mark.skipif(find_spec("pyiqa") is None, reason="needs pyiqa (extra iqa)")
def test_niqe_from_the_cache(hub, tmp_path, monkeypatch):
    from pyiqa.archs import niqe_arch
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    model = {"mu_prisparam": rng.uniform(0, 1, (1, 36)), "cov_prisparam": np.eye(36)}
    savemat(tmp_path / "niqe.mat", model)
    monkeypatch.setattr(niqe_arch, "load_file_from_url", lambda *_, **__: str(tmp_path / "niqe.mat"))
    cat = tensor(np.tile(PAIRS["photograph"][1], (2, 2, 1)))  # NIQE's blocks are of 96x96
    assert make_scorer("niqe", RGB)(cat, cat).item() > 0
