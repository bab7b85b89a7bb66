"""Eq. 1-7 of the supplement (arXiv 2507.23685) by hand, the router and the dispatcher with experts that can be counted."""

import math

import pytest
import torch
from torch import Tensor, nn

from unildiff.core.moe import (
    Router,
    Routing,
    StepBalance,
    dispatch,
    importance_loss,
    load_loss,
    load_probability,
)


def logits_of(weights: list[list[float]]) -> Tensor:
    """Return logits whose softmax is ``weights``."""
    return torch.tensor(weights).log()


def routed(logits: Tensor, noisy: Tensor | None = None, k: int = 1, noise_std: float = 0.0) -> Routing:
    noisy = logits if noisy is None else noisy
    gates, indices = noisy.softmax(-1).topk(k, -1)
    return Routing(logits, noisy, indices, gates, noise_std)


def test_importance_by_hand() -> None:
    # Eq. 1: weights (0.75, 0.25) and (0.5, 0.5): Imp = (1.25, 0.75).
    # Eq. 2: mean 1, biased std 0.25: (0.25 / 1)^2 = 0.0625.
    logits = logits_of([[0.75, 0.25], [0.5, 0.5]])
    assert importance_loss(logits).item() == pytest.approx(0.0625, abs=1e-6)
    # Three experts, weights (0.5, 0.25, 0.25) and (0.3, 0.1, 0.6): Imp = (0.8, 0.35, 0.85), mean 2/3,
    # var = (0.1333^2 + 0.3167^2 + 0.1833^2) / 3 = (0.01778 + 0.10028 + 0.03361) / 3 = 0.050556, / 0.44444 = 0.11375.
    assert importance_loss(logits_of([[0.5, 0.25, 0.25], [0.3, 0.1, 0.6]])).item() == pytest.approx(0.11375, abs=1e-5)
    # Shifting a row's logits leaves its softmax as it is; a balanced batch costs nothing.
    assert importance_loss(logits + 3).item() == pytest.approx(0.0625, abs=1e-6)
    assert importance_loss(logits_of([[0.75, 0.25], [0.25, 0.75]])).item() == pytest.approx(0, abs=1e-6)


# One token of two experts, k = 1, sigma = 1/2: W x = (1, 0), drawn noise (-0.2, 0.4), so noisy (0.8, 0.4).
# Eq. 3: threshold 0.8. Eq. 4: p_1 = P(eps >= 0.8 - 1) = Phi(0.2 / 0.5) = Phi(0.4) = 0.65542,
#                              p_2 = P(eps >= 0.8 - 0) = 1 - Phi(1.6) = 0.05480.
# Second token: W x = (0, 0), noisy (0.25, 0.1): threshold 0.25, p_1 = p_2 = 1 - Phi(0.5) = 0.30854.
LOGITS, NOISY = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.8, 0.4], [0.25, 0.1]])


def test_load_by_hand() -> None:
    probability = load_probability(LOGITS, NOISY, k=1, noise_std=0.5)
    expected = torch.tensor([[0.65542, 0.05480], [0.30854, 0.30854]])
    torch.testing.assert_close(probability, expected, atol=1e-5, rtol=0)
    # Eq. 5: load = (0.96396, 0.36334). Eq. 6: mean 0.66365, biased std 0.30031, (0.30031 / 0.66365)^2 = 0.20477.
    assert load_loss(LOGITS, NOISY, k=1, noise_std=0.5).item() == pytest.approx(0.20477, abs=1e-5)


