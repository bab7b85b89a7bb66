"""Routing by experts against sorting beforehand, and against the dispatcher of a sparse mixture as MoCE-IR has it.

Axis letters: N images, C channels, H/W pixels, E experts.
The peer's method: gates as a dense (N, E) matrix with zeros, its non-zero places sorted by expert,
inputs gathered and split, outputs joined, weighted and added up.

    python -m benchmarks.routing   # where the time goes, operation by operation: results/routing_profile.md; `make bench` does it
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate, one_thread, upper_bound
from unildiff.core.moe import Router, dispatch

IMAGES, CHANNELS, SIDE, EXPERTS, RANK = 8, 64, 64, 4, 16


def expert(channels: int = CHANNELS) -> nn.Module:
    """A light convolutional expert: down to 16 channels, 3x3, up again."""
    return nn.Sequential(
        nn.Conv2d(channels, RANK, 1), nn.GELU(), nn.Conv2d(RANK, RANK, 3, padding=1), nn.GELU(),
        nn.Conv2d(RANK, channels, 1),
    )  # fmt: skip


def setting(side: int, num_experts: int = EXPERTS) -> tuple[Tensor, Tensor, Router, nn.ModuleList]:
    """Images (N, C, H, W) that a router deals out evenly, one after the other; its features (N, C), itself, experts.

    Features come from elsewhere, as with MoCE-IR: what they cost belongs to what makes them.
    """
    torch.manual_seed(0)
    images = torch.randn(IMAGES, CHANNELS, side, side)
    features = nn.functional.one_hot(torch.arange(IMAGES) % num_experts, CHANNELS).float()
    router = Router(CHANNELS, num_experts)
    with torch.no_grad():
        router.weight.weight.zero_().diagonal().fill_(5.0)
    return images, features, router, nn.ModuleList(expert() for _ in range(num_experts))


def ours(images: Tensor, features: Tensor, router: Router, experts: nn.ModuleList) -> Tensor:
    noise = torch.randn(len(images), len(experts)) if torch.is_grad_enabled() else None
    return dispatch(images, router(features, noise), list(experts))


def presorted(images: Tensor, experts: nn.ModuleList) -> Tensor:
    """The same work without a router, on images that lie sorted by expert."""
    chunks = images.chunk(min(len(experts), len(images)))
    return torch.cat([experts[index](chunk) for index, chunk in enumerate(chunks)])


def their_way(images: Tensor, features: Tensor, router: Router, experts: nn.ModuleList) -> Tensor:
    scores = router.weight(features)
    noisy = scores + torch.randn_like(scores) / len(experts)
    value, index = noisy.softmax(dim=1).topk(1, dim=1)
    gates = torch.zeros_like(noisy).scatter(1, index, value)
    places = gates.nonzero()
    places = places[places[:, 1].sort(stable=True).indices]
    rows, chosen = places.unbind(1)
    counts = (gates > 0).sum(0).tolist()
    outputs = [one(chunk) for one, chunk in zip(experts, images[rows].split(counts), strict=True) if len(chunk)]
    weighted = torch.cat(outputs) * gates[rows, chosen][:, None, None, None]
    return torch.zeros_like(images).index_add(0, rows, weighted)


def steps(side: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of each way, on the same images."""
    images, features, router, experts = setting(side)
    order = [image for e in range(EXPERTS) for image in range(IMAGES) if image % EXPERTS == e]
    features.requires_grad_()
    gradient = torch.randn(IMAGES, CHANNELS, side, side)
    sorted_leaf, leaf = images[order].contiguous().requires_grad_(), images.requires_grad_()

    def step(output: Tensor, leaf: Tensor) -> None:
        output.backward(gradient)
        leaf.grad = None
        for parameter in (*experts.parameters(), *router.parameters()):
            parameter.grad = None

    return {
        "ours": lambda: step(ours(leaf, features, router, experts), leaf),
        "peer": lambda: step(their_way(leaf, features, router, experts), leaf),
        "limit": lambda: step(presorted(sorted_leaf, experts), sorted_leaf),
    }


