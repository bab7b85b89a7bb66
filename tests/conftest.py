"""Fixtures that several folders of tests use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import small_base
from unildiff.weights.folder import save_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a diffusers folder with a base that has the structure of the tiny one and is far smaller."""
    folder = tmp_path_factory.mktemp("base")
    save_base(small_base(), folder)
    return folder


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget what torch.compile traced before this test, and what it traced in it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def without_launcher_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove Lightning's environment variables: with LOCAL_RANK the next test would act as a launched process."""
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Escape characters of a report that UTF-8 cannot encode: pytest-xdist ends the run if it cannot send one."""
    report = yield
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    if report.longrepr is not None and _escaped(str(report.longrepr)) != str(report.longrepr):
        report.longrepr = _escaped(str(report.longrepr))
    return report


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
