"""Comparing running times on a machine that others use too: methods in turn, ratios within a round, medians.

A method's absolute time drifts with the load; its ratio to another method timed in the same round does not, or less.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_ROUNDS = 15


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``make bench`` takes the defaults, trials and tests less, and write no table.

    Attributes:
        rounds: of each comparison.
        small: sizes for a trial, with which no goal means anything.
    """

    rounds: int = LEAST_ROUNDS
    small: bool = False


def one_thread() -> None:
    """Limit torch, OpenCV and whatever OpenMP or BLAS is loaded to one thread."""
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)


def alternate(
    methods: Mapping[str, Callable[[], object]],
    rounds: int = LEAST_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each method once a round, after one untimed call each; who goes first changes from round to round.

    Args:
        methods: What to call, by name.
        rounds: At least 15 for a bound on the median.
        clock: `time.process_time` where a method is so short that it fits between two other processes' turns, and the
            one it is compared with does not: the ratio of their wall times would flatter it.

    Returns:
        Seconds by method, one a round.
    """
    for method in methods.values():
        method()
    names = list(methods)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            methods[name]()
            seconds[name].append(clock() - start)
    return seconds


def upper_bound(values: Sequence[float], confidence: float = 0.9) -> float:
    """The smallest order statistic that the true median does not exceed with that confidence (binomial, one-sided).

    Infinite where there are too few values for one.
    """
    ordered = sorted(values)
    below = 0.0
    for rank, value in enumerate(ordered):
        below += math.comb(len(ordered), rank) / 2 ** len(ordered)  # P(at most `rank` of the values under the median)
        if below >= confidence:
            return value
    return math.inf


def with_bound(values: Sequence[float]) -> tuple[float, float]:
    """Median and its upper 90% bound."""
    return median(values), upper_bound(values)


def machine() -> str:
    """Processor, memory, versions."""
    import cv2
    import torch
    from PIL import Image

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        cpu = next(names, platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV {cv2.__version__}"
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB; {versions}, Pillow {Image.__version__}"
