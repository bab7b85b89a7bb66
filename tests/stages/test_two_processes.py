"""Two processes (gloo) give the losses and gradients of one process with the same global batch."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.small import NETWORK
from tests.stages.ranks import on_two_ranks
from tests.stages.steps import (
    Losses,
    gradients,
    make_batch,
    make_loader,
    make_stage,
    make_trainer,
    wake,
    without_trainer,
)
from unildiff.callbacks import ExponentialMovingAverage, NonFiniteGuard
from unildiff.core.moe import Router, Routing
from unildiff.stages.restoration import RestorationModule
from unildiff.utils.paths import config_path

KEYS = (1, 2, 3, 4)
TOKENS = replace(NETWORK, fusion=replace(NETWORK.fusion, token_experts=3, token_top_k=2))
WINDOWS = replace(NETWORK, detail=replace(NETWORK.detail, routing="window", window_size=8))
PIXELS = replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))

# The balancing loss has a large weight here, so that a wrong sum over ranks shows.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "alignment with token experts": ("alignment", {"network": TOKENS, "auxiliary_weight": 1.0}),
    "joint": ("joint", {}),
    "joint with checkpointing": ("joint", {"gradient_checkpointing": True}),
    "decoder, images": ("decoder", {"auxiliary_weight": 1.0}),
    "decoder, windows": ("decoder", {"network": WINDOWS, "auxiliary_weight": 1.0}),
    "decoder with a way to the pixels": ("decoder", {"network": PIXELS, "auxiliary_weight": 1.0}),
    "decoder, quarters of crops": ("decoder", {"cut_every": 1, "auxiliary_weight": 1.0}),
    "accumulated, lambda 0": ("decoder", {"auxiliary_weight": 0.0}),
}


class Step(nn.Module):
    """A stage whose forward is its training step, as DDP needs it."""

    def __init__(self, stage: RestorationModule) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, keys: tuple[int, ...]) -> Tensor:
        loss: Tensor = self.stage.training_step(make_batch(keys), 0)
        return loss


def build(case: str, base_folder: Path) -> RestorationModule:
    kind, settings = CASES[case]
    module = make_stage(kind, base_folder, **settings)
    without_trainer(module)
    wake(module)
    return module


def two_with_an_idle_expert(rank: int, base_folder: Path) -> dict[str, Any]:
    """Let rank 0 use only expert 0 and rank 1 only expert 1 for two steps; DDP would fail in the second."""
    module = build("decoder, images", base_folder)
    module.settings.auxiliary_weight = 0.0  # its statistics would involve both experts
    replica = DistributedDataParallel(Step(module))
    for detail in module.model.decoder.details:

        def route(features: Tensor, noise: Tensor | None = None, router: nn.Module = detail.router) -> Routing:
            logits = features @ router.weight.weight.T
            indices = torch.full((len(features), 1), rank)
            return Routing(logits, logits, indices, logits.softmax(-1).gather(1, indices), 0.0)

        detail.router.forward = route
    for _ in range(2):
        module.zero_grad()
        replica(KEYS[2 * rank : 2 * rank + 2]).backward()
    return {"gradients": gradients(module)}


def steps_by_hand(base_folder: Path, rank: int, folder: Path) -> dict[str, Any]:
    """Run one of two ranks on half of each global batch."""
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for case in CASES:
        module = build(case, base_folder)
        replica = DistributedDataParallel(Step(module))
        keys = KEYS[2 * rank : 2 * rank + 2]
        if case == "accumulated, lambda 0":
            with replica.no_sync():
                first = replica(keys[:1]) / 2
                first.backward()
            loss = replica(keys[1:]) / 2
            loss.backward()
            loss = loss + first
        else:
            loss = replica(keys)
            loss.backward()
        results[case] = {"loss": loss.item(), "gradients": gradients(module)}
    results["usage"] = Routing(
        *(torch.eye(2)[rank : rank + 1],) * 2, torch.tensor([[rank]]), torch.ones(1, 1), 0.0
    ).metrics()
    results["idle"] = two_with_an_idle_expert(rank, base_folder)
    distributed.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def ranks(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), partial(steps_by_hand, base_folder))


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_one_process(
    case: str, ranks: list[dict[str, Any]], base_folder: Path
) -> None:
    module = build(case, base_folder)
    loss = module.training_step(make_batch(KEYS), 0)
    loss.backward()
    assert sum(rank[case]["loss"] for rank in ranks) / 2 == pytest.approx(loss.item(), rel=1e-5)
    expected = gradients(module)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for rank in ranks:
        assert set(rank[case]["gradients"]) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(rank[case]["gradients"][name], gradient, atol=1e-5 * scale, rtol=1e-4)


def test_usage_and_importance_are_over_all_ranks(ranks: list[dict[str, Any]]) -> None:
    # Each rank chose another expert: half and half, importances (e + 1, e + 1) / (e + 1), no imbalance.
    for rank in ranks:
        assert rank["usage"]["usage"].tolist() == [0.5, 0.5]
        assert rank["usage"]["importance_loss"].item() == pytest.approx(0, abs=1e-6)


def test_an_expert_that_is_idle_on_one_rank(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["idle"]["gradients"] for rank in ranks)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name])  # averaged: half of the working rank's gradient
        if ".experts." in name:
            assert gradient.any()


THREE = replace(  # one expert for each rank, and one that no rank chooses
    NETWORK,
    fusion=replace(NETWORK.fusion, token_experts=3, token_top_k=1),
    detail=replace(NETWORK.detail, kernel_sizes=(3, 5, 7)),
)


def through_the_trainer(base_folder: Path, rank: int, folder: Path) -> dict[str, Any]:
    """Train three steps as in the recipe; each rank's routers always choose the expert with the rank's number."""
    freely = Router.forward

    def forward(router: Router, features: Tensor, noise: Tensor | None = None) -> Routing:
        routing = freely(router, features, noise)
        indices = torch.full_like(routing.indices, rank)
        return replace(routing, indices=indices, gates=routing.noisy_logits.softmax(-1).gather(1, indices))

    Router.forward = forward  # type: ignore[method-assign]  # this process ends with the function
    ends: dict[str, Any] = {}
    for kind in ("joint", "decoder"):
        module = make_stage(kind, base_folder, THREE, auxiliary_weight=1.0, gradient_checkpointing=True)
        wake(module)
        before = {name: value.detach().clone() for name, value in module.trained_parameters()}
        losses, guard, ema = Losses(), NonFiniteGuard(), ExponentialMovingAverage()
        recipe = yaml.safe_load(config_path(f"configs/{kind}.yaml").read_text(encoding="utf-8"))
        arguments = recipe["trainer"]["strategy"]["init_args"]
        assert 100 <= arguments["bucket_cap_mb"] <= 200 and arguments["broadcast_buffers"] is False
        strategy = DDPStrategy(**arguments)
        trainer = make_trainer(
            folder, [losses, guard, ema], max_steps=3, accumulate_grad_batches=2, gradient_clip_val=1.0, strategy=strategy,
            devices=2, use_distributed_sampler=False,
        )  # fmt: skip
        # 64 pixels are 2x2 tokens at the U-Net's lowest level; with a single token, queries and keys have no effect.
        batches = [make_batch([10 * index + 2 * rank, 10 * index + 2 * rank + 1], size=64) for index in range(6)]
        trainer.fit(module, make_loader(batches))
        after = {name: value.detach().clone() for name, value in module.trained_parameters()}
        still = {name for name, value in after.items() if torch.equal(value, before[name])}
        ends[kind] = {"losses": losses.values, "skipped": guard.skipped, "still": still}
        ends[kind] |= {"weights": after, "average": ema.average}
    return ends


def test_idle_experts_checkpointing_accumulation_and_ddp_together(base_folder: Path, tmp_path: Path) -> None:
    first, second = on_two_ranks(tmp_path, partial(through_the_trainer, base_folder))
    for kind in ("joint", "decoder"):
        one, two = first[kind], second[kind]
        assert len(one["losses"]) == len(two["losses"]) == 6
        assert all(map(math.isfinite, one["losses"] + two["losses"])) and one["skipped"] == two["skipped"] == 0
        for part in ("weights", "average"):
            assert all(value.isfinite().all() for value in one[part].values())
            assert all(torch.equal(value, two[part][name]) for name, value in one[part].items())
        # Experts used by one rank are updated on both; the third expert had gradients, all of them zero.
        experts = {name for name in one["weights"] if ".experts." in name}
        idle = {name for name in experts if ".experts.2." in name}
        assert idle and experts - idle and one["still"] == idle
