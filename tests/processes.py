"""Two processes for a test of something distributed."""

import multiprocessing
from multiprocessing.context import BaseContext


def process_context() -> BaseContext:
    """Children of a process that has imported the heavy packages and runs no threads.

    A fork of this process can wait for ever for a lock that a thread of its parent held; importing anew takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unildiff.results.score", "lightning.pytorch", "unildiff.weights.load"])
    return context
