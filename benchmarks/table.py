"""A row of the table: what was measured, in all rounds; its ratios, whether they meet the goal, and its line."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.timing import with_bound

WORSE = 1.15
"""A ratio that grew by more than this is named by `make bench-check`."""
HEAD = "| measured | the peer's method | the limit | ours / peer | ours / limit | goal | | remark: ours, peer, limit |"


@dataclass(frozen=True)
class Goal:
    """At most so many times the peer's or the limit's figure, or so many seconds above the limit's."""

    at_most: float
    of: Literal["peer", "limit", "seconds above limit"]

    def __str__(self) -> str:
        """The goal in words."""
        if self.of != "seconds above limit":
            return f"≤ {self.at_most:g} x {self.of}"
        text = f"{self.at_most:g} s" if self.at_most >= 0.1 else f"{self.at_most * 1e3:g} ms"
        return f"≤ limit + {text}"


@dataclass
class Row:
    """One line: all rounds of ours, the peer's method and the limit, in seconds (or in ``unit``).

    Attributes:
        what: the work; unique in the table.
        ours: one value a round.
        peer: likewise; empty where no peer does this.
        limit: likewise; empty where there is none.
        peer_way: what the peer's method is.
        limit_is: what the limit is.
        goal: None for what is only reported.
        remark: for the last column.
        unit: of the values.
        curve: what a plot shows: x values under ``x``, others by name.
    """

    what: str
    ours: list[float]
    peer: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    peer_way: str = ""
    limit_is: str = ""
    goal: Goal | None = None
    remark: str = ""
    unit: Literal["s", "MiB", "dB"] = "s"
    curve: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, to: Literal["peer", "limit"]) -> tuple[float, float] | None:
        """Median and upper bound of ours over the other, round by round; None without the other."""
        others = self.peer if to == "peer" else self.limit
        return with_bound([a / b for a, b in zip(self.ours, others, strict=True)]) if others else None

    def measured(self) -> tuple[float, float] | None:
        """Median and bound of what the goal is about."""
        if self.goal is None:
            return None
        if self.goal.of == "seconds above limit":
            return with_bound([a - b for a, b in zip(self.ours, self.limit, strict=True)])
        return self.ratio(self.goal.of)

    def verdict(self) -> Literal["", "met", "met by the median", "missed"]:
        """``met`` is meant of the upper bound, where there are rounds enough for one."""
        found = self.measured()
        if self.goal is None or found is None:
            return ""
        if found[0] > self.goal.at_most:
            return "missed"
        bound = found[0] if math.isinf(found[1]) else found[1]
        return "met" if bound <= self.goal.at_most else "met by the median"

    def line(self) -> str:
        """The row in Markdown."""
        goal, found = "", self.measured()
        if self.goal is not None and found is not None:
            goal = str(self.goal)
            if self.goal.of == "seconds above limit":
                goal += f": {found[0] * 1e3:.2f} ({found[1] * 1e3:.2f}) ms"
        ratios = [_ratio_text(self.ratio(to)) for to in ("peer", "limit")]
        values = [self._value(values) for values in (self.ours, self.peer, self.limit) if values]
        remark = ", ".join(values) + (f"; {self.remark}" if self.remark else "")
        cells = [self.what, self.peer_way, self.limit_is, *ratios, goal, self.verdict(), remark]
        return "| " + " | ".join(cells) + " |"

    def _value(self, values: list[float]) -> str:
        value = with_bound(values)[0]
        if self.unit != "s":
            return f"{value:.{2 if self.unit == 'dB' else 0}f} {self.unit}"
        scale, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
        return f"{value * scale:.3g} {unit}"


def _ratio_text(ratio: tuple[float, float] | None) -> str:
    if ratio is None:
        return ""
    digits = 3 if ratio[0] >= 0.1 else 5
    bound = "" if math.isinf(ratio[1]) else f" ({ratio[1]:.{digits}f})"
    return f"{ratio[0]:.{digits}f}{bound}"


def seconds_row(what: str, seconds: dict[str, list[float]], **more: Any) -> Row:
    """A row of what ``alternate`` returned for ``ours``, and ``peer`` and ``limit`` where they were timed."""
    others = {name: seconds[name] for name in ("peer", "limit") if name in seconds}
    return Row(what, seconds["ours"], **others, **more)


# Files.


def save(path: Path, groups: dict[str, list[Row]], about: dict[str, Any]) -> None:
    """Write all rounds as JSON, numbers to four digits."""
    rows = {group: [_rounded(asdict(row)) for row in rows] for group, rows in groups.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"groups": rows}, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Read what ``save`` wrote."""
    about = json.loads(path.read_text(encoding="utf-8"))
    groups = {
        group: [Row(**{**row, "goal": row["goal"] and Goal(**row["goal"])}) for row in rows]
        for group, rows in about.pop("groups").items()
    }
    return groups, about


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def table(rows: Iterable[Row]) -> str:
    """Head and lines in Markdown."""
    return "\n".join([HEAD, "|" + "---|" * HEAD.count(" | ") + "---|", *(row.line() for row in rows)])


def read_ratios(markdown: str) -> dict[tuple[str, str], float]:
    """Median ratios of a committed table, by (measured, "peer" or "limit")."""
    found = {}
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(cells) < 6:
            continue
        for to, cell in (("peer", cells[3]), ("limit", cells[4])):
            if number := re.match(r"\d+\.\d+", cell):
                found[cells[0], to] = float(number[0])
    return found


def worsened(committed: str, rows: Sequence[Row]) -> list[str]:
    """One line for each ratio that grew by more than 15% over the committed table's, and each row that it lacks."""
    before, lines = read_ratios(committed), []
    for row in rows:
        for to in ("peer", "limit"):
            ratio = row.ratio(to)  # type: ignore[arg-type]
            if ratio is None:
                continue
            old = before.get((row.what, to))
            if old is None:
                lines.append(f"{row.what}: ours / {to} is not in the committed table; run `make bench`")
            elif ratio[0] > WORSE * old:
                lines.append(f"{row.what}: ours / {to} was {old:.3g}, is {ratio[0]:.3g} ({ratio[0] / old - 1:+.0%})")
    return lines
