"""What the tests of the command line share: a toy model and toy data, an empty folder, and the one line of a mistake."""

import sys
from pathlib import Path

import pytest

from unildiff.cli.main import main

TOY = ["--model", "tests.callbacks.toy.ToyModule", "--data", "tests.callbacks.toy.ToyData"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
PYTHON = [sys.executable, "-m", "unildiff"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNILDIFF_DEBUG", raising=False)


def failure(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a mistaken command; return its one line."""
    capfd.readouterr()
    assert main(arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("unildiff: error: ")
    assert "Traceback" not in lines[0]
    return lines[0]
