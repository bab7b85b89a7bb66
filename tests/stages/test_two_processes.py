"""Two processes (gloo) give the losses and gradients of one process with the same global batch."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.processes import process_context
from tests.small import NETWORK
from tests.stages.steps import gradients, make_batch, make_stage, wake, without_trainer
from unildiff.core.moe import Routing
from unildiff.stages.restoration import RestorationModule

KEYS = (1, 2, 3, 4)
TOKENS = replace(NETWORK, fusion=replace(NETWORK.fusion, token_experts=3, token_top_k=2))
WINDOWS = replace(NETWORK, detail=replace(NETWORK.detail, routing="window", window_size=8))

# The balancing loss counts as much as the rest here, so that a wrong sum over ranks could not hide.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "alignment with token experts": ("alignment", {"network": TOKENS, "auxiliary_weight": 1.0}),
    "joint": ("joint", {}),
    "joint with checkpointing": ("joint", {"gradient_checkpointing": True}),
    "decoder, images": ("decoder", {"auxiliary_weight": 1.0}),
    "decoder, windows": ("decoder", {"network": WINDOWS, "auxiliary_weight": 1.0}),
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
    """Let rank 0 know only expert 0 and rank 1 only expert 1; make two steps: DDP complains in the second."""
    module = build("decoder, images", base_folder)
    module.auxiliary_weight = 0.0  # its statistics would tell of both
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


def child(rank: int, port: int, base_folder: Path, out: Path) -> None:
    """Be one of two ranks: half of each global batch."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
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
    torch.save(results, out / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = process_context()
    processes = [context.Process(target=child, args=(rank, port, base_folder, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


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
        assert torch.equal(gradient, second[name])  # averaged: what the working rank found, halved
        if ".experts." in name:
            assert gradient.any()
