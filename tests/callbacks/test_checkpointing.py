"""A run that was stopped in any way and resumed equals the run that never stopped, bit for bit."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.callbacks.runs import STEPS, assert_equal, run, same_end
from tests.callbacks.toy import ToyData, ToyModule, trainer
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage
from unildiff.utils.errors import UserError


@pytest.fixture(scope="module", params=[1, 3], ids=["no accumulation", "accumulation 3"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = run(tmp_path_factory.mktemp("whole"), accumulate_grad_batches=request.param)
    return result | {"accumulate": request.param}


def without(whole: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if key != "accumulate"}


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resume_from_any_step(whole: dict[str, Any], tmp_path: Path, step: int) -> None:
    run(tmp_path, max_steps=step, accumulate_grad_batches=whole["accumulate"])
    resumed = run(tmp_path, tmp_path / "checkpoints/last.ckpt", accumulate_grad_batches=whole["accumulate"])
    same_end(without(whole), resumed)


@pytest.mark.parametrize("how", ["exception", "SIGTERM", "SIGUSR1", "unreadable image", "Ctrl+C"])
@pytest.mark.parametrize("batch", [3, 4, 8, 13])
def test_resume_after_a_stop_in_the_middle(whole: dict[str, Any], tmp_path: Path, how: str, batch: int) -> None:
    module, data = ToyModule(), ToyData()

    def strike(module: ToyModule) -> None:
        if module.trainer.fit_loop.total_batch_idx == batch:
            if how.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, how))
            else:
                raise KeyboardInterrupt if how == "Ctrl+C" else ValueError("boom")

    if how == "unreadable image":
        data.broken = 2 * batch + 1
    else:
        module.before_batch = strike
    expected = {"exception": ValueError, "unreadable image": OSError, "Ctrl+C": SystemExit}.get(how, SIGTERMException)
    with pytest.raises(expected):
        run(tmp_path, module=module, data=data, accumulate_grad_batches=whole["accumulate"], max_steps=50)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # restored
    resumed = run(tmp_path, tmp_path / "checkpoints/last.ckpt", accumulate_grad_batches=whole["accumulate"])
    same_end(without(whole), resumed)


def test_resume_with_validation_in_the_middle_of_an_accumulation(tmp_path: Path) -> None:
    # Validation after 4 of 6 batches, a step every 3: the best checkpoint is written between two steps.
    settings = {"accumulate_grad_batches": 3, "val_check_interval": 4, "max_steps": 6}
    whole = run(tmp_path / "whole", data=ToyData(validation=2), **settings)
    saver = Checkpointing(every_n_steps=100, monitor="val/psnr", mode="min", keep=-1)
    again = run(tmp_path / "best", data=ToyData(validation=2), checkpointing=saver, **settings)
    same_end(whole, again)
    best = Path(saver.best_model_path)
    assert best.name == "best.ckpt"
    for checkpoint in [best, *sorted((tmp_path / "best/checkpoints").glob("step-*.ckpt"))[:-1]]:
        same_end(whole, run(tmp_path / "resumed", checkpoint, data=ToyData(validation=2), **settings))


def test_resume_with_loader_workers_that_read_ahead(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", accumulate_grad_batches=3)
    run(tmp_path, data=ToyData(num_workers=2), max_steps=4, accumulate_grad_batches=3)
    last = tmp_path / "checkpoints/last.ckpt"
    same_end(whole, run(tmp_path, last, data=ToyData(num_workers=1), accumulate_grad_batches=3))


def test_two_stops_before_the_first_step_of_a_resumed_run(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", accumulate_grad_batches=3)
    run(tmp_path / "a", max_steps=2, accumulate_grad_batches=3)
    module = ToyModule()
    module.before_batch = lambda module: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        run(tmp_path / "b", tmp_path / "a/checkpoints/last.ckpt", module=module, accumulate_grad_batches=3)
    resumed = run(tmp_path / "c", tmp_path / "b/checkpoints/last.ckpt", accumulate_grad_batches=3)
    same_end(whole, resumed)


def test_an_exception_inside_the_update_writes_nothing(tmp_path: Path) -> None:
    class Breaks(ToyModule):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
            if self.trainer.global_step == 4:
                raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        run(tmp_path, module=Breaks(), checkpointing=Checkpointing(every_n_steps=3))
    assert (tmp_path / "checkpoints/last.ckpt").resolve().name == "step-000003.ckpt"
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000003.ckpt"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    class Worse(ToyModule):  # the metric only gets worse, so that the first one stays the best
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/psnr", -float(self.global_step), batch_size=1)

    saver = Checkpointing(every_n_steps=2, keep=2, monitor="val/psnr")
    run(tmp_path, module=Worse(), data=ToyData(validation=1), checkpointing=saver, val_check_interval=2)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.ckpt", "last.ckpt", "step-000014.ckpt", "step-000015.ckpt",
    ]  # fmt: skip
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 2
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 15


def test_files_that_a_killed_run_was_writing_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in (".step-000002.ckpt.4000000-0.part", ".best.ckpt.part"):
        (folder / name).write_bytes(b"half")
    (folder / ".last.ckpt.part").symlink_to("step-000002.ckpt")
    run(tmp_path, data=ToyData(validation=1), checkpointing=Checkpointing(monitor="val/psnr"), max_steps=7)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "step-000007.ckpt"]


def test_a_metric_that_is_not_logged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="monitor 'val/pnsr' is not logged; there are val/psnr"):
        run(tmp_path, data=ToyData(validation=1), checkpointing=Checkpointing(monitor="val/pnsr"))


def test_weights_only_leaves_out_the_state_for_resuming(tmp_path: Path) -> None:
    run(tmp_path, checkpointing=Checkpointing(weights_only=True))
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert {"state_dict", "ema_state_dict", "hyper_parameters"} <= checkpoint.keys()
    assert not {"optimizer_states", "lr_schedulers", "loops"} & checkpoint.keys() and not checkpoint["callbacks"]
    loop, module = trainer(tmp_path, [Checkpointing(), ExponentialMovingAverage()]), ToyModule()
    loop.test(module, datamodule=ToyData(), ckpt_path=str(tmp_path / "checkpoints/last.ckpt"), verbose=False)
    assert torch.equal(module.trained.weight, checkpoint["state_dict"]["trained.weight"])
    assert torch.equal(module.weights_in_validation[0], checkpoint["ema_state_dict"]["trained.weight"])
    assert not torch.equal(module.weights_in_validation[0], module.trained.weight)


def test_a_full_disk_ends_the_run_in_one_error_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    def no_space(module: ToyModule) -> None:
        if module.global_step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    module = ToyModule()
    module.before_batch = no_space
    try:
        with pytest.raises(UserError, match=r"step-000004\.ckpt was not written \(File too large") as caught:
            run(tmp_path, module=module, checkpointing=Checkpointing(every_n_steps=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step-000002.ckpt"]
    whole = run(tmp_path / "whole")
    same_end(whole, run(tmp_path / "resumed", folder / "last.ckpt"))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="every_n_steps is 0"):
        Checkpointing(every_n_steps=0)
    with pytest.raises(UserError, match="keep is 0"):
        Checkpointing(keep=0)


@pytest.mark.parametrize("how", ["killed in validation", "SIGTERM in validation", "killed in the last validation"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_validation_is_run_after_resuming(tmp_path: Path, how: str, accumulate: int) -> None:
    class Validated(ToyModule):
        validated: list[int]
        strike = 0

        def on_validation_epoch_start(self) -> None:
            if self.global_step == self.strike:
                if how.startswith("SIGTERM"):
                    os.kill(os.getpid(), signal.SIGTERM)
                else:  # no checkpoint is written on exit, as after SIGKILL
                    self.trainer.callbacks[-1].on_exception = lambda *_: None
                    raise RuntimeError("killed")

        def on_validation_epoch_end(self) -> None:
            self.validated.append(self.global_step)

    def fit(folder: Path, strike: int = 0, resume: Path | None = None) -> tuple[dict[str, Any], list[int]]:
        module = Validated()
        module.validated, module.strike = [], strike
        saver = Checkpointing(every_n_steps=2, monitor="val/psnr", mode="min", keep=-1)
        settings = {"accumulate_grad_batches": accumulate, "val_check_interval": 2 * accumulate, "max_steps": 6}
        settings |= {"check_val_every_n_epoch": None}
        end = run(folder, resume, module=module, data=ToyData(16, validation=3), checkpointing=saver, **settings)
        return end, module.validated

    whole, validated = fit(tmp_path / "whole")
    strike = 6 if "last" in how else 4
    with pytest.raises((RuntimeError, SIGTERMException)):
        fit(tmp_path / "cut", strike)
    last = tmp_path / "cut/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == strike
    resumed, again = fit(tmp_path / "cut", resume=last)
    assert validated == [2, 4, 6] and again == [step for step in validated if step >= strike]
    if "last" in how:  # training was complete
        assert_equal(whole["weights"], resumed["weights"])
    else:
        same_end(whole, resumed)
    best = [torch.load(tmp_path / each / "checkpoints/best.ckpt", weights_only=True) for each in ("whole", "cut")]
    assert best[0]["global_step"] == best[1]["global_step"]
