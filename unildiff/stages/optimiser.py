"""AdamW of the stages: its settings, its parameter groups and its schedule."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW

from unildiff.utils.validation import NonNegativeInt, Share, check_fields

Schedule = Literal["cosine", "constant"]


@dataclass
class OptimizerConfig:
    """AdamW and its schedule, stepped once per optimiser step.

    Args:
        learning_rate: peak learning rate of all parameters without a group of their own.
        lq_encoder_learning_rate: peak learning rate of the LQ encoder (joint stage); None uses ``learning_rate``.
        weight_decay: AdamW's default 0.01 (supplement: "default hyper-parameters").
        warmup_steps: optimiser steps of linear warm-up (authors' scripts: 300).
        schedule: what follows the warm-up, ``cosine`` to zero at the last step or ``constant``.
    """

    learning_rate: Share = 1e-4
    lq_encoder_learning_rate: Share | None = None
    weight_decay: Share = 0.01
    warmup_steps: NonNegativeInt = 300
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        check_fields(self)


def make_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, fused: bool | None = None
) -> AdamW:
    """Return AdamW with one group per peak learning rate, and without decay for weights that a stage stores but leaves alone.

    Args:
        parameters: (name, parameter) of everything that is trained, names as in the stage.
        config: rates and weight decay.
        fused: run AdamW as one kernel per group; None lets torch choose.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        rate = config.learning_rate
        if name.startswith("model.lq_encoder.") and config.lq_encoder_learning_rate is not None:
            rate = config.lq_encoder_learning_rate
        decay = 0.0 if ".tone." in name else config.weight_decay  # the tone correction's gradients are zeros
        groups.setdefault((rate, decay), []).append(parameter)
    return AdamW(
        [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()],
        fused=fused,
    )


def learning_rate_factor(warmup_steps: int, total_steps: int, schedule: Schedule) -> Callable[[int], float]:
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
