"""The wheel contains everything, and an installed copy works from any folder."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from unildiff.utils.paths import config_names, config_path, configs_folder

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling to build")


def quietly(*command: str, **settings: object) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, **settings).stdout  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    quietly(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out), cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_is_complete(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {"unildiff/py.typed", "unildiff/datamodules/py.typed", "unildiff/datamodules/cdd11.py"}
    for package, prefix in (("unildiff", ""), ("datamodules", "unildiff/")):
        files = quietly("git", "-C", str(ROOT), "ls-files", package).split("\n") if (ROOT / ".git").exists() else []
        expected |= {prefix + file for file in files if file and (ROOT / file).is_file()}
    expected |= {f"unildiff/{name}" for name in config_names()}
    assert expected <= inside
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {"unildiff"}
    assert wheel.stat().st_size < 60e6  # PyPI takes 100 MB; the tiny model is at most 24


INSTALLED = """
import sys, unildiff
from unildiff.cli.main import main
from unildiff.utils.datamodules import class_path
from unildiff.utils.paths import config_path, weights_path
assert main(["data", "list"]) == 0 and "torch" not in sys.modules
import datamodules, datamodules.mine, datamodules.folder, unildiff.datamodules.folder
assert datamodules.OWNER == "user" and datamodules.mine.OWNER == "user"
assert datamodules.folder is unildiff.datamodules.folder
print("\\nFOUND", class_path("cdd11"), unildiff.__file__, config_path("configs/tiny/test.yaml"), weights_path("tiny"))
sys.exit(main(["fit", "--config", "configs/tiny/joint.yaml", "--print_config"]))
"""


def test_an_installed_copy_works_beside_a_folder_named_datamodules(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    (elsewhere / "datamodules").mkdir(parents=True)
    for name in ("__init__", "mine"):
        (elsewhere / "datamodules" / f"{name}.py").write_text("OWNER = 'user'\n")
    with zipfile.ZipFile(wheel) as content:  # as pip does with a wheel without scripts
        content.extractall(target)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    prepared = f"import sys; sys.path[:] = ['', {str(target)!r}, *sys.path[1:]]\n{INSTALLED}"
    output = quietly(sys.executable, "-c", prepared, cwd=elsewhere, env=environment)
    found, *config = output.partition("FOUND ")[2].splitlines()
    assert found.split() == [
        "unildiff.datamodules.cdd11.CDD11DataModule",
        *(str(target / "unildiff" / name) for name in ("__init__.py", "configs/tiny/test.yaml", "weights/tiny")),
    ]
    assert yaml.safe_load("\n".join(config))["data"]["class_path"] == "datamodules.deadleaves.DeadLeavesDataModule"
    entries = (next(target.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "unildiff = unildiff.cli.main:main" in entries


def test_a_checkout_works_beside_a_folder_named_datamodules(tmp_path: Path) -> None:
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "__init__.py").write_text("OWNER = 'user'\n")
    code = (
        f"import sys; sys.path[1:1] = [{str(ROOT)!r}]; import unildiff, datamodules; from importlib.util import find_spec; "
        "assert datamodules.OWNER == 'user'; print(find_spec('datamodules.folder').origin)"
    )
    assert quietly(sys.executable, "-c", code, cwd=tmp_path).strip() == str(ROOT / "datamodules/folder.py")


def test_configs_in_the_checkout() -> None:
    assert configs_folder() == ROOT / "configs"
    assert config_path("configs/tiny/test.yaml") == config_path("tiny/test.yaml") == ROOT / "configs/tiny/test.yaml"
    for name in config_names():
        first = (ROOT / name).read_text().partition("\n")[0]
        assert first.startswith("#"), f"{name} must open with the command that runs it"
