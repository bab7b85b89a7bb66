"""Checkpoints on the command line: which is taken, what it brings along, and how a run ends."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.toy_commands import QUIET, TOY, elsewhere, failure  # noqa: F401  # the fixture is used by its name
from unildiff.cli import main as cli
from unildiff.cli.main import main
from unildiff.utils.locks import one_writer


def fit(folder: str, *arguments: str, model: str = "tests.callbacks.toy.ToyModule") -> str:
    line = ["fit", "--model", model, *TOY[2:], *QUIET, "--run_dir", folder, "--trainer.max_steps", "3"]
    assert main([*line, *arguments]) == 0
    return f"{folder}/checkpoints/last.ckpt"


def resolved_test(folder: str) -> dict:
    """Return the resolved config of a test."""
    return yaml.safe_load(Path(folder, "config.test.yaml").read_text())


def test_the_wrong_stage_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = fit("a")
    other = ["--model", "tests.callbacks.toy.OtherModule", *TOY[2:]]
    expected = "last.ckpt is of ToyModule, not of OtherModule; --ckpt_path resumes or tests the same stage"
    assert expected in failure(["test", *other, "--ckpt_path", checkpoint], capfd)
    assert expected in failure(["fit", *other, "--ckpt_path", checkpoint], capfd)
    Path("other.yaml").write_text("model: {class_path: tests.callbacks.toy.OtherModule}")
    assert expected in failure(["fit", "--config", "other.yaml", *TOY[2:], "--ckpt_path", checkpoint], capfd)


KEEPS = "tests.callbacks.toy_stages.Keeps"


def test_a_checkpoint_brings_its_network_but_never_its_sampler(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = fit("a", "--model.width", "8", "--model.sampling", "{num_inference_steps: 4}", model=KEEPS)
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["sampling"] == {"num_inference_steps": 4}
    line = ["test", *TOY[2:], *QUIET, "--ckpt_path", checkpoint]
    assert main([*line, "--run_dir", "none"]) == 0
    assert resolved_test("none")["model"] == {
        "class_path": KEEPS, "init_args": {"width": 8, "init_from": None, "sampling": None},
    }  # fmt: skip
    assert main([*line, "--run_dir", "line", "--model.sampling", "{num_inference_steps: 50}"]) == 0
    assert resolved_test("line")["model"]["init_args"]["sampling"] == {"num_inference_steps": 50}
    Path("c.yaml").write_text(f"model: {{class_path: {KEEPS}, init_args: {{sampling: {{num_inference_steps: 7}}}}}}")
    assert main([*line, "--run_dir", "config", "--config", "c.yaml"]) == 0
    assert resolved_test("config")["model"]["init_args"] == {"width": 8, "init_from": None, "sampling": {"num_inference_steps": 7}}  # fmt: skip
    assert main([*line, "--run_dir", "named", "--model", KEEPS]) == 0
    assert resolved_test("named")["model"]["init_args"]["width"] == 8
    expected = f"model: {checkpoint} as Keeps"
    assert capfd.readouterr().out.count(expected) == 4


def test_lightnings_own_way_with_checkpoints_is_off() -> None:
    from lightning.pytorch.cli import LightningCLI

    from unildiff.cli.lightning_cli import UniLDiffCLI

    assert callable(LightningCLI._parse_ckpt_path)  # a private method of theirs: gone or renamed, ours does nothing
    assert UniLDiffCLI._parse_ckpt_path is not LightningCLI._parse_ckpt_path


def test_resuming(capfd: pytest.CaptureFixture[str]) -> None:
    fit("runs/toymodule/one")
    assert main(["fit", *TOY, *QUIET, "--ckpt_path", "last", "--trainer.max_steps", "5", "--run_dir", "two"]) == 0
    assert Path("two/checkpoints/step-000005.ckpt").exists()
    assert yaml.safe_load(Path("two/config.fit.yaml").read_text())["ckpt_path"] == "runs/toymodule/one/checkpoints/last.ckpt"  # fmt: skip
    for _ in range(2):  # starts, then goes on
        assert main(["fit", *TOY, *QUIET, "--ckpt_path", "auto", "--trainer.max_steps", "2", "--run_dir", "three"]) == 0
    assert yaml.safe_load(Path("three/config.fit.yaml").read_text())["ckpt_path"] is None
    assert yaml.safe_load(Path("three/config.fit-2.yaml").read_text())["ckpt_path"] == "three/checkpoints/last.ckpt"


def test_weights_only_cannot_be_resumed(capfd: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(
        "trainer: {callbacks: [{class_path: unildiff.callbacks.Checkpointing, init_args: {weights_only: true}}]}"
    )
    checkpoint = fit("a", "--config", "c.yaml")
    assert "weights only and cannot be resumed" in failure(["fit", *TOY, "--ckpt_path", checkpoint], capfd)
    assert main(["test", *TOY[2:], *QUIET, "--ckpt_path", checkpoint]) == 0


def test_auto_takes_the_newest_whole_checkpoint_after_any_kill(capfd: pytest.CaptureFixture[str]) -> None:
    """Between the first checkpoint and ``last.ckpt``; with a dangling ``last.ckpt``; with a half-written newest file."""
    line = ["fit", *TOY, *QUIET, "--run_dir", "a", "--ckpt_path", "auto", "--trainer.max_steps"]
    fit("a")
    folder = Path("a/checkpoints")
    (folder / "last.ckpt").unlink()
    assert main([*line, "4"]) == 0
    assert yaml.safe_load(Path("a/config.fit-2.yaml").read_text())["ckpt_path"] == "a/checkpoints/step-000003.ckpt"
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to("step-000009.ckpt")
    assert "last.ckpt is a link to step-000009.ckpt, which is missing; give --ckpt_path auto" in failure(["test", *TOY, "--run_dir", "a", "--ckpt_path", "last"], capfd)  # fmt: skip
    (folder / "step-000005.ckpt").write_bytes((folder / "step-000004.ckpt").read_bytes()[:-100])
    assert main([*line, "6"]) == 0
    assert yaml.safe_load(Path("a/config.fit-3.yaml").read_text())["ckpt_path"] == "a/checkpoints/step-000004.ckpt"
    assert (folder / "last.ckpt").resolve().name == "step-000006.ckpt"


def test_fewer_steps_than_the_checkpoint_has_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["fit", *TOY, "--ckpt_path", fit("a"), "--trainer.max_steps", "2"]
    assert "trainer.max_steps is 2, but a/checkpoints/last.ckpt has 3 steps already" in failure(line, capfd)


def test_two_runs_in_one_folder_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a").mkdir()
    with one_writer(Path("a"), ".fit.lock", "training in a"):
        assert "training in a" in failure(["fit", *TOY, *QUIET, "--run_dir", "a", "--trainer.max_steps", "1"], capfd)
    assert not Path("a/checkpoints").exists()


def test_a_class_that_a_checkpoint_names_is_not_imported(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    content = torch.load(fit("a"), weights_only=True)
    content["hyper_parameters"]["_class_path"] = "beside.Evil"
    torch.save(content, "evil.ckpt")
    Path("beside.py").write_text("import os; os.mkdir('ran')")
    for command in ("fit", "test"):
        line = [command, *TOY[2:], "--ckpt_path", "evil.ckpt"]
        assert "is of beside.Evil, which is not a stage of unildiff; it is imported only if" in failure(line, capfd)
    assert not Path("ran").exists()


# Exit codes.


def test_sigterm_leaves_a_checkpoint_and_its_exit_code() -> None:
    line = ["fit", "--model", "tests.callbacks.toy_stages.Terminated", *TOY[2:], *QUIET, "--run_dir", "a"]
    assert main(line) == 143
    assert Path("a/checkpoints/last.ckpt").resolve().name == "step-000003.ckpt"


def test_something_left_out_shows_in_the_exit_code() -> None:
    checkpoint = fit("a")
    line = ["test", "--data", "tests.callbacks.toy_stages.Skips", *QUIET, "--ckpt_path", checkpoint]
    assert main(line) == 3


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert main(["fit"]) == 130


def test_output_of_a_training_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *TOY, *QUIET[:2], "--run_dir", "a", "--trainer.max_steps", "3"]) == 0
    output = "".join(capfd.readouterr())
    assert "Epoch 0 " in output and "M parameters for 3 steps" in output
    assert not any(text in output for text in ("/-2", "FLOPs", "hp_metric"))
    assert all(b"hp_metric" not in path.read_bytes() for path in Path("a/curves").rglob("events*"))


def test_epochs_end_with_a_whole_step(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["fit", *TOY, *QUIET, "--run_dir", "a", "--trainer.max_steps", "3", "--trainer.accumulate_grad_batches", "2"]
    for option, value in (("limit_train_batches", "3"), ("limit_train_batches", "0.5"), ("overfit_batches", "3")):
        code = main([*line, f"--trainer.{option}", value])
        error = capfd.readouterr().err
        assert (code, "not a multiple of accumulate_grad_batches (2)" in error) in ((2, True), (0, False)), error
        assert value == "0.5" or code == 2
