"""benchmarks/README.md: the table of one run, and the full-size runs."""

import json
from pathlib import Path

from benchmarks.table import load, table

_TEXT = """# Benchmarks

`make bench` measures everything here (about 25 minutes on two idle cores) and writes this file; `make bench-check` measures
again, compares the ratios with this table, and names what got worse by more than 15%.

Methods run in turn, {rounds} rounds or more, with one thread a process; a ratio is the median over rounds of the ratio
within a round, the number in brackets its upper 90% bound. Single-threaded work is timed in processor time, so that other
processes on the machine change little; evaluation, start and processes in wall time. "Met" is meant of the bound. Peers' ways
are written out here from their descriptions, not run. Absolute times are a remark: they drift with the machine. Rows that
need long (memory, growth) are measured once. All rounds: [results/{name}](results/{name}).

{machine}. {date}, commit {commit}.

{table}

![Growth with picture size, names, experts, processes](growth.png)

Time in tiles grows with the pixels, memory beyond one tile with the picture alone; names cost the same each, and an idle
expert nothing.
"""
_FULL = """
## Full size

`make full-size-check`: SDXL's real sizes with random bfloat16 weights on this machine's processor, each part in a process of
its own. Peak growth is that over the process after imports.

| part | seconds | peak growth, GB | |
|---|---|---|---|
"""
_ROUTING = """
## What bounds the routing

`python -m benchmarks.routing`, a part of `make bench`: operations of one forward and backward, ours and the limit's, in turn. The convolutions are the
same. What is left over the limit are passes over memory that inputs sorted beforehand do not need: the inputs gathered,
outputs weighted by their gates, the gradient weighted and multiplied with the outputs for the gates' own gradient, and the
inputs' gradients brought back.

"""


def readme(run: Path, full_size: Path, routing: Path) -> str:
    """The file's text for a run that was saved, with the full-size runs and the routing's profile where there are any."""
    groups, about = load(run)
    rows = [row for found in groups.values() for row in found]
    rounds = min(len(row.ours) for row in rows if row.peer and row.unit == "s")
    text = _TEXT.format(
        rounds=rounds, name=run.name, machine=about["machine"], date=about["date"],
        commit=str(about.get("commit") or "unknown")[:10], table=table(rows),
    )  # fmt: skip
    if full_size.is_file():
        text += _FULL + full_size_lines(json.loads(full_size.read_text(encoding="utf-8")))
    if routing.is_file():
        text += _ROUTING + routing.read_text(encoding="utf-8")
    return text


def full_size_lines(parts: dict[str, dict[str, float | str]]) -> str:
    """A line a part."""
    return "".join(
        f"| {name} | {part['seconds']:.1f} | {part['bytes'] / 1e9:.2f} | {part['remark']} |\n"  # type: ignore[operator]
        for name, part in parts.items()
    )