def rows(effort: Effort) -> list[Row]:
    side = 16 if effort.small else SIDE
    training = alternate(steps(side), 3 * effort.rounds, time.process_time)
    images, features, router, experts = setting(side)
    sorted_images = images[[image for e in range(EXPERTS) for image in range(IMAGES) if image % EXPERTS == e]]
    with torch.no_grad():
        evaluation = alternate(
            {
                "ours": lambda: ours(images, features, router, experts),
                "peer": lambda: [
                    their_way(images[one : one + 1], features[one : one + 1], router, experts) for one in range(IMAGES)
                ],
                "limit": lambda: presorted(sorted_images, experts),
            },
            3 * effort.rounds,
            time.process_time,
        )
    work = f"{IMAGES} images, {CHANNELS} channels, {side}x{side}, {EXPERTS} experts, top-1"
    limit = "the experts on inputs sorted beforehand, no router"
    return [
        seconds_row(
            f"routing, forward and backward: {work}", training,
            peer_way="dense gates, sorted places, index_add (MoCE-IR, restated)", limit_is=limit, goal=Goal(1.10, "limit"),
        ),
        seconds_row(
            f"routing in evaluation: {work}", evaluation,
            peer_way="one image after the other: MoCE-IR's evaluation is wrong for more", limit_is=limit,
        ),
    ]  # fmt: skip


def profile(side: int = SIDE, rounds: int = 40) -> str:
    """A table of the operations that take longest, in ms a step of ours and of the limit, both in turn."""
    ways = {name: call for name, call in steps(side).items() if name != "peer"}
    spent: dict[str, dict[str, float]] = {name: {} for name in ways}
    for turn in range(rounds + 3):
        for name, call in ways.items():
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                call()
            for event in profiler.key_averages() if turn >= 3 else ():
                operation = _named(event.key)
                spent[name][operation] = spent[name].get(operation, 0.0) + event.self_cpu_time_total / 1000 / rounds
    found = {
        name: (spent["ours"].get(name, 0), spent["limit"].get(name, 0)) for name in {**spent["ours"], **spent["limit"]}
    }
    listed = sorted(found, key=lambda name: -max(found[name]))[:12]
    lines = [f"| {name} | {found[name][0]:.2f} | {found[name][1]:.2f} |" for name in listed]
    total = [sum(spent[name].values()) for name in ways]
    head = ["| operation | ours, ms | limit, ms |", "|---|---|---|"]
    return "\n".join([*head, *lines, f"| all, profiler included | {total[0]:.2f} | {total[1]:.2f} |"]) + "\n"


def more_experts(side: int = SIDE, rounds: int = 45, few: int = 2, many: int = 16) -> str:
    """What the same images cost dealt out to more experts, routed, and sorted beforehand without a router: a sentence."""

    def step(count: int, routed: bool) -> Callable[[], None]:
        images, features, router, experts = setting(side, count)
        images.requires_grad_()
        gradient = torch.ones_like(images)

        def call() -> None:
            output = ours(images, features, router, experts) if routed else presorted(images, experts)
            output.backward(gradient)

        return call

    ways = {(count, routed): step(count, routed) for count in (few, many) for routed in (True, False)}
    seconds = alternate({str(way): call for way, call in ways.items()}, rounds, time.process_time)
    found = []
    for routed in (True, False):
        ratios = [a / b for a, b in zip(*(seconds[str((count, routed))] for count in (many, few)), strict=True)]
        found.append(f"{median(ratios):.3f} ({upper_bound(ratios):.3f})")
    return (
        f"Top-1 of {many} experts against {few}: {found[0]} routed, {found[1]} with the experts alone on images sorted beforehand: "
        f"{IMAGES} images go through {min(many, IMAGES)} experts instead of {few}, one at a time instead of {IMAGES // few}.\n"
    )


def _named(operation: str) -> str:
    ours = {
        "_GatherBackward": "gradients back to their places",
        "_CombineBackward": "gradients weighted, those of the gates",
    }
    ours |= {"_Gather": "inputs gathered", "_Combine": "outputs weighted, put in their places"}
    return ours.get(operation, f"`{operation}`")


if __name__ == "__main__":
    one_thread()
    text = profile() + "\n" + more_experts()
    print(text)
    (Path(__file__).parent / "results" / "routing_profile.md").write_text(text, encoding="utf-8")
