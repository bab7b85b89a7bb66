"""Mixture of experts: one router, one dispatcher and one balancing loss for tokens, positions, windows and whole images.

Axis letters: N routed inputs (tokens, positions, windows or images), E experts, k chosen experts (k <= E), D router features.
The router returns everything it knows; nothing is kept in module state. Equations: supplement of UniLDiff
(arXiv 2507.23685), Eq. 1-7.

Small N biases the loss: if every input had its expert for certain and experts were drawn by chance, Eq. 2 would still be
(E - 1) / N on average (0.375 for 4 experts at N = 8, 0.19 at 16, 0.003 at 1,024), and pushes the gates towards uniform. Route
positions or windows, or sum the statistics over more inputs (``StepBalance``), before raising the loss's weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass
class Routing:
    """A router's decision for N inputs.

    Attributes:
        logits: W x without noise, (N, E).
        noisy_logits: W x + xi, (N, E); the same tensor as ``logits`` where no noise was drawn.
        indices: the chosen experts, best first, (N, k).
        gates: their softmax values as they are, *not* renormalised over the chosen, (N, k).
        noise_std: sigma of xi; 0 where no noise was drawn.
    """

    logits: Tensor
    noisy_logits: Tensor
    indices: Tensor
    gates: Tensor
    noise_std: float

    def metrics(self) -> dict[str, Tensor]:
        """Return ``importance_loss``, ``load_loss`` (only with noise) and ``usage``, the share of choices per expert (E,).

        All are over the inputs of all ranks, so every rank must call this.
        """
        experts, k = self.logits.shape[1], self.indices.shape[1]
        chosen = _over_ranks(torch.bincount(self.indices.flatten(), minlength=experts).float())
        values = {"importance_loss": importance_loss(self.logits), "usage": chosen / chosen.sum()}
        if self.noise_std > 0:
            values["load_loss"] = load_loss(self.logits, self.noisy_logits, k, self.noise_std)
        return values


class Router(nn.Module):
    """Noisy top-k router: top-k(softmax(W x + xi)), xi ~ N(0, 1/E^2) in training, none in evaluation.

    Riquelme et al. 2021 (V-MoE, arXiv 2106.05974), whose losses the supplement of UniLDiff restates.

    Args:
        dim: features D of a routed input.
        num_experts: E.
        top_k: k chosen experts, 1..E.

    Raises:
        ValueError: if k is not in 1..E.
    """

    def __init__(self, dim: int, num_experts: int, top_k: int = 1) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k is {top_k}; it must be in 1..num_experts ({num_experts})")
        self.top_k = top_k
        self.noise_std = 1.0 / num_experts
        self.weight = nn.Linear(dim, num_experts, bias=False)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Routing:
        """Route features (N, D); ``noise`` is standard normal (N, E) or None. Runs in float32 under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            logits = nn.functional.linear(features.float(), self.weight.weight.float())
            noisy = logits if noise is None else logits + self.noise_std * noise
            gates, indices = noisy.softmax(dim=-1).topk(self.top_k, dim=-1)
        return Routing(logits, noisy, indices, gates, 0.0 if noise is None else self.noise_std)


def dispatch(inputs: Tensor, routing: Routing, experts: Sequence[nn.Module]) -> Tensor:
    """Return sum over the chosen i of g_i * E_i(x), computing only chosen experts, each once on its sorted inputs.

    Args:
        inputs: (N, ...).
        routing: decisions for these N inputs.
        experts: E modules that keep their input's shape.

    Idle experts still get a zero gradient, so that every rank of a DDP run has one for every parameter.
    """
    if (
        torch.compiler.is_exporting()
    ):  # a graph cannot depend on the counts: all experts, the idle ones weighted by zero
        weights = torch.zeros_like(routing.logits).scatter(1, routing.indices, routing.gates)
        outputs = [expert(inputs) for expert in experts]
        return torch.stack([out * _broadcast(weights[:, i], out) for i, out in enumerate(outputs)]).sum(0)
    k = routing.indices.shape[1]
    order = routing.indices.flatten().argsort(stable=True)  # assignments grouped by expert
    counts = assignment_counts(routing, len(experts))
    busy = [expert for expert, count in zip(experts, counts, strict=True) if count]
    assigned = torch.split(order, [count for count in counts if count])
    if k == 1 and len(busy) == 1:
        output = busy[0](inputs)
        combined: Tensor = output * _broadcast(routing.gates.flatten(), output)
    else:
        chunks: tuple[Tensor, ...] = _Gather.apply(inputs, k, *assigned)
        outputs = [expert(chunk) for expert, chunk in zip(busy, chunks, strict=True)]
        combined = _Combine.apply(routing.gates, assigned, *outputs)
    unused = (p for expert, count in zip(experts, counts, strict=True) if not count for p in expert.parameters())
    idle = [p for p in unused if p.requires_grad]
    if torch.is_grad_enabled() and idle:
        combined = _Touch.apply(combined, *idle)
    return combined


