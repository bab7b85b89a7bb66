"""The rows of the GPU check: what each call measures, and when it fails.

A row is a function of a ``Context`` that returns figures; ``ok`` among them makes it a pass/fail row.
Axis letters: B batch, H/W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import gpu_correctness, gpu_inference, gpu_training
from benchmarks.gpu_context import Context


@dataclass(frozen=True)
class Row:
    """One row of a call.

    Attributes:
        run: measures it.
        limit: seconds after which its process is stopped.
    """

    run: Callable[[Context], dict[str, Any]]
    limit: float = 120.0


CALLS: dict[str, dict[str, Row]] = {
    "correctness": {name: Row(run) for name, run in gpu_correctness.ROWS.items()},
    "training": {name: Row(run, 240.0) for name, run in gpu_training.ROWS.items()},
    "inference": {name: Row(run) for name, run in gpu_inference.ROWS.items()},
}
"""Call -> row -> how it is measured."""

__all__ = ["CALLS", "Context", "Row"]
