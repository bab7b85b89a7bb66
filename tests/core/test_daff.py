from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.small import draw
from unildiff.core.daff import DAFF, FusionConfig
from unildiff.diffusion.noise import KeyedNoise

CONFIG = FusionConfig(hidden_size=16, num_heads=2, mlp_ratio=2)


def daff(config: FusionConfig = CONFIG) -> DAFF:
    """Return a fusion whose output projection is not zero."""
    torch.manual_seed(0)
    module = DAFF(config, latent_channels=8, lq_channels=16, text_dim=12)
    torch.nn.init.normal_(module.output.weight, std=0.1)
    return module


def residual(module: DAFF, hidden: Tensor, lq: Tensor, text: Tensor, timesteps: Tensor | None = None) -> Tensor:
    if timesteps is None:
        timesteps = torch.full((len(hidden),), 500)
    return module(hidden, timesteps, module.prepare(lq, text)).residual


def inputs(height: int = 6, width: int = 4, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return draw(batch, 8, height, width), draw(batch, 16, height, width, seed=1), draw(batch, 5, 12, seed=2)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, token_experts=3, token_top_k=2)], ids=["mlp", "experts"])
@torch.no_grad()
def test_a_batch_equals_its_samples_one_by_one(config: FusionConfig) -> None:
    module, timesteps = daff(config), torch.tensor([10, 900])
    hidden, lq, text = inputs()
    together = residual(module, hidden, lq, text, timesteps)
    for index in range(2):
        one = slice(index, index + 1)
        alone = residual(module, hidden[one], lq[one], text[one], timesteps[one])
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_input_affects_the_output() -> None:
    module, (hidden, lq, text) = daff(), inputs()
    output = residual(module, hidden, lq, text)
    assert output.shape == hidden.shape
    for changed in (
        residual(module, hidden + 0.5 * draw(2, 8, 6, 4, seed=5), lq, text),
        residual(module, hidden, lq + draw(2, 16, 6, 4, seed=6), text),
        residual(module, hidden, lq, text + draw(2, 5, 12, seed=7)),
        residual(module, hidden, lq, text, torch.tensor([100, 100])),
    ):
        assert (changed - output).abs().max() > 1e-3


@torch.no_grad()
def test_positions_link_each_lq_token_to_its_latent() -> None:
    # Without positions a permutation of all tokens commutes with the fusion; with RoPE it does not.
    hidden, lq, text = inputs(batch=1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))

    def moved(x: Tensor) -> Tensor:
        return x.flatten(2)[..., order].view_as(x)

    for rope, commutes in ((False, True), (True, False)):
        module = daff(replace(CONFIG, rope=rope))
        difference = residual(module, moved(hidden), moved(lq), text) - moved(residual(module, hidden, lq, text))
        assert (difference.abs().max() < 1e-5) == commutes


