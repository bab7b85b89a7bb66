"""Pairing by name: rules, orphans, doubles, sizes."""

from pathlib import Path

import numpy as np
import pytest

from tests.fake_trees.images import save
from unildiff.data.images import image_size
from unildiff.data.pairing import RULES, Fault, pair_by_name, size_faults


def paths(text: str) -> list[Path]:
    return [Path(name) for name in text.split()]


@pytest.mark.parametrize(
    ("rule", "degraded", "clean"),
    [
        ("same", "in/a.jpg", "gt/a.png"),
        ("prefix", "in/0025_0.8_0.1.jpg", "gt/0025.png"),
        ("prefix", "in/a_b.png", "gt/a_b.png"),
        ("no", "in/rain-12.png", "gt/norain-12.png"),
        ("no", "in/7.png", "gt/no7.png"),
        ("no", "in/7.png", "gt/7.png"),
        ("bsd", "in/117025.png", "gt/a117025.jpg"),
        ("bsd", "in/a117025.jpg", "gt/117025.jpg"),
        ("bsd", "in/00001.bmp", "gt/00001.bmp"),
        ("raindrop", "in/3_rain.png", "gt/3_clean.png"),
    ],
)
def test_each_rule(rule, degraded, clean):
    result = pair_by_name([Path(degraded)], [Path(clean)], RULES[rule])
    assert result.pairs == [(Path(degraded), Path(clean))] and not result.faults


def test_the_full_name_wins_over_the_prefix():
    result = pair_by_name(paths("in/1_2.png in/1_3.png"), paths("gt/1.png gt/1_2.png"), RULES["prefix"])
    assert result.pairs == [(Path("in/1_2.png"), Path("gt/1_2.png")), (Path("in/1_3.png"), Path("gt/1.png"))]


def test_orphans_on_both_sides_are_named():
    result = pair_by_name(paths("in/a.png in/b.png in/c.png"), paths("gt/b.png gt/d.png"), RULES["same"])
    assert result.pairs == [(Path("in/b.png"), Path("gt/b.png"))]
    assert [(fault.kind, fault.files) for fault in result.faults] == [
        ("orphan", tuple(paths("in/a.png in/c.png"))),
        ("orphan", tuple(paths("gt/d.png"))),
    ]
    assert str(result.faults[0]) == "2 degraded without a ground truth (same name): in/a.png, in/c.png"


def test_unused_ground_truth_is_not_a_fault_where_the_rule_shares_them():
    assert not pair_by_name(paths("in/1_a.png"), paths("gt/1.png gt/2.png"), RULES["prefix"]).faults


def test_doubles_are_in_no_pair():
    result = pair_by_name(paths("in/a.png in/a.jpg in/b.png"), paths("gt/a.png gt/b.png gt/b.jpg"), RULES["same"])
    assert result.pairs == []
    assert [(f.kind, f.files) for f in result.faults] == [
        ("duplicate", tuple(paths("in/a.png in/a.jpg gt/b.png gt/b.jpg")))
    ]


def test_two_inputs_may_not_claim_one_truth():
    result = pair_by_name(paths("in/a1.png in/1.png in/2.png"), paths("gt/1.png gt/2.png"), RULES["bsd"])
    assert result.pairs == [(Path("in/2.png"), Path("gt/2.png"))]
    assert [(f.kind, f.files) for f in result.faults] == [("duplicate", tuple(paths("in/a1.png in/1.png")))]


def test_messages_name_five_files_and_count_the_rest():
    fault = Fault("orphan", tuple(paths("a b c d e f g")), "alone")
    assert str(fault) == "7 alone: a, b, c, d, e and 2 more"


def test_sizes_and_unreadable_headers(tmp_path):
    for name, size in {"a": (4, 6), "b": (4, 6), "c": (6, 4)}.items():
        save(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    broken = tmp_path / "d.png"
    broken.write_text("?")
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    faults = list(size_faults([(a, b), (a, c), (a, broken)], image_size))
    assert [(fault.kind, fault.files) for fault in faults] == [("size", (a, c)), ("unreadable", (broken,))]
    assert "6x4 against 4x6" in str(faults[0])
