"""Memory of this process and of others, from Linux's /proc."""

import ctypes
import gc
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path


def field(name: str) -> float:
    """A figure of /proc/self/status in MiB, e.g. VmRSS or VmHWM."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak_growth(call: Callable[[], object]) -> float:
    """By how many MiB the process grows at most while ``call`` runs, over what it had before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    call()
    return field("VmHWM") - before


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:
        found = []
    return [pid, *(below for child in found for below in descendants(child))]


def proportional(pid: int) -> float:
    """Memory of a process in MiB, pages shared with others counted in part; 0 when it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def processor_seconds(pid: int) -> float:
    """User and system time of a process; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(command: list[str]) -> tuple[float, float]:
    """Run a command; the peak of it and its processes together in MiB, and their processor time in seconds.

    Raises:
        RuntimeError: it failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak, seconds = 0.0, {}
    while True:
        alive = descendants(process.pid)
        peak = max(peak, sum(map(proportional, alive)))
        seconds |= {pid: used for pid in alive if (used := processor_seconds(pid))}
        try:
            if process.wait(0.05):
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
            return peak, sum(seconds.values())
        except subprocess.TimeoutExpired:
            continue
