"""Two processes stop together when either gets a signal, and resume exactly."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.callbacks.runs import assert_equal, real_stage, same_end
from tests.callbacks.toy import ToyData, ToyModule, trainer
from tests.stages.ranks import on_two_ranks
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard
from unildiff.utils.errors import UserError


def child(case: str, resume: Path | None, base_folder: Path | None, rank: int, folder: Path) -> dict[str, Any]:
    """Run one of two ranks and return its final state, or the error."""
    ema = ExponentialMovingAverage(decay=0.9)
    module = ToyModule() if base_folder is None else real_stage("joint", base_folder, gradient_checkpointing=True)

    def strike(module: Any) -> None:
        if module.trainer.fit_loop.total_batch_idx == 3 and rank == 1:
            if case == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            elif case == "nan":
                with torch.no_grad():
                    module.frozen.weight.fill_(float("nan"))

    module.before_batch = strike
    guard, data = NonFiniteGuard(limit=2), ToyData(count=28, size=4 if base_folder is None else 32)
    loop = trainer(
        folder, [ema, guard, Checkpointing()], max_steps=6, accumulate_grad_batches=2, strategy="ddp", devices=2
    )
    result: dict[str, Any] = {}
    if case == "full disk" and rank == 0:
        (folder / "checkpoints").write_text("a file where the folder should be")
    try:
        loop.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
    except (SIGTERMException, UserError) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    moments = {} if case else dict(enumerate(loop.optimizers[0].state_dict()["state"].values()))
    result |= {"weights": module.state_dict(), "average": ema.average, "keys": module.keys, "skipped": guard.skipped}
    return result | {"optimizer": moments, "random": torch.get_rng_state(), "position": data.consumed}


def two(
    folder: Path, case: str = "", resume: Path | None = None, base_folder: Path | None = None
) -> list[dict[str, Any]]:
    return on_two_ranks(folder, partial(child, case, resume, base_folder))


@pytest.mark.parametrize("real", [False, True], ids=["toy", "joint stage"])
def test_stop_together_and_resume(real: bool, base_folder: Path, tmp_path: Path) -> None:
    base = base_folder if real else None
    whole = two(tmp_path / "whole", base_folder=base)
    # Only rank 1 gets the signal, in the middle of an accumulation.
    stopped = two(tmp_path / "stopped", "SIGTERM", base_folder=base)
    assert [rank["error"].split(":")[0] for rank in stopped] == ["SIGTERMException"] * 2
    assert [len(rank["keys"]) for rank in stopped] == [8, 8]  # 4 batches of 2 each
    resumed = two(tmp_path / "resumed", resume=tmp_path / "stopped/checkpoints/last.ckpt", base_folder=base)
    for end, expected in zip(resumed, whole, strict=True):
        same_end(expected, end)
    assert_equal(resumed[0]["weights"], resumed[1]["weights"])
    assert not set(whole[0]["keys"]) & set(whole[1]["keys"])


def test_a_bad_gradient_of_one_rank_is_skipped_by_both(tmp_path: Path) -> None:
    ends = two(tmp_path / "nan", "nan")
    assert [end["skipped"] for end in ends] == [2, 2]
    assert ["2 steps in a row" in end["error"] for end in ends] == [True, True]


def test_a_failed_write_of_rank_0_ends_both(tmp_path: Path) -> None:
    ends = two(tmp_path / "full", "full disk")
    assert ["was not written" in end["error"] for end in ends] == [True, True]
