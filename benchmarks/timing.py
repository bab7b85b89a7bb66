"""Comparing running times on a machine that others use too: methods in turn, ratios within a round, medians.

A method's absolute time drifts with the load; its ratio to another method timed in the same round does not, or less.
Thread counts are set here and printed with the result.

    from timing import alternate, one_thread, report
    one_thread()
    report(alternate({"base": f, "ours": g}), base="base")
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from statistics import median

LEAST_ROUNDS = 15


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
        rounds: At least 15.
        clock: `time.process_time` where a method is so short that it fits between two other processes' turns, and the
            one it is compared with does not: the ratio of their wall times would flatter it.

    Returns:
        Seconds by method, one a round.

    Raises:
        ValueError: Too few rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"{rounds} rounds are too few for a bound on the median: at least {LEAST_ROUNDS}")
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


def upper_bound(values: list[float], confidence: float = 0.9) -> float:
    """The smallest order statistic that the true median does not exceed with that confidence (binomial, one-sided)."""
    ordered = sorted(values)
    below = 0.0
    for rank, value in enumerate(ordered):
        below += math.comb(len(ordered), rank) / 2 ** len(ordered)  # P(at most `rank` of the values under the median)
        if below >= confidence:
            return value
    raise ValueError(f"{len(ordered)} values are too few for a bound with confidence {confidence}")


def ratios(seconds: Mapping[str, list[float]], method: str, base: str) -> list[float]:
    """Time of `method` over time of `base`, round by round."""
    return [a / b for a, b in zip(seconds[method], seconds[base], strict=True)]


def report(seconds: Mapping[str, list[float]], base: str) -> dict[str, tuple[float, float]]:
    """Print a line a method: median time, median ratio to `base` with its upper 90% bound.

    Args:
        seconds: What `alternate` returned.
        base: The method to compare with.

    Returns:
        (median ratio, upper bound) by method.
    """
    import cv2
    import torch

    rounds = len(seconds[base])
    print(
        f"{rounds} alternating rounds, threads: torch {torch.get_num_threads()}, OpenCV {cv2.getNumThreads()}; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'method':<44}{'median ms':>11}{'ratio':>9}{'90% below':>11}")
    result = {}
    for name, values in seconds.items():
        relative = ratios(seconds, name, base)
        result[name] = (median(relative), upper_bound(relative))
        print(f"{name:<44}{median(values) * 1e3:>11.2f}{result[name][0]:>9.3f}{result[name][1]:>11.3f}")
    return result
