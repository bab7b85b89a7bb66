"""Two processes stop together, whichever of them is told to, and resume to what two that never stopped reach."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.callbacks.toy import ToyData, ToyModule, trainer
from tests.processes import process_context
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard
from unildiff.errors import UserError


def child(rank: int, port: int, folder: Path, resume: Path | None, case: str) -> None:
    """Be one of two ranks, started as torchrun would; leave the result or the error in a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    module, ema = ToyModule(), ExponentialMovingAverage(decay=0.9)

    def strike(module: ToyModule) -> None:
        if module.trainer.fit_loop.total_batch_idx == 3 and rank == 1:
            if case == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            elif case == "nan":
                with torch.no_grad():
                    module.frozen.weight.fill_(float("nan"))

    module.before_batch = strike
    guard = NonFiniteGuard(limit=2)
    loop = trainer(
        folder, [ema, guard, Checkpointing()], max_steps=6, accumulate_grad_batches=2, strategy="ddp", devices=2
    )
    result: dict[str, Any] = {}
    if case == "full disk" and rank == 0:
        (folder / "checkpoints").write_text("a file where the folder should be")
    try:
        loop.fit(module, datamodule=ToyData(count=28), ckpt_path=str(resume) if resume else None)
    except (SIGTERMException, UserError) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result |= {"weights": module.state_dict(), "average": ema.average, "keys": module.keys, "skipped": guard.skipped}
    torch.save(result, folder / f"rank{rank}.pt")


def two(folder: Path, case: str = "", resume: Path | None = None) -> list[dict[str, Any]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = process_context()
    processes = [context.Process(target=child, args=(rank, port, folder, resume, case)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two(tmp_path_factory.mktemp("two") / "whole")


def test_stop_together_and_resume(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    stopped = two(tmp_path / "stopped", "SIGTERM")  # only rank 1 gets the signal, in the middle of an accumulation
    assert [rank["error"].split(":")[0] for rank in stopped] == ["SIGTERMException"] * 2
    assert [len(rank["keys"]) for rank in stopped] == [8, 8]  # 4 batches of 2 each
    resumed = two(tmp_path / "resumed", resume=tmp_path / "stopped/checkpoints/last.ckpt")
    for end, expected in zip(resumed, whole, strict=True):
        for part in ("weights", "average"):
            assert all(torch.equal(end[part][name], expected[part][name]) for name in expected[part])
        assert end["keys"] == expected["keys"][-len(end["keys"]) :]
    assert torch.equal(resumed[0]["weights"]["trained.weight"], resumed[1]["weights"]["trained.weight"])
    assert not set(whole[0]["keys"]) & set(whole[1]["keys"])


def test_a_bad_gradient_of_one_rank_is_skipped_by_both(tmp_path: Path) -> None:
    ends = two(tmp_path / "nan", "nan")
    assert [end["skipped"] for end in ends] == [2, 2]
    assert ["2 steps in a row" in end["error"] for end in ends] == [True, True]


def test_a_failed_write_of_rank_0_ends_both(tmp_path: Path) -> None:
    ends = two(tmp_path / "full", "full disk")
    assert ["was not written" in end["error"] for end in ends] == [True, True]
