"""The GPU check completes on a CPU at tiny size, keeps its measurements, and reports failed rows."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_context import Context
from benchmarks.gpu_rows import CALLS, Row

CPU = ["--device", "cpu", "--size", "tiny", "--same-process"]
WITHOUT = """
import sys
from importlib.machinery import PathFinder
from benchmarks import gpu_stubs

gone = {*gpu_stubs.PACKAGES, "peft"}

class Without(PathFinder):
    find_spec = lambda name, *rest: None if name.partition(".")[0] in gone else PathFinder.find_spec(name, *rest)
    find_distributions = lambda *given: (
        found for found in PathFinder.find_distributions(*given) if found.name.lower().replace("-", "_") not in gone
    )

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from benchmarks import gpu_check, gpu_training
import cv2
assert not hasattr(cv2, "__version__"), "OpenCV was found"
context = gpu_check.Context("cpu", tiny=True)
assert gpu_check.run_row("training", "joint_lora", context)["skipped"] == "peft is not installed"
sys.exit(gpu_check.main(["inference", *sys.argv[1:]]))
"""
"""A program that runs the inference call without OpenCV and similar packages."""


def check_all_rows_passed(out: Path, call: str) -> None:
    about = json.loads(out.read_text(encoding="utf-8"))
    assert about["device"] == "CPU" and list(about["rows"]) == [f"{call}: {name}" for name in CALLS[call]]
    for name, result in about["rows"].items():
        assert "error" not in result and result.get("ok", True) and result["seconds"] > 0, (name, result)


@pytest.mark.parametrize("call", ["correctness", "training"])
def test_a_call_completes(call: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([call, *CPU, "--out", str(tmp_path / "check.json")]) == 0
    check_all_rows_passed(tmp_path / "check.json", call)
    table = capsys.readouterr().out.partition("CPU, size tiny\n")[2].splitlines()[:-1]
    assert [line.startswith(f"{call}: {name}  ") for line, name in zip(table[1:], CALLS[call], strict=True)]


def test_inference_completes_without_opencv_and_similar_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, *CPU, "--out", str(tmp_path / "check.json")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    check_all_rows_passed(tmp_path / "check.json", "inference")


def failing(context: Context) -> dict[str, Any]:
    raise RuntimeError("no such kernel\nand more")


def test_a_failed_row_is_kept_and_decides_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    rows = {
        "good": Row(lambda context: {"ok": True, "figure": 1.5}),
        "second": Row(lambda context: {"before": list(json.loads(out.read_text())["rows"])}),
    }
    monkeypatch.setitem(gpu_check.CALLS, "training", rows)
    assert gpu_check.main(["training", *CPU, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["rows"]["training: second"]["before"] == [
        "training: good"
    ]  # kept after each row
    monkeypatch.setitem(gpu_check.CALLS, "training", rows | {"bad": Row(failing), "last": rows["good"]})
    assert gpu_check.main(["training", *CPU, "--out", str(out)]) == 1
    kept = json.loads(out.read_text())["rows"]
    assert kept["training: last"]["figure"] == 1.5
    assert (kept["training: bad"]["ok"], kept["training: bad"]["error"]) == (False, "RuntimeError: no such kernel")
    lines = capsys.readouterr().out.splitlines()
    assert any("training: bad" in line and "FAIL" in line for line in lines)


def test_a_row_runs_in_its_own_process_within_its_time() -> None:
    arguments = Namespace(device="cpu", size="tiny")
    stopped = gpu_check.run_child("training", "joint", arguments, limit=0.2)
    assert stopped["ok"] is False and "not finished after" in stopped["error"]
    assert gpu_check.run_child("inference", "512, bfloat16", arguments, limit=120)["ok"] is True
