"""Models with random weights at any base's sizes, made on the device they run on, and stages over them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.text import TextEmbedding
from unildiff.planning.shapes import BaseSizes, meta_model
from unildiff.stages.restoration import RestorationModule


def random_model(
    sizes: BaseSizes,
    network: NetworkConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    computes_on: torch.device | str | None = None,
) -> UniLDiff:
    """Return the whole model on a device, each weight filled from a short stretch of random numbers.

    Captions become random embeddings on ``computes_on`` (None: ``device``): the text encoders are in memory, but there is no
    tokenizer.
    """
    computes_on = computes_on or device
    model = meta_model(sizes, network).eval()
    draw = torch.Generator().manual_seed(0)
    stretch = (0.02 * torch.randn(1 << 20, generator=draw)).to(device, dtype)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = torch.empty(parameter.shape, dtype=dtype, device=device)
            flat = made.view(-1)
            if parameter.dim() < 2:
                flat.fill_(1.0 if name == "weight" else 0.0)
            else:
                for start in range(0, len(flat), len(stretch)):
                    part = flat[start : start + len(stretch)]
                    part.copy_(stretch[: len(part)])
            setattr(module, name, nn.Parameter(made, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            values = torch.arange(buffer.numel()).view(buffer.shape)  # positions of the text encoders
            setattr(module, name, values.to(device, buffer.dtype))
    width = int(model.unet.rest.config.cross_attention_dim)
    pooled = int(getattr(model.text.encoders[-1].config, "projection_dim", 0) or 1)
    two = len(model.text.encoders) > 1

    def embed(captions: Sequence[str]) -> TextEmbedding:
        tokens, whole = (torch.randn(len(captions), *shape, generator=draw) for shape in ((77, width), (pooled,)))
        return TextEmbedding(tokens.to(computes_on, dtype), whole.to(computes_on, dtype) if two else None)

    model.embed = embed  # type: ignore[method-assign]
    return model


def stage_over(kind: type[RestorationModule], model: UniLDiff, **settings: Any) -> Any:
    """Return a stage over this very model instead of one that it would load."""
    methods = {"build_model": lambda stage: (model, None), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), methods)(network=model.config, **settings)