def test_load_with_two_chosen_experts_by_hand() -> None:
    # noisy (0.9, 0.5, 0.1): the second largest is 0.5. p_i = 1 - Phi((0.5 - (W x)_i) / (1/3)) for W x = (1, 0.5, 0):
    # 1 - Phi(-1.5) = 0.93319, 1 - Phi(0) = 0.5, 1 - Phi(1.5) = 0.06681.
    probability = load_probability(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.9, 0.5, 0.1]]), 2, 1 / 3)
    torch.testing.assert_close(probability, torch.tensor([[0.93319, 0.5, 0.06681]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 2])
def test_load_probability_against_monte_carlo(k: int) -> None:
    # Eq. 4 literally: redraw the noise of one expert, keep the threshold, count how often it passes.
    experts, draws = 4, 40_000
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(3, experts, generator=generator) / experts
    noisy = logits + torch.randn(3, experts, generator=generator) / experts
    threshold = noisy.sort(dim=1, descending=True).values[:, k - 1]
    redrawn = logits[None] + torch.randn(draws, 3, experts, generator=generator) / experts
    estimate = (redrawn >= threshold[None, :, None]).float().mean(0)
    # Four standard errors of a share of 0.5: 4 * 0.5 / sqrt(40000) = 0.01.
    torch.testing.assert_close(load_probability(logits, noisy, k, 1 / experts), estimate, atol=0.01, rtol=0)


def test_balancing_loss_by_hand() -> None:
    # Eq. 7 for the batch above: softmax of (1, 0) is (0.73106, 0.26894), of (0, 0) halves: Imp = (1.23106, 0.76894),
    # mean 1, std 0.23106, importance loss 0.053388; half of it and half of 0.20477: 0.129079.
    noisy = routed(LOGITS, NOISY, noise_std=0.5)
    assert StepBalance()([noisy], step=0).item() == pytest.approx(0.129079, abs=1e-5)
    # A second layer without noise (evaluation) counts its importance half alone: 0.0625 / 2; mean over the layers.
    silent = routed(logits_of([[0.75, 0.25], [0.5, 0.5]]))
    assert StepBalance()([silent], step=0).item() == pytest.approx(0.03125, abs=1e-6)
    assert StepBalance()([noisy, silent], step=0).item() == pytest.approx((0.129079 + 0.03125) / 2, abs=1e-5)


def test_metrics_are_named() -> None:
    metrics = routed(LOGITS, NOISY, noise_std=0.5).metrics()
    assert metrics["importance_loss"].item() == pytest.approx(0.053388, abs=1e-5)
    assert metrics["load_loss"].item() == pytest.approx(0.20477, abs=1e-5)
    assert metrics["usage"].tolist() == [1, 0]
    assert set(routed(LOGITS).metrics()) == {"importance_loss", "usage"}
    # Two of three experts for each of two inputs: choices 0, 2 and 2, 1, so shares 1/4, 1/4, 2/4.
    two = routed(torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 2.0]]), k=2)
    assert two.metrics()["usage"].tolist() == [0.25, 0.25, 0.5]


def test_no_load_without_noise_and_no_loss_without_layers() -> None:
    with pytest.raises(ValueError, match="noise_std is 0"):
        load_loss(LOGITS, LOGITS, 1, 0.0)
    with pytest.raises(ValueError, match="at least one routed layer"):
        StepBalance()([], step=0)


def test_balancing_gradient_points_to_balance() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0]], requires_grad=True)
    noisy = logits + torch.tensor([[0.1, -0.2, 0.3], [-0.3, 0.2, 0.1]])
    StepBalance()([routed(logits, noisy, noise_std=1 / 3)], step=0).backward()
    assert logits.grad is not None and (logits.grad[:, 0] > 0).all()  # descent lowers the expert with most of the load


def test_router_by_hand() -> None:
    router = Router(dim=2, num_experts=4, top_k=2)
    with torch.no_grad():
        router.weight.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
    features = torch.tensor([[math.log(2.0), math.log(4.0)]])
    routing = router(features)
    # W x = (ln 2, ln 4, 0, -ln 2): softmax of weights 2, 4, 1, 1/2, sum 7.5: the chosen have 4/7.5 and 2/7.5,
    # as they are: they do not sum to 1.
    assert routing.indices.tolist() == [[1, 0]]
    torch.testing.assert_close(routing.gates, torch.tensor([[4 / 7.5, 2 / 7.5]]))
    assert routing.noise_std == 0 and torch.equal(routing.noisy_logits, routing.logits)
    # Noise is scaled by sigma = 1 / E = 1/4: 8 * 1/4 = 2 lifts the fourth expert to 2 - ln 2 = 1.31, below ln 4 = 1.386.
    noisy = router(features, torch.tensor([[0.0, 0.0, 0.0, 8.0]]))
    torch.testing.assert_close(noisy.noisy_logits - noisy.logits, torch.tensor([[0.0, 0.0, 0.0, 2.0]]))
    assert noisy.indices.tolist() == [[1, 3]] and noisy.noise_std == 0.25
    assert torch.equal(noisy.logits, routing.logits)