@pytest.mark.parametrize("height, width", [(6, 4), (5, 7), (1, 3)])
@torch.no_grad()
def test_patches_cover_sides_they_do_not_divide(height: int, width: int) -> None:
    module = daff(replace(CONFIG, patch_size=2))
    hidden, lq, text = inputs(height, width)
    context = module.prepare(lq, text)
    assert context.lq_tokens.shape == (2, -(-height // 2) * -(-width // 2), 16)
    assert module(hidden, torch.tensor([1, 2]), context).residual.shape == hidden.shape


@torch.no_grad()
def test_patches_return_to_their_positions() -> None:
    module = daff(replace(CONFIG, patch_size=2))
    hidden = draw(2, 8, 6, 4)
    assert torch.equal(module._image(module._tokens(hidden), hidden.shape[-2:]), hidden)


@torch.no_grad()
def test_gate_is_reported_per_sample_and_follows_the_timestep() -> None:
    module, (hidden, lq, text) = daff(), inputs()
    output = module(hidden, torch.tensor([10, 900]), module.prepare(lq, text))
    assert output.gate is not None and output.gate.shape == (2,)
    assert output.gate[0] != output.gate[1] and (output.gate > 0).all()
    assert not output.routings


def test_token_experts_route_every_token_with_noise_only_in_training() -> None:
    module = daff(replace(CONFIG, token_experts=4))
    hidden, lq, text = inputs()
    context = module.prepare(lq, text)
    silent = module(hidden, torch.tensor([1, 2]), context)
    noisy = module(hidden, torch.tensor([1, 2]), context, KeyedNoise([1, 2]))
    for first, second in zip(silent.routings, noisy.routings, strict=True):  # LQ tokens, latent tokens
        assert first.logits.shape == (2 * 24, 4) and first.noise_std == 0
        assert second.noise_std == 0.25
        xi = (second.noisy_logits - second.logits) / 0.25
        assert abs(xi.mean()) < 0.3 and 0.8 < xi.std() < 1.2
    streams = [(routing.noisy_logits - routing.logits) for routing in noisy.routings]
    assert not torch.allclose(streams[0], streams[1])


@torch.no_grad()
def test_a_sequence_joins_the_streams_in_the_single_block_and_the_latent_half_continues() -> None:
    """FLUX: the single block sees 2 L tokens of width D; channels: L tokens of width 2 D."""
    (hidden, lq, text), step = inputs(), torch.tensor([10, 900])
    shapes = []
    for merge in ("channels", "sequence"):
        module = daff(replace(CONFIG, merge=merge, num_double_blocks=0))
        module.single_blocks[0].register_forward_pre_hook(lambda block, args: shapes.append(tuple(args[0].shape)))
        residual = module(hidden, step, module.prepare(lq, text)).residual
        other = module(hidden, step, module.prepare(lq.flip(1), text)).residual
        assert residual.shape == hidden.shape and (residual - other).abs().max() > 1e-4
    assert shapes[0] == (2, 24, 32) and shapes[2] == (2, 48, 16)
    # Without a block that joins the streams, the latent half does not depend on the LQ image.
    apart = daff(replace(CONFIG, merge="sequence", num_double_blocks=0, num_single_blocks=0))
    first, second = (apart(hidden, step, apart.prepare(each, text)).residual for each in (lq, lq.flip(1)))
    assert torch.equal(first, second)


@torch.no_grad()
def test_positions_of_a_sequence_are_those_of_the_image() -> None:
    """Turning the image by half a turn turns the result: only differences of positions count, and both streams share them."""
    module = daff(replace(CONFIG, merge="sequence"))
    (hidden, lq, text), step = inputs(), torch.tensor([10, 900])
    out = module(hidden, step, module.prepare(lq, text)).residual
    shifted = module(hidden.flip(2, 3), step, module.prepare(lq.flip(2, 3), text)).residual.flip(2, 3)
    assert not torch.allclose(out, shifted, atol=1e-4)  # rotation angles are signed
    unaware = daff(replace(CONFIG, merge="sequence", rope=False))
    out = unaware(hidden, step, unaware.prepare(lq, text)).residual
    shifted = unaware(hidden.flip(2, 3), step, unaware.prepare(lq.flip(2, 3), text)).residual.flip(2, 3)
    torch.testing.assert_close(out, shifted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_beyond_the_trained_grid_are_scaled_down_to_it() -> None:
    (hidden, lq, text), step = inputs(6, 4), torch.tensor([10, 900])
    plain, fits, scaled = (daff(replace(CONFIG, rope_grid=grid)) for grid in (0, 6, 3))
    expected = plain(hidden, step, plain.prepare(lq, text)).residual
    assert torch.equal(fits(hidden, step, fits.prepare(lq, text)).residual, expected)
    assert not torch.equal(scaled(hidden, step, scaled.prepare(lq, text)).residual, expected)
    angles = scaled.prepare(lq, text).angles
    # Six rows on a grid of three: every second row has the angles of a row of the trained grid.
    trained = daff(replace(CONFIG, rope_grid=0)).prepare(lq[..., :3, :2], text).angles
    assert angles is not None and trained is not None
    torch.testing.assert_close(angles.view(6, 4, -1)[::2, ::2], trained.view(3, 2, -1))
