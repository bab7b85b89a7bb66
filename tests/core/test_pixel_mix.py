import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from skimage.measure import block_reduce

from tests.core.test_decoder import LQ, latents, skips_of
from tests.small import NETWORK, small_base, small_model
from unildiff.core.daem import DetailConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, decode_latents


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Means of 8x8 pixels and straight lines between their centres, by scikit-image and NumPy."""
    return between_cells(np.stack([block_reduce(image.numpy(), (1, 8, 8), np.mean) for image in x]), x.shape[2:])


def between_cells(means: np.ndarray, size: Sequence[int]) -> torch.Tensor:
    for axis in (2, 3):
        places = (np.arange(size[axis - 2]) + 0.5) / 8 - 0.5
        along = partial(np.interp, places, np.arange(means.shape[axis]))
        means = np.apply_along_axis(along, axis, means)
    return torch.from_numpy(means).float()


@torch.no_grad()
def test_finest_level_changes_the_image_after_the_last_norm() -> None:
    base = small_base()
    config = DetailConfig(width=8, kernel_sizes=(3, 5), to_pixels=True)
    decoder, plain = DetailDecoder(base.vae, config), decode_latents(base.vae, latents())
    skips = skips_of(base)
    assert torch.equal(decoder(latents(), skips, LQ)[0], plain)  # starts as the VAE's decoder, as without it
    assert decoder.pixels is not None and decoder.pixels.output.bias is not None
    added, keep, detail = decoder.pixels.output.bias.view(9, -1).chunk(3)  # of each colour at each of p x p places
    for gates, expected in (
        ((0.25, 0, 0), plain + 0.25),  # only the brightness, which the decoder's last norm would remove
        ((0, 1, 0), blurred(LQ)),
        ((0, 0, 2), plain + 2 * (LQ - blurred(LQ))),
        ((0, 1, 1), LQ),  # a clean image stays unchanged
    ):
        for bias, gate in zip((added, keep, detail), gates, strict=True):
            bias.fill_(gate)
        torch.testing.assert_close(decoder(latents(), skips, LQ)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("logit, share", [(-2.5, 0), (0, 0.5), (1, 1.2 / (1 + math.exp(-1)) - 0.1), (2.5, 1)])
def test_brightness_can_be_kept(logit: float, share: float) -> None:
    base = small_base()
    decoder, plain = (
        DetailDecoder(base.vae, DetailConfig(width=8, kernel_sizes=(3, 5), to_pixels=True)),
        decode_latents(base.vae, latents()),
    )
    assert decoder.pixels is not None
    gate = decoder.pixels.brightness.output.bias
    torch.nn.init.constant_(gate, logit)
    image = decoder(latents(), skips_of(base), LQ)[0]
    # 4 x 6 cells of 8 x 8 pixels; the mean of those at most two away, fewer at the edge, and straight lines between them.
    error = np.stack([block_reduce(each.numpy(), (1, 8, 8), np.mean) for each in (LQ - plain).detach()])
    rows, columns = (np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 2 for n in error.shape[2:])
    means = (rows @ error @ columns) / (rows @ np.ones(error.shape) @ columns)
    smooth = between_cells(means, (32, 48))
    torch.testing.assert_close(image, plain + share * smooth, atol=1e-5, rtol=0)
    # At 0 and 1 too the gate learns: by the sigmoid's slope.
    image.sum().backward()
    sigmoid = 1 / (1 + math.exp(-logit))
    assert gate.grad is not None
    expected = sigmoid * (1 - sigmoid) * smooth.sum().item()
    assert gate.grad.item() == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_each_image_has_its_own_brightness_gate() -> None:
    decoder = small_model(network=replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))).decoder
    assert decoder.pixels is not None
    gate = decoder.pixels.brightness
    torch.manual_seed(0)
    torch.nn.init.normal_(gate.output.weight, std=3)
    torch.nn.init.zeros_(gate.output.bias)
    seen: list[torch.Tensor] = []
    shares: list[torch.Tensor] = []
    decoder.details[-1].register_forward_pre_hook(lambda module, args: seen.append(module.merged(*args[:2])))
    gate.register_forward_hook(lambda module, args, output: shares.append(output))
    lq = torch.stack([LQ[0], LQ[1] / 4 - 0.7])
    skips = LQEncoder(small_base().vae)(lq)[1]
    both = decoder(latents(), skips, lq)[0]
    # From the finest level's features, before its experts.
    values = torch.cat([seen[0].mean((2, 3)), seen[0].var((2, 3), unbiased=False).sqrt()], 1)
    logits = torch.nn.functional.silu(values @ gate.hidden.weight.T + gate.hidden.bias) @ gate.output.weight[0]
    torch.testing.assert_close(shares[0], (1.2 * torch.sigmoid(logits) - 0.1).clamp(0, 1), atol=1e-5, rtol=0)
    assert (shares[0][0] - shares[0][1]).abs() > 0.01 and ((shares[0] > 0) & (shares[0] < 1)).all()
    for index in range(2):
        own = slice(index, index + 1)
        alone = decoder(latents()[own], [skip[own] for skip in skips], lq[own])[0]
        torch.testing.assert_close(alone[0], both[index], atol=1e-5, rtol=0)