def test_router_is_float32_under_autocast_and_checks_k() -> None:
    router = Router(8, 4)
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = router(features)
    assert low.logits.dtype == low.gates.dtype == torch.float32
    assert torch.equal(low.logits, router(features).logits)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"top_k is {k}"):
            Router(8, 4, k)


class Scale(nn.Module):
    """Multiplies by a parameter and counts calls and inputs."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value, 9.0]))  # the second number has no effect
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x * self.value[0]


def test_dispatch_by_hand() -> None:
    experts = [Scale(value) for value in (2.0, 3.0, 5.0, 7.0)]
    # Inputs 1, 10, 100 go to experts (0, 2), (2, 0), (2, 3) with gates as given; expert 1 has no work.
    indices = torch.tensor([[0, 2], [2, 0], [2, 3]])
    gates = torch.tensor([[0.5, 0.25], [0.6, 0.1], [0.4, 0.3]], requires_grad=True)
    inputs = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    output = dispatch(inputs, Routing(torch.zeros(3, 4), torch.zeros(3, 4), indices, gates, 0.0), experts)
    # 1: 0.5 * 2 + 0.25 * 5 = 2.25;  10: 0.6 * 50 + 0.1 * 20 = 32;  100: 0.4 * 500 + 0.3 * 700 = 410
    torch.testing.assert_close(output, torch.tensor([2.25, 32.0, 410.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2))
    assert [expert.seen for expert in experts] == [[2], [], [3], [1]]  # each chosen one once, on its inputs alone
    output[:, 0, 0, 0].sum().backward()
    # d/dvalue: sum of gate * input: 0.5 * 1 + 0.1 * 10; nothing; 0.25 * 1 + 0.6 * 10 + 0.4 * 100; 0.3 * 100
    grads = [expert.value.grad for expert in experts]
    assert [grad.tolist() for grad in grads if grad is not None] == [
        [pytest.approx(1.5), 0.0],
        [0.0, 0.0],  # idle: a gradient that is there, and zero
        [pytest.approx(46.25), 0.0],
        [pytest.approx(30.0), 0.0],
    ]
    # d/dgate = E_i(x)
    torch.testing.assert_close(gates.grad, torch.tensor([[2.0, 5.0], [50.0, 20.0], [500.0, 700.0]]))


def test_gates_are_not_renormalised() -> None:
    # With k = 1 a renormalised gate would always be 1; here weights 0.6 / 0.4 and an expert that
    # keeps its input give 0.6 of it, and the router learns from the output.
    router = Router(1, 2)
    with torch.no_grad():
        router.weight.weight.copy_(torch.tensor([[math.log(1.5)], [0.0]]))
    x = torch.ones(1, 1)
    output = dispatch(x, router(x), [Scale(1.0), Scale(1.0)])
    assert output.item() == pytest.approx(0.6, abs=1e-6)
    output.sum().backward()
    assert router.weight.weight.grad is not None and router.weight.weight.grad.abs().min() > 0.1  # 0.6 * 0.4


def test_idle_experts_cost_nothing_without_gradients() -> None:
    experts = [Scale(2.0), Scale(3.0)]
    with torch.no_grad():
        output = dispatch(torch.ones(4, 1), routed(torch.tensor([[1.0, 0.0]]).expand(4, 2)), experts)
    assert not output.requires_grad and experts[1].seen == []


@pytest.mark.parametrize("k", [1, 2])
def test_large_rows_are_dispatched_as_small_ones(k: int) -> None:
    # Rows of 4096 numbers and more are written one by one; their gradients equal those of an explicit sum.
    generator = torch.Generator().manual_seed(k)
    inputs = torch.randn(5, 2, 64, 32, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    experts = [nn.Conv2d(2, 2, 3, padding=1).double() for _ in range(3)]
    routing = routed(logits, k=k)
    given = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    expected = torch.stack(
        [
            sum(routing.gates[n, j] * experts[int(routing.indices[n, j])](inputs[n : n + 1])[0] for j in range(k))
            for n in range(5)
        ]
    )
    leaves = [inputs, logits, *(p for expert in experts for p in expert.parameters())]
    wanted = torch.autograd.grad((expected * given).sum(), leaves, allow_unused=True, retain_graph=True)
    output = dispatch(inputs, routing, experts)
    torch.testing.assert_close(output, expected)
    got = torch.autograd.grad((output * given).sum(), leaves, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other)


def test_idle_experts_get_zeros_in_their_own_precision_and_frozen_ones_nothing() -> None:
    experts = [torch.nn.Linear(6, 6) for _ in range(3)]
    experts[2].requires_grad_(False)
    router = Router(6, 3)
    with torch.no_grad():
        router.weight.weight.zero_()[0] = 1.0  # all to the first
    inputs = torch.ones(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        dispatch(inputs, router(inputs), experts).float().sum().backward()
    busy, idle, frozen = (expert.weight.grad for expert in experts)
    assert busy is not None and busy.abs().sum() > 0 and frozen is None
    assert idle is not None and idle.dtype == torch.float32 and not idle.any()


def routings_of(*features: Tensor) -> list[Routing]:
    """Return the routings of micro-batches by one router, with its parameters' gradients on."""
    torch.manual_seed(3)
    router = Router(5, 4)
    return [
        router(each, torch.randn(len(each), 4, generator=torch.Generator().manual_seed(i)))
        for i, each in enumerate(features)
    ]


