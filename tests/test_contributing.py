"""CONTRIBUTING's worked example of a new dataset, followed literally in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CODE = ("*.py", "*.yaml", "*.typed", "*.toml")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code and configs of this checkout, without weights and images."""

    def other_files(folder: str, names: list[str]) -> set[str]:
        kept = {name for name in names if Path(name).suffix and any(Path(name).match(kind) for kind in CODE)}
        return {name for name in names if name not in kept and not Path(folder, name).is_dir()} | {"__pycache__"}

    for name in ("unildiff", "datamodules", "configs", "tests"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=other_files)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def steps() -> dict[str, str]:
    """Return the contents of each file in the example, by the path named before its block."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.split(
        r"^## ", re.split(r"^## (?:A|Adding a) dataset$", text, flags=re.MULTILINE)[1], flags=re.MULTILINE
    )[0]
    found: dict[str, str] = {}
    for number in re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]:
        path, block = (
            re.search(r"`([\w/.]+/[\w.]+)`", number),
            re.search(r"^( *)```\w+\n(.*?)```", number, re.DOTALL | re.MULTILINE),
        )
        assert path is not None and block is not None, number
        found[path.group(1)] = textwrap.dedent(block.group(2))
    return found


def follow(copy: Path) -> None:
    for path, text in steps().items():
        file = copy / path
        if not file.exists():
            file.write_text(text, encoding="utf-8")
            continue
        sets, _, datasets = text.removeprefix("sets:\n").partition("datasets:\n")
        catalogue = file.read_text(encoding="utf-8")
        for key, entry in (("sets", sets), ("datasets", datasets)):
            assert catalogue.count(f"\n{key}:\n") == 1
            catalogue = catalogue.replace(f"\n{key}:\n", f"\n{key}:\n{entry}")
        file.write_text(catalogue, encoding="utf-8")


def test_the_worked_example_adds_a_dataset(copy: Path) -> None:
    catalogue, config, tree = steps()
    name = Path(config).stem
    assert (catalogue, config, tree) == (
        "unildiff/data/catalogue.yaml",
        f"configs/data/{name}.yaml",
        f"tests/fake_trees/{name}.py",
    )
    follow(copy)
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    tests = ["tests/datamodules/test_layouts.py", "tests/datamodules/test_configs.py", "tests/data/test_catalogue.py"]
    chosen = f"{name} or catalogue or without_a_fake_tree or has_a_config"
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests]
    done = subprocess.run(line, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for command in (["layout", name], ["list"]):
        line = [sys.executable, "-m", "unildiff", "data", *command]
        done = subprocess.run(line, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and name in done.stdout
