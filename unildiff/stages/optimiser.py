"""Learning-rate schedules as a factor of the optimiser step."""

import math
from collections.abc import Callable
from typing import Literal


def learning_rate_factor(
    warmup_steps: int, total_steps: int, schedule: Literal["cosine", "constant"]
) -> Callable[[int], float]:
    """Return step -> factor of the peak rate: linear warm-up, then cosine to zero at ``total_steps``, or constant.

    Args:
        warmup_steps: optimiser steps until the peak; at most half of all steps are used, so that short runs learn too.
        total_steps: optimiser steps of the run.
        schedule: what follows the warm-up.
    """
    warmup = min(warmup_steps, total_steps // 2)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if schedule == "constant":
            return 1.0
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    return factor
