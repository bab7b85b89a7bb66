"""Two ranks in one test, connected as torchrun would connect them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.processes import process_context


def _child(rank: int, port: int, folder: Path, work: Callable[[int, Path], dict[str, Any]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    torch.set_num_threads(1)
    torch.save(work(rank, folder), folder / f"rank{rank}.pt")


def on_two_ranks(folder: Path, work: Callable[[int, Path], dict[str, Any]], timeout: int = 600) -> list[dict[str, Any]]:
    """Run ``work(rank, folder)``, which can be pickled, on two ranks and return what each of them returned."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = process_context()
    processes = [context.Process(target=_child, args=(rank, port, folder, work)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    for process in processes:
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
