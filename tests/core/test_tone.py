from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tests.core.test_decoder import LQ, latents, skips_of
from tests.small import NETWORK, small_base, small_model
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import decode_latents
from unildiff.core.tone import SIDE, ToneCorrection, cell_means

TONE = replace(NETWORK, detail=replace(NETWORK.detail, tone=True))


def images(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("height, width", [(2 * SIDE, 3 * SIDE), (61, 100)])
def test_cells_are_means_over_areas(height: int, width: int) -> None:
    x = images(2, 3, height, width)
    expected = [cv2.resize(each.permute(1, 2, 0).numpy(), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in x]
    torch.testing.assert_close(
        cell_means(x), torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2), atol=1e-5, rtol=0
    )


def test_small_images_have_cells_within_a_pixel() -> None:
    x = images(1, 3, SIDE // 2, SIDE // 4)
    assert torch.allclose(cell_means(x), x.repeat_interleave(2, 2).repeat_interleave(4, 3), atol=1e-6)


@torch.no_grad()
def test_starts_as_the_identity() -> None:
    base = small_base()
    made = DetailDecoder(base.vae, TONE.detail)(latents(), skips_of(base), LQ)[0]
    assert torch.equal(made, decode_latents(base.vae, latents()))


@torch.no_grad()
def test_gain_leaves_black_and_both_may_change_from_row_to_row() -> None:
    tone = ToneCorrection()
    tone.output.bias.copy_(torch.tensor([0, 0.25, 0, 0.5, 0, -1, 0, 0, 0.5, 0, 0.25, 0, 100]))  # the factor is 1
    x = images(1, 3, 40, 56)
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    place = torch.linspace(-39 / 40, 39 / 40, 40)[:, None]  # middles of rows between -1 and 1
    expected = [(red + 1) * 1.5 - 1, green + 0.25 + 0.25 * place * (green + 1), 0.5 * place - 1 + 0 * blue]
    torch.testing.assert_close(tone(x, images(1, 3, 40, 56, seed=1)), torch.cat(expected, dim=1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_that_is_judged_clean_comes_back_as_it_is(dtype: torch.dtype) -> None:
    tone, x, lq = ToneCorrection(), images(2, 3, 30, 50).to(dtype), images(2, 3, 30, 50, seed=1).to(dtype)
    assert torch.equal(tone.to(dtype)(x, lq), x)  # an untrained gate keeps nothing
    tone.clean.output.bias.fill_(0)
    torch.testing.assert_close(tone(x, lq), (x + lq) / 2, atol=0.01, rtol=0)
    tone.clean.output.bias.fill_(3)
    assert torch.equal(tone(x, lq), lq)


@torch.no_grad()
def test_each_image_of_a_batch_is_judged_by_itself() -> None:
    decoder, skips = small_model(network=TONE).decoder, skips_of(small_base())
    both = decoder(latents(), skips, LQ)[0]
    alone = decoder(latents()[1:], [skip[1:] for skip in skips], LQ[1:])[0]
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)
    without = small_model().decoder
    without.load_state_dict(decoder.state_dict(), strict=False)
    assert (without(latents(), skips, LQ)[0] - both).abs().max() > 0.01


@torch.no_grad()
def test_half_precision_stays_close() -> None:
    tone = ToneCorrection()
    torch.nn.init.normal_(tone.output.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    x, lq = images(1, 3, 64, 96), images(1, 3, 64, 96, seed=1)
    expected = tone(x, lq)
    made = tone.bfloat16()(x.bfloat16(), lq.bfloat16())
    assert made.dtype == torch.bfloat16 and (expected - x).abs().max() > 0.02
    torch.testing.assert_close(made.float(), expected, atol=0.02, rtol=0)


def test_constant_images_have_finite_gradients() -> None:
    correction, image = ToneCorrection(), torch.full((1, 3, 48, 48), 0.25, requires_grad=True)
    torch.nn.init.normal_(correction.output.weight)
    correction(image, image * 1).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()


def test_training_on_crops_leaves_the_correction_as_it_is() -> None:
    decoder = small_model(network=TONE).decoder.train().requires_grad_(True)
    decoder.tone.output.bias.data[-1] = 100
    decoder(latents(), skips_of(small_base()), LQ)[0].square().mean().backward()
    assert all(each.grad is not None and not each.grad.any() for each in decoder.tone.parameters())
    assert all(each.grad.isfinite().all() for each in decoder.conv_out.parameters())
