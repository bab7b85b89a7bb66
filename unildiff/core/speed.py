"""Optional speed settings of a network, for inference and training: memory format and regional compilation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unildiff.core.network import Network


def use_channels_last(model: Network) -> None:
    """Store convolution weights in channels-last order, which tensor cores read without transposing; values stay equal."""
    for part in (model.vae, model.lq_encoder, model.unet, model.decoder):
        part.to(memory_format=torch.channels_last)


def compile_regions(model: Network, **options: Any) -> int:
    """Compile the transformer blocks of U-Net and fusion in place, each by itself; return how many there are.

    Blocks of one class and one shape share their code, so that this takes a fraction of compiling the whole network. Names
    of weights stay as they are. Convolution blocks are left out, because their many shapes exceed PyTorch's limit of eight
    recompilations per function; routers too, because they read counts back from the device.

    Args:
        model: the network.
        options: passed to ``torch.compile``, e.g. ``mode`` or ``backend``.
    """
    regions = list(_regions(model))
    for region in regions:
        region.compile(**options)
    return len(regions)


def _regions(model: Network) -> Iterator[nn.Module]:
    """Yield the blocks without data-dependent control flow that compile well."""
    unet: Any = model.unet.rest
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for attention in getattr(block, "attentions", None) or ():
            yield from attention.transformer_blocks
    fusion: Any = model.unet.fusion
    if getattr(fusion.config, "token_experts", 0) == 0:
        yield from getattr(fusion, "double_blocks", ())
    yield from getattr(fusion, "single_blocks", ())
