"""Every benchmark runs, with one round and at trial size."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import full_size, growth
from benchmarks.__main__ import GROUPS
from benchmarks.plots import draw
from benchmarks.routing import more_experts, ours, presorted, profile, setting, their_way
from benchmarks.timing import Effort
from tests.small import NETWORK, SDXL_LIKE
from unildiff.planning.shapes import BaseSizes


@pytest.fixture
def one_process_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `growth` start one process for each of its measurements instead of one for each size; starting takes seconds."""
    measured, known = growth.apart, dict[str, tuple[float, float]]()

    def apart(kind: str, number: int) -> tuple[float, float]:
        if kind not in known:
            known[kind] = measured(kind, number)
        return known[kind]

    monkeypatch.setattr(growth, "apart", apart)


@pytest.mark.usefixtures("one_process_a_kind")
@pytest.mark.parametrize("group", GROUPS)
def test_a_group_runs(group: str, tmp_path: Path) -> None:
    rows = import_module(f"benchmarks.{group}").rows(Effort(1, small=True))
    assert rows and len({row.what for row in rows}) == len(rows)
    for row in rows:
        assert row.ours and all(value > 0 for value in [*row.ours, *row.peer, *row.limit])
        assert row.goal is None or row.verdict() in ("met", "missed")
    if group == "growth":
        draw(rows, tmp_path / "growth.png")
        assert (tmp_path / "growth.png").stat().st_size > 1000


def test_all_ways_of_routing_do_the_same_work() -> None:
    images, features, router, experts = setting(8)
    with torch.no_grad():
        torch.manual_seed(0)
        wanted = presorted(images[[0, 4, 1, 5, 2, 6, 3, 7]], experts)[[0, 2, 4, 6, 1, 3, 5, 7]]
        gate = router(features).gates[:, :, None, None]
        torch.testing.assert_close(ours(images, features, router, experts), gate * wanted)
        found = their_way(images, features, router, experts)  # with noise: other gates, the same experts
        shares = (found / wanted).flatten(1)
        torch.testing.assert_close(shares, shares[:, :1].expand_as(shares), rtol=1e-3, atol=1e-3)


def test_the_profile_distinguishes_both_implementations() -> None:
    lines = [line.strip("| ").split(" | ") for line in profile(8, rounds=1).splitlines()[2:]]
    spent = {name: (float(one), float(other)) for name, one, other in lines}
    assert sum(ours for ours, _ in spent.values()) > 0
    assert any(limit == 0 < ours for ours, limit in spent.values())  # operations that only routing needs
    assert spent["all, profiler included"][0] >= max(ours for ours, _ in spent.values())


def test_more_experts_are_compared_with_and_without_routing() -> None:
    found = re.findall(r"(\d\.\d{3}) \((\d\.\d{3})\)", more_experts(8, rounds=15))
    assert len(found) == 2 and all(0.2 < float(middle) <= float(bound) for middle, bound in found)


@pytest.mark.parametrize("part", full_size.PARTS)
def test_full_size_parts_at_a_small_size(part: str) -> None:
    encoder = {"vocab_size": 50, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    encoder |= {"hidden_size": 16, "max_position_embeddings": 77}
    sizes = SDXL_LIKE | {"text_encoder": encoder, "text_encoder_2": encoder | {"hidden_size": 24, "projection_dim": 20}}
    assert full_size.measure(part, BaseSizes(sizes, "here"), NETWORK, 64)["seconds"] > 0
