"""How a result was made: package versions and the state of the checkout, for the records of runs and tests."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("unildiff", "torch", "torchvision", "lightning", "diffusers", "transformers", "safetensors", "torchmetrics"),
    *("jsonargparse", "numpy", "scikit-image", "opencv-python-headless", "pillow"),
)


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit of the checkout that holds ``folder``, and whether files differ from it; None without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = None if commit is None else _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "uncommitted_changes": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str | None]:
    """Return the version of Python and of each package that a result may depend on; None where it is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
