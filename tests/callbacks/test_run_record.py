"""A run's folder records how it was made, and a later command in it overwrites nothing."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unildiff.callbacks.run_record import new_run_folder, newest_checkpoint
from unildiff.cli.main import main
from unildiff.utils.errors import UserError
from unildiff.utils.provenance import git_state, package_versions

LINE = [
    "--model",
    "tests.callbacks.toy.ToyModule",
    "--data",
    "tests.callbacks.toy.ToyData",
    "--trainer.accelerator",
    "cpu",
]
STEPS = ["--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1", "--data.validation", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["unildiff", "fit", "--data", "a folder"])


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fit_and_then_two_tests_in_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *LINE, *STEPS, "--run_dir", "run", "--seed_everything", "7"]) == 0
    run = Path("run")
    after_fit = files(run)
    assert {"config.fit.yaml", "run.fit.json", "checkpoints/step-000003.ckpt", "checkpoints/last.ckpt"} <= set(
        after_fit
    )
    record: dict[str, Any] = json.loads(after_fit["run.fit.json"])
    assert record["command"] == "unildiff fit --data 'a folder'"
    assert record["seed"] == 7
    assert record["status"] == "finished"
    assert record["ended"] >= record["started"]
    assert record["data"] == "ToyData"
    assert record["data_fingerprint"] == "toy-14"
    assert record["versions"]["torch"] == version("torch")
    assert record["device"] == "cpu"

    line = ["test", *LINE, "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir", "run"]
    assert main(line) == 0
    assert main(line) == 0
    after_tests = files(run)
    assert {name: after_tests[name] for name in after_fit} == after_fit
    assert {"config.test.yaml", "run.test.json", "config.test-2.yaml", "run.test-2.json"} <= set(after_tests)
    assert json.loads(after_tests["run.test-2.json"])["checkpoint"] == "run/checkpoints/last.ckpt"
    assert "run folder: run\n" in capsys.readouterr().out


def test_checkpoints_of_an_earlier_run_are_not_overwritten(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *LINE, *STEPS, "--run_dir", "run"]) == 0
    before = files(Path("run"))
    capfd.readouterr()
    assert main(["fit", *LINE, *STEPS, "--run_dir", "run"]) == 2
    assert "run holds checkpoints of an earlier run; --ckpt_path auto resumes it" in capfd.readouterr().err
    assert files(Path("run")) == before
    assert main(["fit", *LINE, *STEPS, "--run_dir", "run", "--ckpt_path", "auto", "--trainer.max_steps", "4"]) == 0


def test_curves() -> None:
    assert main(["fit", *LINE, *STEPS, "--run_dir", "run", "--trainer.val_check_interval", "1"]) == 0
    curves = EventAccumulator("run/curves").Reload()
    assert [event.step for event in curves.Scalars("val/psnr")] == [0, 1, 2]


def test_the_resolved_config_repeats_the_run() -> None:
    assert main(["fit", *LINE, *STEPS, "--run_dir", "one"]) == 0
    config = yaml.safe_load(Path("one/config.fit.yaml").read_text())
    assert (config["trainer"]["max_steps"], config["data"]["init_args"]["validation"]) == (3, 2)
    assert main(["fit", "--config", "one/config.fit.yaml", "--run_dir", "two"]) == 0
    again = yaml.safe_load(Path("two/config.fit.yaml").read_text())
    assert again == config | {"run_dir": "two"}


def test_a_run_has_its_own_folder_by_default() -> None:
    for _ in range(2):
        assert main(["fit", *LINE, *STEPS]) == 0
    folders = sorted(Path("runs/toymodule").iterdir())
    assert len(folders) == 2
    assert all((folder / "run.fit.json").exists() for folder in folders)
    assert newest_checkpoint("toymodule", "last").parent.parent in folders
    assert newest_checkpoint("*", "last").exists()


def test_a_mistake_leaves_no_folder() -> None:
    assert main(["fit", *LINE, "--data.count", "0", "--trainer.max_steps", "3"]) == 2
    assert not list(Path().iterdir())


def test_the_end_of_a_run_is_recorded() -> None:
    model = "tests.callbacks.toy_stages.Terminated"
    assert main(["fit", "--model", model, *LINE[2:], *STEPS[:1], "9", "--run_dir", "run"]) == 143
    record = json.loads(Path("run/run.fit.json").read_text())
    assert record["status"] == "SIGTERMException"
    assert record["ended"] is not None


def test_folder_names_do_not_collide() -> None:
    first = new_run_folder("joint")
    assert first.parts[:2] == ("runs", "joint")
    assert not first.exists()
    for folder in (first, first.with_name(f"{first.name}_2")):
        folder.mkdir(parents=True)
    assert new_run_folder("joint") not in (first, first.with_name(f"{first.name}_2"))


def test_newest_checkpoint_is_missing() -> None:
    with pytest.raises(UserError, match=r"no best\.ckpt in runs/joint"):
        newest_checkpoint("joint", "best")


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "uncommitted_changes": None}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-q", "-m", "one")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": False}
    (tmp_path / "f").write_text("2")
    assert git_state(tmp_path)["uncommitted_changes"] is True


def test_versions() -> None:
    versions = package_versions()
    assert versions["lightning"] == lightning.__version__
    assert versions["python"].count(".") == 2
