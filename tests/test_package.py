"""What a user installs: everything travels in the wheel, and the installed copy works from any folder."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from unildiff.utils.paths import config_names, config_path, configs_folder, weights_path

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


def test_all_that_is_needed_travels(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {"unildiff/py.typed", "datamodules/py.typed"}
    for package in ("unildiff", "datamodules"):
        files = quietly("git", "-C", str(ROOT), "ls-files", package).split("\n") if (ROOT / ".git").exists() else []
        expected |= {file for file in files if file and (ROOT / file).is_file()}
    expected |= {f"unildiff/{name}" for name in config_names()}
    assert expected <= inside
    assert not [name for name in inside if name.startswith(("tests/", "runs/", "data/", "benchmarks/"))]
    assert wheel.stat().st_size < 60e6  # PyPI takes 100 MB; the tiny model is at most 20


def test_an_installed_copy_works_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as content:  # what pip does with a wheel that has no scripts of its own
        content.extractall(target)

    def run(code: str) -> str:
        prepared = f"import sys; sys.path.insert(0, {str(target)!r}); {code}"
        return quietly(sys.executable, "-c", prepared, cwd=elsewhere).strip()

    found = run("from unildiff.utils.paths import config_path; print(config_path('configs/tiny/test.yaml'))")
    assert Path(found) == target / "unildiff/configs/tiny/test.yaml"
    names = run("import datamodules; print(datamodules.class_path('cdd11'), datamodules.__file__)").split()
    assert names == ["datamodules.cdd11.CDD11DataModule", str(target / "datamodules/__init__.py")]
    assert "restore" in run("from unildiff.cli.main import main; main(['--help'])")
    folder = run("from unildiff.utils.paths import weights_path; print(weights_path('tiny'))")
    assert Path(folder) == target / "unildiff/weights/tiny"
    assert Path(folder).exists() == weights_path("tiny").exists()
    entries = (next(target.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "unildiff = unildiff.cli.main:main" in entries


def test_configs_in_the_checkout() -> None:
    assert configs_folder() == ROOT / "configs"
    assert config_path("configs/tiny/test.yaml") == config_path("tiny/test.yaml") == ROOT / "configs/tiny/test.yaml"
    for name in config_names():
        first = (ROOT / name).read_text().partition("\n")[0]
        assert first.startswith("#"), f"{name} must open with the command that runs it"
