"""Fixtures that more than one folder of tests uses."""

from pathlib import Path

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
