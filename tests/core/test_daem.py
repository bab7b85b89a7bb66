from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import draw
from unildiff.core.daem import DetailConfig, DetailLevel, LevelStatistics
from unildiff.core.moe import Routing
from unildiff.diffusion.noise import KeyedNoise


def level(**settings: Any) -> DetailLevel:
    """Return a level of 4 decoder and 3 skip channels whose output projection is not zero."""
    torch.manual_seed(0)
    module = DetailLevel(DetailConfig(**{"width": 6, "kernel_sizes": (3, 5)} | settings), channels=4, skip_channels=3)
    torch.nn.init.normal_(module.output.weight, std=0.5)
    return module


def seen_by_experts(module: DetailLevel, hidden: Tensor, skip: Tensor) -> Tensor:
    x: Tensor = module.mix(module.merge(torch.cat([hidden, skip], 1)))
    return x


@pytest.mark.parametrize("top_k", [1, 2])
@torch.no_grad()
def test_formula_by_its_parts(top_k: int) -> None:
    # y = hidden + output(sum over the chosen i of g_i E_i(x) S(x)), g_i the softmax value as it is.
    module = level(kernel_sizes=(3, 5, 7), top_k=top_k)
    hidden, skip = draw(2, 4, 12, 10), draw(2, 3, 12, 10, seed=1)
    x = seen_by_experts(module, hidden, skip)
    features = torch.cat([x.mean((2, 3)), x.var((2, 3), unbiased=False).sqrt()], 1)
    weights = (features @ module.router.weight.weight.T).softmax(-1)
    chosen = weights.argsort(descending=True)[:, :top_k]
    mixed = torch.zeros_like(x)
    for index in range(2):
        for expert in chosen[index].tolist():
            mixed[index] += weights[index, expert] * module.experts[expert](x[index : index + 1])[0]
    result, routing, *_ = module(hidden, skip, None, "s")
    torch.testing.assert_close(
        result, hidden + module.output(mixed * module.shared(x, x.mean((2, 3)))), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(routing.indices, chosen)


@torch.no_grad()
def test_shared_gate_sees_the_whole_image_and_is_1_for_zero_inputs() -> None:
    module = level().shared
    for parameter in module.parameters():
        parameter.zero_()
    assert torch.equal(module(draw(1, 6, 5, 5), draw(1, 6)), torch.ones(1, 6, 5, 5))
    module = level()
    hidden, skip = draw(1, 4, 16, 16), draw(1, 3, 16, 16, seed=1)
    far = hidden.clone()
    far[..., 15, 15] += 20
    near = (..., slice(0, 8), slice(0, 8))
    assert (module(far, skip, None, "s")[0] - module(hidden, skip, None, "s")[0])[near].abs().max() > 1e-4
    # With the statistics of the whole image, a tile gives the same values as the image.
    whole = LevelStatistics.of(module.merged(hidden, skip))
    tile, *_ = module(hidden[near], skip[near], None, "s", whole)
    inside = (..., slice(0, 3), slice(0, 3))  # 1 + 2 pixels of `mix`, experts and the gate's own 3 x 3 are cut off
    torch.testing.assert_close(tile[inside], module(hidden, skip, None, "s")[0][inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("index, side", [(0, 3), (1, 5), (2, 7), (3, 9)])
def test_each_expert_sees_as_far_as_its_kernel(index: int, side: int) -> None:
    module = level(kernel_sizes=(3, 5, 7, 9))
    x = draw(1, 6, 15, 15).requires_grad_()
    module.experts[index](x)[0, :, 7, 7].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad[0].abs().sum(0).nonzero().T
    half = side // 2
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7 - half, 7 + half, 7 - half, 7 + half)


@torch.no_grad()
def test_windows_with_their_halo_equal_the_whole_images_expert() -> None:
    # One expert for all windows: window routing must then be seamless. Experts see 2 * (5 // 2) = 4 pixels far.
    settings = {"kernel_sizes": (5,), "expert_depth": 2}
    hidden, skip = draw(2, 4, 21, 18), draw(2, 3, 21, 18, seed=1)
    window, whole = level(**settings, routing="window", window_size=8), level(**settings)
    assert window.halo == 4
    x = seen_by_experts(window, hidden, skip)
    result, routing = window._route_cells(x, None, "s")
    assert routing.gates.tolist() == [[1.0]] * (2 * 3 * 3)  # 21 x 18 pixels are 3 x 3 windows of 8
    torch.testing.assert_close(result, whole.experts[0](x), atol=1e-5, rtol=0)  # up to the edges


def by_hand(module: DetailLevel, x: Tensor, routing: Routing, m: int) -> Tensor:
    """Return sum over the chosen i of g_i E_i(x), every expert on the whole image, position by position."""
    outputs = [expert(x) for expert in module.experts]
    columns = -(-x.shape[3] // m)
    rows = -(-x.shape[2] // m)
    mixed = torch.zeros_like(x)
    for image in range(x.shape[0]):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                cell = (image * rows + row // m) * columns + column // m
                for gate, chosen in zip(routing.gates[cell], routing.indices[cell], strict=True):
                    mixed[image, :, row, column] += gate * outputs[int(chosen)][image, :, row, column]
    return mixed


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize(
    "settings", [{"routing": "position"}, *({"window_size": side} for side in (1, 3, 8, 16))], ids=str
)
@torch.no_grad()
def test_cells_get_exactly_their_experts(settings: dict[str, Any], top_k: int) -> None:
    """For every size of a cell and both ways of computing it, up to the edges of the image."""
    module = level(**{"routing": "window"} | settings, kernel_sizes=(3, 5, 7), expert_depth=2, top_k=top_k)
    x = draw(2, 6, 14, 19)
    x[1] = 4 * x[1] - 3  # other experts for the second image
    torch.nn.init.normal_(module.router.weight.weight, std=3, generator=torch.Generator().manual_seed(2))
    m = module.cell_size(14, 19)
    result, routing = module._route_cells(x, None, "s")
    assert len(routing.indices[:, 0].unique()) > 1 and len(routing.gates) == 2 * -(-14 // m) * -(-19 // m)
    expected = by_hand(module, x, routing, m)
    for computed in (result, module._everywhere(x, routing, m), module._in_windows(x, routing, m)):
        torch.testing.assert_close(computed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("routing", "window_size", "expected"), [("position", 64, 4), ("window", 8, 4), ("window", 64, 1)]
)
def test_small_cells_cost_one_pass_per_expert_and_no_halo(routing: str, window_size: int, expected: int) -> None:
    """Pixels that the experts' blocks see, in images: 4 experts of the paper's kernels on 128 x 128."""
    module = level(routing=routing, window_size=window_size, kernel_sizes=(3, 5, 7, 9))
    pixels = [0]
    for expert in module.experts:
        expert[0].register_forward_pre_hook(
            lambda block, args: pixels.__setitem__(0, pixels[0] + args[0][:, 0].numel())
        )
    with torch.no_grad():
        module(draw(1, 4, 128, 128), draw(1, 3, 128, 128, seed=1), None, "s")
    assert expected <= pixels[0] / 128**2 < expected * 1.3  # windows of 64 with a halo of 4: (72 / 64)^2 = 1.27


def test_a_position_learns_by_its_own_gate() -> None:
    module = level(routing="position", kernel_sizes=(3, 5))
    hidden, skip = draw(1, 4, 8, 8), draw(1, 3, 8, 8, seed=1)
    module(hidden, skip, KeyedNoise([1]), "s")[0].square().mean().backward()
    gradients = [module.router.weight.weight.grad, *(p.grad for p in module.experts.parameters())]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@torch.no_grad()
def test_a_window_does_not_depend_on_distant_pixels() -> None:
    module = level(routing="window", window_size=8, kernel_sizes=(3, 5, 7, 9))
    x = draw(1, 6, 24, 24)
    far = x.clone()
    far[..., 12:, 12:] = 10 * draw(1, 6, 12, 12, seed=1)  # the first window ends at 8, its halo at 12
    first, routing = module._route_cells(x, None, "s")
    second, changed = module._route_cells(far, None, "s")
    torch.testing.assert_close(first[..., :8, :8], second[..., :8, :8], atol=1e-6, rtol=0)
    assert torch.equal(routing.logits[0], changed.logits[0]) and not torch.equal(routing.logits[8], changed.logits[8])


@torch.no_grad()
def test_windows_at_the_edge_are_routed_by_their_pixels_inside_the_image() -> None:
    module = level(routing="window", window_size=8, kernel_sizes=(3, 5))
    x = draw(2, 6, 21, 18)
    windows = [x[..., top : top + 8, left : left + 8] for top in (0, 8, 16) for left in (0, 8, 16)]
    means = torch.stack([window.mean((2, 3)) for window in windows], dim=1).flatten(0, 1)
    spreads = torch.stack([window.std((2, 3), unbiased=False) for window in windows], dim=1).flatten(0, 1)
    torch.testing.assert_close(module._seen(x, 8), torch.cat([means, spreads], dim=1))


@pytest.mark.parametrize("routing", ["image", "window", "position"])
@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(routing: str) -> None:
    module = level(routing=routing, window_size=4, kernel_sizes=(3, 5, 7, 9))
    shifts = torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(4, 1, 1, 1)  # images that go to different experts
    hidden, skip = draw(4, 4, 8, 12) + shifts, draw(4, 3, 8, 12, seed=1) - shifts
    keys = [5, 6, 7, 8]
    for noise in (None, KeyedNoise(keys)):
        together, routed, *_ = module(hidden, skip, noise, "s")
        assert len(routed.indices.unique()) > 1
        for index in range(4):
            one = slice(index, index + 1)
            alone, *_ = module(hidden[one], skip[one], noise and KeyedNoise(keys[one]), "s")
            torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize("routing, routed", [("image", 2), ("window", 2 * 6), ("position", 2 * 96)])
@torch.no_grad()
def test_noise_only_in_training(routing: str, routed: int) -> None:
    module = level(routing=routing, window_size=4, kernel_sizes=(3, 5, 7, 9))
    hidden, skip = draw(2, 4, 8, 12), draw(2, 3, 8, 12, seed=1)

    def logits(noise: KeyedNoise | None) -> Routing:
        routing: Routing = module(hidden, skip, noise, "s")[1]
        return routing

    silent = logits(None)
    assert silent.logits.shape == (routed, 4) and silent.noise_std == 0
    assert torch.equal(silent.logits, silent.noisy_logits)
    noisy = logits(KeyedNoise([1, 2]))
    assert noisy.noise_std == 0.25  # sigma = 1 / E
    assert (noisy.noisy_logits - noisy.logits).abs().min() > 0
    assert torch.equal(noisy.noisy_logits, logits(KeyedNoise([1, 2])).noisy_logits)
    assert not torch.equal(noisy.noisy_logits, logits(KeyedNoise([1, 3])).noisy_logits)
