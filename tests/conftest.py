"""Fixtures that more than one folder of tests uses."""

from pathlib import Path

import pytest

from tests.small import small_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a diffusers folder with a base far smaller than the tiny one, of its structure."""
    folder = tmp_path_factory.mktemp("base")
    small_base().save(folder)
    return folder
