import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from tests.metrics.golden import PAIRS, centre_crop, luma_bt601, luma_yiq, psnr_by_definition, tensor
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def expected_under(name, x, y):
    if name in ("unildiff", "promptir", "moceir", "instructir"):
        x, y = centre_crop(x, 16), centre_crop(y, 16)
    if name == "daclip":
        x, y = x[4:-4, 4:-4], y[4:-4, 4:-4]
    if name in ("diffuir", "basicsr-y"):
        return psnr_by_definition(luma_bt601(x), luma_bt601(y), 255)
    if name == "pyiqa-y":  # on 0..1, so that the epsilon counts
        return psnr_by_definition(luma_yiq(x) / 255, luma_yiq(y) / 255, 1, 1e-8)
    return psnr_by_definition(x / 255, y / 255, 1, 1e-8 if name in ("unildiff", "foundir") else 0)


@DTYPES
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_golden_value_of_each_protocol(name, pair, dtype):
    x, y = PAIRS[pair]
    value = psnr(tensor(x), tensor(y), PROTOCOLS[name], dtype)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected_under(name, x, y), abs=TOLERANCE[dtype])


@pytest.mark.parametrize("pair", ["photograph", "tiny", "noise", "black and white"])
def test_equal_to_scikit_image_and_torchmetrics(pair):
    x, y = PAIRS[pair]
    value = psnr(tensor(x), tensor(y), PROTOCOLS["onerestore"]).item()
    assert value == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), abs=1e-10)
    theirs = torchmetrics_psnr(tensor(x) / 255, tensor(y) / 255, data_range=1.0, dim=(1, 2, 3))
    assert value == pytest.approx(theirs.item(), abs=1e-4)


def test_by_hand():
    # All pixels 3 levels off: mse 9, 20 log10(255 / 3) = 38.5884 dB. Luma "bt601" shrinks it by 219/255.
    x, y = (torch.full((1, 3, 32, 32), level, dtype=torch.uint8) for level in (200, 203))
    assert psnr(x, y, PROTOCOLS["onerestore"]).item() == pytest.approx(38.5884, abs=1e-4)
    assert psnr(x, y, PROTOCOLS["diffuir"]).item() == pytest.approx(38.5884 - 20 * math.log10(219 / 255), abs=1e-4)


def test_identical_images_are_capped_or_infinite_as_the_protocol_says():
    x = tensor(PAIRS["photograph"][1])
    for protocol in PROTOCOLS.values():
        assert psnr(x, x, protocol).item() == pytest.approx(protocol.identical_psnr)


def test_floats_are_clamped_and_rounded_as_the_protocol_says():
    y = torch.full((1, 3, 32, 32), 1.0)
    x = torch.full((1, 3, 32, 32), 1.2)  # clamped to 1: identical
    assert psnr(x, y, PROTOCOLS["promptir"]).item() == math.inf
    x = torch.full((1, 3, 32, 32), 1 - 0.4 / 255)  # rounds to 255 in 8 bits; 20 log10(255 / 0.4) = 56.09 dB in floats
    assert psnr(x, y, PROTOCOLS["onerestore"]).item() == math.inf
    assert psnr(x, y, PROTOCOLS["promptir"]).item() == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-3)
    assert psnr(x.to(torch.bfloat16), y.to(torch.bfloat16), PROTOCOLS["onerestore"]).item() == math.inf


def test_floats_and_bytes_may_be_mixed():
    x, y = (tensor(z) for z in PAIRS["photograph"])
    expected = psnr(x, y, PROTOCOLS["promptir"]).item()
    assert psnr(x / 255, y, PROTOCOLS["promptir"]).item() == pytest.approx(expected, abs=1e-4)


def test_one_value_an_image():
    x = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    y = x.clone()
    y[1] = 10  # 20 log10(25.5) = 28.13 dB
    values = psnr(x, y, PROTOCOLS["daclip"])
    assert values.tolist() == [math.inf, pytest.approx(20 * math.log10(25.5))]


GOOD = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("restored", "gt", "message"),
    [
        (GOOD * 2 - 1, GOOD * 2 - 1, "restored: floats must be in .0, 1., found -1"),
        (GOOD, GOOD * 2 - 1, "gt: floats must be in"),
        (GOOD * 255, GOOD, "restored: floats must be in .0, 1., found 0.*255"),
        (GOOD * torch.nan, GOOD, "restored: floats must be in .0, 1., found nan"),
        ((GOOD * 255).int(), GOOD, "restored: expected uint8, or floats"),
        (GOOD[0], GOOD[0], "expected RGB images"),
        (GOOD[:, :1], GOOD[:, :1], "expected RGB images"),
        (GOOD.permute(0, 2, 3, 1), GOOD, "channels last"),
        (GOOD[:1], GOOD, "must be the same size"),
        (GOOD[..., :-1], GOOD, "must be the same size"),
    ],
    ids=["-1..1", "gt -1..1", "0..255 floats", "nan", "int32", "3-D", "grey", "channels last", "batch", "size"],
)
def test_anything_but_images_is_refused(restored, gt, message):
    with pytest.raises(ValueError, match=message):
        psnr(restored, gt, PROTOCOLS["unildiff"])


def test_gradients_are_not_needed():
    x = GOOD.clone().requires_grad_()
    assert not psnr(x, GOOD, PROTOCOLS["promptir"]).requires_grad
