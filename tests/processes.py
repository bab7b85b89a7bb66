"""Processes for distributed tests, and the memory of this one."""

import multiprocessing
import re
from multiprocessing.context import BaseContext
from pathlib import Path


def process_context() -> BaseContext:
    """Children of a process that has imported the heavy packages and runs no threads.

    A fork of this process can wait forever for a lock that a thread of its parent held; importing again takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unildiff.results.score", "lightning.pytorch", "unildiff.weights.load"])
    return context


def own_memory() -> int:
    """Return the bytes of this process's own memory, without mapped files."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024
