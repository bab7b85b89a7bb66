"""Gradients stay in DDP's buckets: one copy of them, with any accumulation."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unildiff.stages.ddp import keep_gradients_in_buckets


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def storages(model: nn.Module) -> int:
    """Return the number of separate memory blocks that hold the gradients."""
    return len({p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None})


@pytest.mark.parametrize("kept", [False, True])
def test_micro_batches_allocate_no_further_gradients(kept: bool, alone: None) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    if kept:
        assert keep_gradients_in_buckets(parallel)
        assert all(not p.grad.any() for p in model.parameters() if p.grad is not None) and storages(model) == 1
    for _ in range(3):  # DDP rearranges its buckets in the second step
        model.zero_grad(set_to_none=not kept)
        with parallel.no_sync():
            parallel(torch.ones(1, 4)).sum().backward()
            assert storages(model) == (1 if kept else 4)
        parallel(torch.ones(1, 4)).sum().backward()
        assert storages(model) == 1
        expected = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        expected.load_state_dict(model.state_dict())
        (2 * expected(torch.ones(1, 4)).sum()).backward()
        for found, value in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found.grad, value.grad)


def test_other_models_are_left_alone(alone: None) -> None:
    model = nn.Linear(2, 2)
    assert not keep_gradients_in_buckets(model) and not keep_gradients_in_buckets(None)
    assert not keep_gradients_in_buckets(DistributedDataParallel(model)) and model.weight.grad is None
