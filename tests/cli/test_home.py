"""``~`` in options and configs, homes that are none, and a current folder that is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_trees.images import pair
from unildiff.cli.arguments import read_config
from unildiff.cli.main import in_home, main
from unildiff.cli.trainer_settings import check_settings
from unildiff.utils.errors import UserError
from unildiff.utils.paths import cache_folder


def test_the_home_folder_is_put_in_where_a_shell_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert in_home("~/a") == f"{tmp_path}/a" and in_home("--data.root=~/a") == f"--data.root={tmp_path}/a"
    assert in_home("~") == str(tmp_path) and in_home("--caption=a ~/b") == "--caption=a ~/b"
    assert [in_home(text) for text in ("~other/a", "a~", "--x", "-c", "a=~/b")] == [
        "~other/a",
        "a~",
        "--x",
        "-c",
        "a=~/b",
    ]
    (tmp_path / "c.yaml").write_text("run_dir: ~/runs\ndata: {init_args: {root: ~/set, lq: ['~/a/*', b]}}\n")
    expected = {
        "run_dir": f"{tmp_path}/runs",
        "data": {"init_args": {"root": f"{tmp_path}/set", "lq": [f"{tmp_path}/a/*", "b"]}},
    }
    assert read_config(tmp_path / "c.yaml") == expected
    config = {"run_dir": "~/runs", "data": {"init_args": {"root": "~/set", "lq": ["~/a/*", "b"]}}}
    check_settings("validate", config)
    assert config == expected


@pytest.mark.parametrize("home", ["~", "relative", ""])
def test_a_home_that_is_none(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        pair(tmp_path / "set", f"lq/{number}.png", f"gt/{number}.png", number)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert main(["data", "check", "folder", "--root", "../set"]) == 0
    assert not os.listdir()  # neither "~" nor "relative"
    if home:
        assert cache_folder() is None
        with pytest.raises(UserError, match=r"~/a: the home folder is not known \(HOME is .*\); give a full path"):
            in_home("~/a")


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from unildiff.cli.main import main; "
        "sys.exit(main(['restore', 'a.png', 'b.png']))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("unildiff: error: ")
