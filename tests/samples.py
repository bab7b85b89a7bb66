"""Comparison of samples and batches of the datamodules."""

from collections.abc import Mapping
from typing import Any

import torch


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether all fields are equal, tensors bit for bit."""
    return all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )
