"""Work on many files at once, results in order, with a bounded number of them in memory."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return how many bytes of memory could hold files without anything else having to go (Linux; else all memory)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def end_with_parent() -> None:
    """End this worker process as soon as its parent is gone, however that ended; for initialisers of process pools.

    A killed parent cannot stop its workers, which would wait for work, and hold their memory, for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def ordered(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Yield ``(item, work(item))`` in the order of ``items``, at most ``ahead`` of them under way or waiting.

    An exception of ``work`` is raised in its turn; what has not begun by then is cancelled.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass ``items`` on with a progress bar on standard error (none where it is not a terminal)."""
    console = Console(stderr=True)
    return iter(track(items, description=what, total=total, console=console, disable=not console.is_terminal))