class _Touch(torch.autograd.Function):
    """Identity; parameters that did not contribute to the values get a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *idle: Tensor) -> Tensor:
        ctx.idle = idle
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], *(torch.zeros_like(p) for p in ctx.idle)


class _Gather(torch.autograd.Function):
    """Inputs (N, ...) -> the inputs of each busy expert, (count, ...). With k = 1 each input goes to one expert only."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, k: int, *assigned: Tensor) -> tuple[Tensor, ...]:
        ctx.k, ctx.n, ctx.assigned = k, len(inputs), assigned
        return tuple(inputs.index_select(0, part // k) for part in assigned)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _put_together(ctx.n, ctx.k, ctx.assigned, gradients), None, *[None] * len(gradients)


class _Combine(torch.autograd.Function):
    """Gates (N, k) and the busy experts' outputs (count, ...) -> (N, ...), weighted and written to their places in one pass.

    Concatenating, weighting and summing would each pass over all the memory once more, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, assigned: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.save_for_backward(gates, *outputs)
        ctx.assigned = assigned
        return _put_together(len(gates), gates.shape[1], assigned, outputs, gates.flatten())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gates, *outputs = ctx.saved_tensors
        flat, k = gates.flatten(), gates.shape[1]
        of_gates, of_outputs = torch.empty_like(flat), []
        for part, output in zip(ctx.assigned, outputs, strict=True):
            if _few_and_large(output):
                of_output = torch.empty_like(output)
                for row, place in enumerate(part.tolist()):
                    gradient = gradients[0][place // k]
                    of_gates[place] = torch.dot(gradient.flatten(), output[row].flatten())
                    torch.mul(gradient, flat[place].to(output.dtype), out=of_output[row])
            else:
                gradient = gradients[0].index_select(0, part // k)
                of_gates[part] = (gradient * output).flatten(1).sum(1).to(flat.dtype)
                of_output = gradient.mul_(_broadcast(flat.index_select(0, part), output))
            of_outputs.append(of_output)
        return of_gates.view_as(gates), None, *of_outputs


def _few_and_large(values: Tensor) -> bool:
    """Whether rows are better written one by one: images on a CPU, where indexed copies are several times slower.

    Never for tensors without data (fake tensors), whose indices cannot be read.
    """
    return values.device.type == "cpu" and values[0].numel() >= 4096 and type(values) is Tensor


def _broadcast(gates: Tensor, values: Tensor) -> Tensor:
    return gates.to(values.dtype).view(-1, *[1] * (values.dim() - 1))


def _put_together(
    n: int, k: int, assigned: Sequence[Tensor], values: Sequence[Tensor], gates: Tensor | None = None
) -> Tensor:
    """Return (n, ...) with each value, times its gate of (n k,), at its place; values of the same place are summed."""
    shape = (n, *values[0].shape[1:])
    whole = values[0].new_empty(shape) if k == 1 else values[0].new_zeros(shape)
    for part, value in zip(assigned, values, strict=True):
        if _few_and_large(value):
            for row, place in enumerate(part.tolist()):
                gate = 1.0 if gates is None else float(gates[place])
                if k == 1:
                    torch.mul(value[row], gate, out=whole[place])
                else:
                    whole[place // k].add_(value[row], alpha=gate)
            continue
        weighted = value if gates is None else value * _broadcast(gates.index_select(0, part), value)
        if k == 1:
            whole.index_copy_(0, part, weighted)
        else:
            whole.index_add_(0, part // k, weighted)
    return whole


def assignment_counts(routing: Routing, num_experts: int) -> list[int]:
    """Return how many inputs each of E experts has."""
    counts: list[int] = torch.bincount(routing.indices.flatten(), minlength=num_experts).tolist()
    return counts


class _SumOverRanks(torch.autograd.Function):
    """All-reduce by sum in both directions: gradients averaged by DDP then equal those of one process."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _over_ranks(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverRanks.apply(values)  # type: ignore[no-any-return]
    return values


def _squared_variation(values: Tensor) -> Tensor:
    """Squared coefficient of variation of (E,), biased standard deviation (our choice; the paper leaves it open)."""
    return values.var(unbiased=False) / values.mean() ** 2


def importance_loss(logits: Tensor) -> Tensor:
    """Return Eq. 1 and 2 for logits (N, E): squared variation of the softmax weights summed over N and all ranks."""
    return _squared_variation(_over_ranks(logits.float().softmax(dim=-1).sum(dim=0)))


def load_probability(logits: Tensor, noisy_logits: Tensor, k: int, noise_std: float) -> Tensor:
    """Return Eq. 3 and 4: p_i(x), the chance (N, E) that expert i passes the threshold if only its noise is redrawn."""
    threshold = noisy_logits.topk(k, dim=-1).values[:, -1:]
    return 0.5 * torch.erfc((threshold - logits) / (noise_std * math.sqrt(2.0)))


def load_loss(logits: Tensor, noisy_logits: Tensor, k: int, noise_std: float) -> Tensor:
    """Return Eq. 5 and 6 for logits (N, E), summed over N and all ranks.

    Raises:
        ValueError: if ``noise_std`` is not positive; without noise (evaluation) the load loss is not defined.
    """
    if noise_std <= 0:
        raise ValueError(f"noise_std is {noise_std}; the load loss needs the noise of training")
    probability = load_probability(logits.float(), noisy_logits.float(), k, noise_std)
    return _squared_variation(_over_ranks(probability.sum(dim=0)))


class StepBalance:
    """The balancing loss, L_aux of Eq. 7: half importance and half load, averaged over the routed layers (our choice).

    It covers the micro-batches of one optimiser step on all ranks. Without noise (evaluation), load is left out.

    The sums of Eq. 1 and 5 are not additive in the loss: the variation of many inputs is smaller than the mean variation of
    few. Sums of earlier micro-batches are kept without gradient, and each micro-batch adds its own. The value returned for
    the m-th micro-batch is the loss of all m so far. Its gradient is that of the value times m: a partial sum of m of M
    micro-batches is m / M of the final one, which raises the gradient of Eq. 2 by M / m, and the trainer divides by M.
    """

    def __init__(self) -> None:
        self.step, self.count = -1, 0
        self.sums: list[list[Tensor]] = []

    def __call__(self, routings: Sequence[Routing], step: int) -> Tensor:
        """Return the loss of one micro-batch.

        Args:
            routings: one routing per routed layer.
            step: number of the optimiser step; a new number starts new sums.

        Raises:
            ValueError: there is no routed layer.
        """
        if not routings:
            raise ValueError("the balancing loss needs at least one routed layer")
        if step != self.step:
            self.step, self.count, self.sums = step, 0, []
        sums = [_statistics(routing) for routing in routings]
        if self.sums:
            sums = [
                [before + now for before, now in zip(*layer, strict=True)]
                for layer in zip(self.sums, sums, strict=True)
            ]
        self.sums = [[values.detach() for values in layer] for layer in sums]
        self.count += 1
        halves = [torch.stack([0.5 * _squared_variation(values) for values in layer]).sum() for layer in sums]
        loss = torch.stack(halves).mean()
        return loss if self.count == 1 else loss.detach() + self.count * (loss - loss.detach())


def _statistics(routing: Routing) -> list[Tensor]:
    """Return importance and, with noise, load of each expert (E,), summed over the inputs of all ranks."""
    sums = [routing.logits.float().softmax(dim=-1).sum(dim=0)]
    if routing.noise_std > 0:
        k = routing.indices.shape[1]
        probability = load_probability(routing.logits.float(), routing.noisy_logits.float(), k, routing.noise_std)
        sums.append(probability.sum(dim=0))
    return [_over_ranks(values) for values in sums]
