from functools import cache, partial

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage import data
from skimage.metrics import structural_similarity

from tests.metrics.golden import (
    PAIRS,
    centre_crop,
    degrade,
    luma_bt601,
    luma_yiq_rounded,
    ssim_by_definition,
    tensor,
)
from unildiff.metrics.protocols import PROTOCOLS, Protocol
from unildiff.metrics.ssim import SSIMSettings, similarity_and_contrast, ssim, training_ssim, window_taps

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
ALL_PAIRS = pytest.mark.parametrize("pair", PAIRS)


def scikit_image(x, y, **options):
    return structural_similarity(x / 255, y / 255, data_range=1.0, channel_axis=2, **options)


@DTYPES
@ALL_PAIRS
@pytest.mark.parametrize("window", ["uniform7", "gaussian11"])
@pytest.mark.parametrize("sample", [True, False], ids=["sample", "population"])
def test_equal_to_scikit_image_in_each_flavour_that_it_offers(pair, window, sample, dtype):
    x, y = PAIRS[pair]
    expected = scikit_image(x, y, gaussian_weights=window == "gaussian11", use_sample_covariance=sample)
    protocol = Protocol("flavour", colour="rgb", source="test", window=window, sample_covariance=sample)
    value = ssim(tensor(x), tensor(y), protocol, dtype)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, abs=TOLERANCE[dtype])


@cache
def expected_for_pair(name, pair):
    return expected_under(name, *PAIRS[pair])


def expected_under(name, x, y):
    """Each protocol's number from scikit-image, or written out where scikit-image does not offer it."""
    if name in ("promptir", "moceir"):
        return scikit_image(centre_crop(x, 16), centre_crop(y, 16), gaussian_weights=name == "moceir")
    if name == "moceir-cdd11":
        return scikit_image(x, y, gaussian_weights=True)
    if name == "onerestore":
        return scikit_image(x, y)
    if name == "diffuir":
        return ssim_by_definition(luma_bt601(x), luma_bt601(y), edges="replicate")
    if name == "basicsr-y":
        return ssim_by_definition(luma_bt601(x), luma_bt601(y))
    if name in ("pyiqa-y", "foundir"):
        return ssim_by_definition(luma_yiq_rounded(x), luma_yiq_rounded(y), clip=True)
    cut = (lambda z: centre_crop(z, 16)) if name in ("unildiff", "instructir") else (lambda z: z[4:-4, 4:-4])
    x, y = cut(x), cut(y)
    return np.mean([ssim_by_definition(x[..., c], y[..., c], clip=name == "unildiff") for c in range(3)])


@DTYPES
@ALL_PAIRS
@pytest.mark.parametrize("name", PROTOCOLS)
def test_golden_value_of_each_protocol(name, pair, dtype):
    x, y = PAIRS[pair]
    value = ssim(tensor(x), tensor(y), PROTOCOLS[name], dtype).item()
    assert value == pytest.approx(expected_for_pair(name, pair), abs=TOLERANCE[dtype])


def test_protocols_differ_on_the_same_image_by_what_their_flavours_differ():
    x, y = PAIRS["photograph"]
    values = {name: ssim(tensor(x), tensor(y), protocol).item() for name, protocol in PROTOCOLS.items()}
    assert values["promptir"] - values["moceir"] > 5e-3  # uniform against Gaussian about 0.014
    assert abs(values["moceir"] - values["unildiff"]) > 1e-5  # sample against population covariance
    assert values["basicsr-y"] - values["unildiff"] > 0.05  # Y against RGB


@DTYPES
@pytest.mark.parametrize("name", ["onerestore", "moceir", "diffuir", "pyiqa-y"])
def test_the_engine_for_other_devices_gives_the_numbers_of_the_cpu_engine(name, dtype):
    from unildiff.metrics.preprocessing import prepare

    protocol = PROTOCOLS[name]
    for x, y in PAIRS.values():
        planes = [prepare(tensor(z), protocol, dtype, protocol.ssim_rounds_luma).double() for z in (x, y)]
        other = similarity_and_contrast(*planes, SSIMSettings.of(protocol))[0].mean()
        here = ssim(tensor(x), tensor(y), protocol, dtype).item()
        assert other.item() == pytest.approx(here, abs=TOLERANCE[dtype])


