"""Ratios, goals and the check by hand."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.readme import readme
from benchmarks.table import Goal, Row, load, save, table, worsened
from benchmarks.timing import alternate, upper_bound

ROUNDS = 15


def row(what: str = "work", ours: float = 2.0, goal: Goal | None = None) -> Row:
    return Row(what, [ours] * ROUNDS, [4.0] * ROUNDS, [1.9] * ROUNDS, "their way", "the least", goal)


def test_upper_bound_by_hand() -> None:
    # Of 15 values at most r lie below the median with P = sum of C(15, i) / 2^15 for i <= r: 0.849 for r = 9, 0.941 for
    # r = 10. So the 11th smallest is the first that the median does not exceed with 90%.
    assert upper_bound(list(range(15))) == 10
    assert math.isinf(upper_bound([1.0, 2.0]))


def test_alternate_takes_turns() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]  # once untimed, then first from round to round
    assert [len(values) for values in seconds.values()] == [3, 3]


@pytest.mark.parametrize(
    ("goal", "verdict", "text"),
    [
        (Goal(0.5, "peer"), "met", "≤ 0.5 x peer"),  # 2 / 4
        (Goal(0.49, "peer"), "missed", "≤ 0.49 x peer"),
        (Goal(1.05, "limit"), "missed", "≤ 1.05 x limit"),  # 2 / 1.9 = 1.0526
        (Goal(0.11, "seconds above limit"), "met", "≤ limit + 0.11 s: 100.00"),
        (Goal(0.09, "seconds above limit"), "missed", "≤ limit + 90 ms: 100.00"),
    ],
)
def test_goals_by_hand(goal: Goal, verdict: str, text: str) -> None:
    made = row(goal=goal)
    assert made.verdict() == verdict and text in made.line()
    assert "| 0.500 (0.500) | 1.053 (1.053) |" in made.line()


def test_a_median_below_the_goal_is_not_enough() -> None:
    slow = Row("work", [1.0] * 8 + [2.0] * 7, limit=[1.0] * ROUNDS, goal=Goal(1.5, "limit"))
    assert slow.verdict() == "met by the median"  # the 11th smallest of 15 is 2


def test_the_check_names_rows_that_got_worse() -> None:
    committed = table([row("one"), row("two")])
    assert worsened(committed, [row("one", 2.29), row("two")]) == []  # 2.29 / 2 = 1.145
    lines = worsened(committed, [row("one"), row("two", 2.32)])  # 1.16
    assert lines == ["two: ours / peer was 0.5, is 0.58 (+16%)", "two: ours / limit was 1.05, is 1.22 (+16%)"]
    assert "not in the committed table" in worsened(committed, [row("three")])[0]


def test_make_bench_check_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(table([row()]))
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "measured", lambda group, effort: [row(ours=2.0)])
    assert bench.main(["--check", "--only", "routing"]) == 0
    monkeypatch.setattr(bench, "measured", lambda group, effort: [row(ours=3.0)])
    assert bench.main(["--check", "--only", "routing"]) == 1
    assert "work: ours / peer was 0.5, is 0.75 (+50%)" in capsys.readouterr().out
    assert (
        bench.main(["--only", "routing"]) == 0 and not (tmp_path / "results").exists()
    )  # a partial run writes no files


def test_a_run_is_kept_and_becomes_the_table(tmp_path: Path) -> None:
    path, full, profile = tmp_path / "run.json", tmp_path / "full_size.json", tmp_path / "routing_profile.md"
    save(path, {"group": [row(goal=Goal(0.5, "peer"))]}, {"machine": "here", "date": "today", "commit": "abc"})
    assert load(path)[0] == {"group": [row(goal=Goal(0.5, "peer"))]}
    full.write_text(json.dumps({"a step": {"seconds": 12.3, "bytes": 4.5e9, "remark": "fine"}}))
    profile.write_text("| gathered | 1.00 | 0.00 |\n")
    text = readme(path, full, profile)
    assert row(goal=Goal(0.5, "peer")).line() in text and "| a step | 12.3 | 4.50 | fine |" in text
    assert "| gathered | 1.00 | 0.00 |" in text and "gathered" not in readme(path, full, tmp_path / "none.md")
    assert worsened(text, [row()]) == []
