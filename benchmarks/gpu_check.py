"""Proof that training and inference run on a GPU as they should: three calls of under 10 minutes, `make gpu-check`.

    python -m benchmarks.gpu_check correctness       # or training, inference; several may be given
    python -m benchmarks.gpu_check correctness --device cpu --size tiny

Needs no network: SDXL's weights are random and made on the device. Each row runs in a process of its own with a time limit,
and results are written after each row. Exit code 1 if a row fails. OpenCV and other packages that the rows do not call may
be missing; without peft, the LoRA row is skipped.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_stubs import stub_missing_packages

stub_missing_packages()

from benchmarks.gpu_rows import CALLS, Context, Row  # after the stubs

RESULTS = Path(__file__).parent / "results"
MINUTES = 10.0
"""Longest duration of a call."""


def run_row(call: str, name: str, context: Context) -> dict[str, Any]:
    """Run a row in this process; a failure becomes part of the result."""
    row = CALLS[call][name]
    start = time.perf_counter()
    try:
        result = row.run(context)
    except Exception as error:  # noqa: BLE001  # each row reports its own failure
        traceback.print_exc()
        result = {
            "ok": False,
            "error": f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
        }
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def run_child(call: str, name: str, arguments: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Run a row in a process of its own and stop it after ``limit`` seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", call, "--row", name]
    command += ["--device", arguments.device, "--size", arguments.size]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": f"not finished after {limit:.0f} s", "seconds": round(limit, 1)}
    lines = done.stdout.strip().splitlines()
    try:
        result: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"ok": False, "error": f"ended with exit code {done.returncode} and without a result", "seconds": 0.0}
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as lines to read: row, verdict, seconds and figures."""
    width = max(map(len, results), default=0) + 2
    lines = [f"{'row':{width}}{'':6}{'seconds':>7}  figures"]
    for name, result in results.items():
        verdict = {True: "pass", False: "FAIL"}.get(result.get("ok", ""), "")
        figures = {key: value for key, value in result.items() if key not in ("ok", "seconds")}
        text = ", ".join(f"{key} {_shown(value)}" for key, value in figures.items())
        lines.append(f"{name:{width}}{verdict:6}{result['seconds']:>7.1f}  {text}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(given: Sequence[str] | None = None) -> int:
    """Run the calls that are named; return 1 if a row fails."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("calls", nargs="*", choices=[*CALLS, []], help="all three by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["sdxl", "tiny"], default="sdxl")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_check.json")
    parser.add_argument("--row", help="run one row of one call here and print its result")
    parser.add_argument("--same-process", action="store_true", help="run all rows in this process, without time limits")
    arguments = parser.parse_args(given)
    context = Context(arguments.device, arguments.size == "tiny")
    calls = arguments.calls or list(CALLS)
    if arguments.row:
        print(json.dumps(run_row(calls[0], arguments.row, context)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    for call in calls:
        deadline = time.perf_counter() + 60 * MINUTES
        for name, row in CALLS[call].items():
            left = deadline - time.perf_counter()
            if left < 5 and not arguments.same_process:
                result: dict[str, Any] = {"error": "skipped, no time left", "seconds": 0.0}
            elif arguments.same_process:
                result = run_row(call, name, context)
            else:
                result = run_child(call, name, arguments, min(row.limit, left))
            results[f"{call}: {name}"] = result
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            about = {"device": context.name(), "size": arguments.size, "rows": results}
            arguments.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            print(f"{call}: {name}: {json.dumps(result)}", flush=True)
    print(f"\n{context.name()}, size {arguments.size}\n{table(results)}\nwritten to {arguments.out}")
    return int(any(result.get("ok") is False for result in results.values()))


__all__ = ["CALLS", "Row", "main", "run_child", "run_row", "table"]

if __name__ == "__main__":
    sys.exit(main())
