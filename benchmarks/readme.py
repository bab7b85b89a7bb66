"""benchmarks/README.md: the table of one run, and the full-size runs."""

import json
from pathlib import Path

from benchmarks.table import load, table

_TEXT = """# Benchmarks

`make bench` runs every measurement (about 25 minutes on two idle cores) and writes this file. `make bench-check` measures again,
compares the ratios with this table, and lists those that got worse by more than 15%.

Methods take turns for at least {rounds} rounds, with one thread per process. A ratio is the median over rounds of the ratio within a
round; its upper 90% bound is in brackets, and a goal is met if the bound meets it. Single-threaded work is timed in processor time, so that
other processes have little effect; evaluation, start-up and multi-process rows are timed in wall time. The peers' methods are written out
here from their descriptions. Absolute times are remarks, because they drift with the machine. Slow rows (memory, growth) are measured once.
All rounds: [results/{name}](results/{name}).

{machine}. {date}, commit {commit}.

{table}

![Growth with image size, names, experts, processes](growth.png)

With tiles, time grows with the number of pixels, and memory beyond one tile only with the image itself. The time per name is constant, and
idle experts cost nothing.
"""
_FULL = """
## Full size

`make full-size-check` runs SDXL's real sizes with random bfloat16 weights on this machine's processor, each part in its own process.
Peak growth is measured above the process after its imports.

| part | seconds | peak growth, GB | |
|---|---|---|---|
"""
_ROUTING = """
## What bounds the routing

`python -m benchmarks.routing` (part of `make bench`) lists the operations of one forward and backward pass, ours and the limit's, in turn.
The convolutions are the same. The difference consists of passes over memory that inputs sorted beforehand do not need: gathering the inputs,
weighting outputs by their gates, weighting the gradient and multiplying it with the outputs for the gates' own gradient, and scattering the
inputs' gradients.

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
    """Return one line per part."""
    return "".join(
        f"| {name} | {part['seconds']:.1f} | {part['bytes'] / 1e9:.2f} | {part['remark']} |\n"  # type: ignore[operator]
        for name, part in parts.items()
    )
