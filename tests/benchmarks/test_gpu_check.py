"""The GPU check runs on a CPU at tiny size, keeps what it has measured, and says which rows fail."""

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
ROWS = [(call, row) for call, rows in CALLS.items() for row in rows]
QUICK = {  # one of each kind; the others differ in their arguments
    *(
        "gradients, decoder",
        "synchronisations, one tiled step",
        "attention kernels",
        "out of memory falls back to tiles",
    ),
    *("joint_lora", "checkpoint", "512, float16"),
}


@pytest.mark.parametrize(("call", "name"), [pair for pair in ROWS if pair[1] in QUICK])
def test_a_row_measures_something(call: str, name: str) -> None:
    result = gpu_check.run_row(call, name, Context("cpu", tiny=True))
    assert "error" not in result and result.get("ok", True) and result["seconds"] > 0
    json.dumps(result)


def test_rows_of_the_issue_are_there() -> None:
    assert len(CALLS["correctness"]) >= 10 and len(CALLS["training"]) >= 10 and len(CALLS["inference"]) >= 14


def failing(context: Context) -> dict[str, Any]:
    raise RuntimeError("no such kernel\nand more")


def test_a_failed_row_is_kept_and_decides_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"good": Row(lambda context: {"ok": True, "figure": 1.5}), "plain": Row(lambda context: {"figure": 2})}
    monkeypatch.setitem(gpu_check.CALLS, "training", rows)
    assert gpu_check.main(["training", *CPU, "--out", str(tmp_path / "good.json")]) == 0
    monkeypatch.setitem(gpu_check.CALLS, "training", rows | {"bad": Row(failing)})
    assert gpu_check.main(["training", *CPU, "--out", str(tmp_path / "bad.json")]) == 1
    kept = json.loads((tmp_path / "bad.json").read_text())["rows"]
    assert kept["training: good"]["figure"] == 1.5
    assert kept["training: bad"] | {"seconds": 0} == {
        "ok": False,
        "error": "RuntimeError: no such kernel",
        "seconds": 0,
    }
    lines = capsys.readouterr().out.splitlines()
    assert any("training: bad" in line and "FAIL" in line for line in lines)


def test_a_row_that_does_not_end_is_stopped() -> None:
    arguments = Namespace(device="cpu", size="tiny")
    result = gpu_check.run_child("training", "joint", arguments, limit=0.2)
    assert result["ok"] is False and "not finished after" in result["error"]


def test_it_starts_without_opencv_and_its_like() -> None:
    """In a process of its own, in which these packages cannot be found."""
    code = (
        "import sys, importlib.util\n"
        "from benchmarks.gpu_stubs import PACKAGES, stub_missing_packages\n"
        "find = importlib.util.find_spec\n"
        "gone = ('cv2', 'isal', 'skimage', 'piq', 'lpips', 'pandas')\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in gone else find(name, *rest)\n"
        "print(stub_missing_packages())\n"
        "importlib.util.find_spec = find\n"
        "import benchmarks.gpu_rows, cv2\n"
        "assert not hasattr(cv2, '__version__')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cv2" in done.stdout
