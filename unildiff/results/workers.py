"""Processes for scoring; light to import, so that they can load while this process is still importing torch."""

import multiprocessing
from multiprocessing.context import BaseContext

from unildiff.utils.parallel import cores

_WORTH_A_PROCESS = 32  # a process takes about as long to load as this many images of 512x512 take to be scored


def process_count(workers: int, images: int) -> int:
    """Return how many processes to use: `workers`, or for 0 one per core, fewer for few images."""
    return workers or max(1, min(cores(), images // _WORTH_A_PROCESS))


def worker_context() -> BaseContext:
    """Return the context of worker processes: forks of a process that has only imported what scoring needs.

    That process starts to load with the first call. Forking it is as fast as forking this one, which may have threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unildiff.results.score"])
    forkserver.ensure_running()
    return context
