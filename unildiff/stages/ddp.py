"""Gradients that stay in DDP's buckets for the whole run instead of being allocated a second time beside them."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def keep_gradients_in_buckets(model: nn.Module | None) -> bool:
    """Make every gradient a view of DDP's buckets before the first step; return whether they are.

    Otherwise micro-batches that are not synchronised allocate gradients beside the buckets until the first
    synchronisation, after a resume beside the optimiser's moments too (joint stage: 10.9 GB). Needs
    ``gradient_as_bucket_view``; from then on gradients must be zeroed and not dropped.

    Args:
        model: what the strategy runs; anything other than DDP is left alone.
    """
    if not isinstance(model, DistributedDataParallel) or not model.gradient_as_bucket_view:
        return False
    nothing = [p.view(-1)[:0].sum() for p in model.parameters() if p.requires_grad]
    if nothing:
        model.reducer.prepare_for_backward([])
        sum(nothing[1:], nothing[0]).backward()  # type: ignore[no-untyped-call]  # gradients of zeros, synchronised
    return True
