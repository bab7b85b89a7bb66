"""Samplers that give every process its share: an endless training stream, and test sets without an image counted twice.

Both inherit from torch's DistributedSampler only so that Lightning leaves them as they are, whatever
``use_distributed_sampler`` is; its own sampler pads the last round, and so scores an image twice.
"""

from collections.abc import Callable, Iterator, Sized

import torch
from torch.utils.data import DistributedSampler


class StreamSampler(DistributedSampler[int]):
    """One process's share of an endless stream of training positions 0, 1, 2, ...

    Position ``p`` is sample ``p % n`` of data epoch ``p // n``. With R processes, process r takes every R-th position, so
    that R processes with batch B see the same global batches as one process with batch R * B. Every pass over the
    sampler starts at ``consumed()``, the number of samples trained on so far by all processes together: a resumed run
    continues in the middle of an epoch, although Lightning assumes that the epoch starts there.
    """

    def __init__(
        self, count: int, batch_size: int, consumed: Callable[[], int], rank: int, world: int, accumulated: int = 1
    ) -> None:
        """Set the share.

        Args:
            count: samples per epoch.
            batch_size: samples per batch and process.
            consumed: samples consumed so far.
            rank: this process.
            world: processes.
            accumulated: batches per optimiser step; an epoch ends with a complete one, since Lightning steps at its end.
        """
        super().__init__(range(count), num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]  # only its length is used
        self._consumed = consumed
        self._batches = accumulated * max(1, count // (batch_size * world * accumulated))
        self._batch_size = batch_size
        self._world = world

    def __len__(self) -> int:
        return self._batches * self._batch_size

    def __iter__(self) -> Iterator[int]:
        first = self._consumed() + self.rank
        return iter(range(first, first + len(self) * self._world, self._world))


class ShardSampler(DistributedSampler[int]):
    """One process's share of a fixed set: items r, r + R, r + 2R, ...; nothing is padded, nothing comes twice."""

    def __init__(self, data: Sized, rank: int, world: int) -> None:
        """Args: the set, this process, processes."""
        super().__init__(range(len(data)), num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]  # only its length is used
        self._items = range(rank, len(data), world)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) outside torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