def test_the_training_loss_has_the_value_and_the_gradients_of_pytorch_msssim():
    x, y = (tensor(z).float() / 255 for z in PAIRS["photograph"])
    found = []
    for measure in (training_ssim, partial(pytorch_msssim.ssim, data_range=1.0)):
        restored = x.clone().requires_grad_()
        value = measure(restored, y)
        value.backward()
        found.append((value.item(), restored.grad))
    (ours, slope), (theirs, expected) = found
    assert ours == pytest.approx(theirs, abs=1e-5)
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("size", [7, 11])
def test_an_image_of_one_window_has_one_position(size):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    name = "onerestore" if size == 7 else "basicsr-y"
    value = ssim(tensor(x), tensor(y), PROTOCOLS[name], torch.float64).item()
    assert value == pytest.approx(expected_under(name, x, y), abs=1e-10)


@pytest.mark.parametrize(("name", "size"), [("onerestore", 6), ("basicsr-y", 10), ("daclip", 18)])
def test_an_image_smaller_than_the_window_is_refused(name, size):
    small = torch.zeros(1, 3, size, 40, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"smaller than the .* SSIM window of protocol '{name}'"):
        ssim(small, small, PROTOCOLS[name])


def test_an_image_smaller_than_the_crop_is_refused():
    small = torch.zeros(1, 3, 15, 40, dtype=torch.uint8)
    with pytest.raises(ValueError, match="15x40 is too small for protocol 'promptir': centre crop to 16"):
        ssim(small, small, PROTOCOLS["promptir"])


def test_replicated_edges_need_no_minimum_size():
    x, y = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    value = ssim(tensor(x), tensor(y), PROTOCOLS["diffuir"], torch.float64).item()
    assert value == pytest.approx(expected_under("diffuir", x, y), abs=1e-10)


def test_batches_layouts_and_floats_give_the_same_numbers_per_image():
    truth = data.astronaut()[:130, :150]
    restored = np.stack([degrade(truth, seed) for seed in range(3)])
    single = torch.cat([ssim(tensor(z), tensor(truth), PROTOCOLS["moceir"]) for z in restored])
    x = torch.from_numpy(restored).permute(0, 3, 1, 2)  # channels last in memory, as the data modules hand them over
    y = tensor(truth).expand(3, -1, -1, -1)
    assert torch.equal(ssim(x, y, PROTOCOLS["moceir"]), single)
    assert torch.equal(ssim(x.contiguous(), y.contiguous(), PROTOCOLS["moceir"]), single)
    floats = ssim(x / 255, y / 255, PROTOCOLS["moceir"])
    assert torch.allclose(floats, single, rtol=0, atol=1e-6)
    assert len(set(single.tolist())) == 3


def test_eight_bit_protocols_round_floats_and_float_protocols_do_not():
    x, y = PAIRS["photograph"]
    third = (tensor(x).double() + 0.3).clamp(max=255) / 255  # a third of a level up: rounds back
    rounded = ssim(third, tensor(y), PROTOCOLS["onerestore"], torch.float64)
    assert torch.equal(rounded, ssim(tensor(x), tensor(y), PROTOCOLS["onerestore"], torch.float64))
    flat = torch.full((1, 3, 32, 32), 100.3 / 255, dtype=torch.float64)
    truth = torch.full((1, 3, 32, 32), 100 / 255, dtype=torch.float64)
    value = ssim(flat, truth, PROTOCOLS["promptir"], torch.float64).item()
    c1 = 0.01**2  # flat: luminance term alone, (2ab + C1) / (a^2 + b^2 + C1)
    a, b = 100.3 / 255, 100 / 255
    assert value == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-12)


def test_symmetric_and_one_for_identical_images():
    x, y = PAIRS["photograph"]
    for protocol in PROTOCOLS.values():
        there, back = (ssim(tensor(a), tensor(b), protocol, torch.float64).item() for a, b in ((x, y), (y, x)))
        assert there == pytest.approx(back, abs=1e-12)
        assert ssim(tensor(y), tensor(y), protocol).item() == pytest.approx(1, abs=1e-7)


def test_taps_are_the_windows():
    assert window_taps("uniform7").tolist() == [1 / 7] * 7
    taps = window_taps("gaussian11")
    assert taps.sum() == pytest.approx(1, abs=1e-15)
    assert taps[5] / taps[4] == pytest.approx(np.exp(1 / 4.5))  # one pixel out: exp(-1 / (2 1.5^2))
