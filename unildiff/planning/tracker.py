"""Count live bytes and floating-point operations while code runs on tensors without data.

Fake tensors have shapes, dtypes and lifetimes but no memory; every operation is seen as it is dispatched, under autocast,
gradient checkpointing and in the backward pass alike.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook has no types
    """Counts while it is entered.

    Attributes:
        live: bytes of all storages made so far and not yet freed, those given to ``own`` included.
        peak: the largest ``live``.
        flops: floating-point operations of products and convolutions; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.flops = 0
        self._bytes: dict[int, int] = {}

    def own(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that already exist."""
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        counted = _FLOPS.get(func._overloadpacket)
        if counted is not None:
            self.flops += int(counted(*args, **kwargs, out_val=out))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, Tensor):
                self._add(value)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._bytes:
            self._bytes[address] = storage.nbytes()
            self.live += self._bytes[address]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, address)

    def _drop(self, address: int) -> None:
        self.live -= self._bytes.pop(address)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Two products for queries (B, n, L, d), keys (B, n, S, d) and values (B, n, S, d)."""
    batch, heads, length, dim = query.shape
    return 2 * batch * heads * length * key.shape[2] * (dim + value.shape[3])


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Five products where the forward pass has two: the attention matrix is made again."""
    return _attention(query, key, value) * 5 // 2


_ATEN = torch.ops.aten
_FLOPS: dict[Any, Callable[..., int]] = dict(flop_registry) | {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
