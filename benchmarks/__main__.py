"""Measures everything and writes the table, or compares with the committed one.

    python -m benchmarks                    # all groups, 15 rounds: results/DATE.json, README.md, growth.png; `make bench`
    python -m benchmarks --check            # compares ratios with README.md, writes nothing; `make bench-check`
    python -m benchmarks --only routing --rounds 5    # a trial: prints, writes nothing

Ends with 1 where a goal is missed, or with --check where a ratio got worse by more than 15%. Each group runs in a process of
its own, with one thread per process, and memory that was freed is kept (MALLOC_* below): else whether an array of 8 MB is
given back to the system and fetched again, page by page, depends on what ran before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.readme import readme
from benchmarks.table import Row, load, save, table, worsened
from benchmarks.timing import LEAST_ROUNDS, Effort, machine, one_thread
from unildiff.utils.provenance import git_state

HERE = Path(__file__).parent
GROUPS = (
    "routing", "sampling", "training", "attention", "data", "synthesis", "metrics", "score", "evaluation", "growth",
    "startup",
)  # fmt: skip
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    made.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    made.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    made.add_argument("--check", action="store_true", help="compare with the committed table instead of writing one")
    made.add_argument("--small", action="store_true", help="sizes of a trial")
    made.add_argument("--part", type=Path, help=argparse.SUPPRESS)  # what the process of a group writes
    options = made.parse_args(arguments)
    effort = Effort(options.rounds, options.small)
    if options.part:
        one_thread()
        (group,) = options.only
        save(options.part, {group: import_module(f"benchmarks.{group}").rows(effort)}, {})
        return 0
    groups = {group: measured(group, effort) for group in options.only}
    rows = [row for found in groups.values() for row in found]
    print(table(rows))
    if options.check:
        lines = worsened((HERE / "README.md").read_text(encoding="utf-8"), rows)
        print("\n".join(lines) or "no ratio got worse by more than 15%")
        return int(bool(lines))
    if effort.small or effort.rounds < LEAST_ROUNDS or tuple(options.only) != GROUPS:
        print("a trial: nothing written")
    else:
        write(groups)
    missed = [row.what for row in rows if row.verdict() == "missed"]
    print(f"missed: {'; '.join(missed)}" if missed else "every goal is met")
    return int(bool(missed))


def measured(group: str, effort: Effort) -> list[Row]:
    """Rows of one group, from a process of its own."""
    print(f"{datetime.now():%H:%M:%S} {group}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.json"
        command = [sys.executable, "-m", "benchmarks", "--only", group, "--rounds", str(effort.rounds)]
        command += ["--part", str(part), *(["--small"] if effort.small else [])]
        subprocess.run(command, check=True, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL, cwd=HERE.parent)
        return load(part)[0][group]


def write(groups: dict[str, list[Row]]) -> None:
    """Keep all rounds, draw the curves, write the table."""
    now = datetime.now()
    about = {"date": f"{now:%Y-%m-%d %H:%M}", "machine": machine(), "load": os.getloadavg()[0], **git_state(HERE)}
    path = HERE / "results" / f"{now:%Y-%m-%d_%H-%M}.json"
    save(path, groups, about)
    draw(groups["growth"], HERE / "growth.png")
    command, silent = [sys.executable, "-m", "benchmarks.routing"], subprocess.DEVNULL  # torch's profiler prints a lot
    subprocess.run(command, check=True, env=os.environ | ENVIRONMENT, cwd=HERE.parent, stdout=silent, stderr=silent)
    text = readme(path, HERE / "results" / "full_size.json", HERE / "results" / "routing_profile.md")
    (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