def test_accumulated_statistics_are_those_of_the_whole_step() -> None:
    draws = [torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    parts = routings_of(*draws)
    together = Routing(
        *(
            torch.cat([getattr(part, name) for part in parts])
            for name in ("logits", "noisy_logits", "indices", "gates")
        ),
        noise_std=0.25,
    )
    balance = StepBalance()
    values = [balance([part, part], step=7) for part in parts]  # two layers
    assert values[0].item() == pytest.approx(StepBalance()([parts[0]], step=0).item(), rel=1e-6)
    assert values[-1].item() == pytest.approx(StepBalance()([together], step=0).item(), rel=1e-5)
    assert balance([parts[0]], step=8).item() == pytest.approx(values[0].item(), rel=1e-6)  # a new step starts again


def test_accumulated_gradient_is_that_of_one_large_batch_where_micro_batches_agree() -> None:
    """As a trainer accumulates: each micro-batch's loss divided by their number, gradients summed."""
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    router = Router(5, 4)
    noise = torch.randn(6, 4)
    balance = StepBalance()
    for _ in range(4):
        (balance([router(features, noise)], step=0) / 4).backward()
    accumulated = router.weight.weight.grad.clone()
    router.weight.weight.grad = None
    StepBalance()([router(features.repeat(4, 1), noise.repeat(4, 1))], step=0).backward()
    torch.testing.assert_close(accumulated, router.weight.weight.grad, atol=1e-6, rtol=1e-4)


def test_small_batches_look_unbalanced_although_the_router_is_perfect() -> None:
    """The bias that moe.py states: (E - 1) / N for certain gates of randomly drawn experts."""
    generator = torch.Generator().manual_seed(0)
    for n, rtol in ((8, 0.1), (64, 0.1)):
        chosen = torch.randint(4, (4000, n), generator=generator)
        losses = [importance_loss(100 * torch.nn.functional.one_hot(each, 4).float()) for each in chosen]
        assert torch.stack(losses).mean().item() == pytest.approx(3 / n, rel=rtol)
