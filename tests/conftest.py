"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small import small_base
from unildiff.weights.folder import save_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a diffusers folder with a base far smaller than the tiny one, of its structure."""
    folder = tmp_path_factory.mktemp("base")
    save_base(small_base(), folder)
    return folder


@pytest.fixture(autouse=True)
def launched_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what Lightning leaves in the environment: LOCAL_RANK would tell the next test that it was launched."""
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Escape what UTF-8 cannot hold in a report: pytest-xdist ends the whole run when it cannot send one."""
    report = yield
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    if report.longrepr is not None and _escaped(str(report.longrepr)) != str(report.longrepr):
        report.longrepr = _escaped(str(report.longrepr))
    return report


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
