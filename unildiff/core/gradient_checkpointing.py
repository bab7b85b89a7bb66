"""Gradient checkpointing: blocks whose activations are recomputed in the backward pass instead of kept."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, *args: object, recompute: bool) -> Any:
    """Return ``block(*args)``; with ``recompute`` its activations are not kept (non-reentrant: DDP works with it)."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
