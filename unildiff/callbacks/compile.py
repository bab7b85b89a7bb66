"""Regional compilation: the blocks that a U-Net repeats are compiled once each instead of the whole model."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

REGIONS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of the blocks in diffusers' U-Nets and VAEs that take most of the time."""


class CompileRegions(Callback):
    """Compiles the repeated blocks of U-Net, LQ encoder and decoder before training, in place.

    Names of parameters, and with them checkpoints, stay the same. The first steps are slow. Our choice, off by default.
    """

    def __init__(self, channels_last: bool = True, fullgraph: bool = True, backend: str = "inductor") -> None:
        """Set how blocks are compiled.

        Args:
            channels_last: keep the weights of convolutions in channels-last order, which tensor cores prefer.
            fullgraph: refuse graph breaks inside a block.
            backend: name of a ``torch.compile`` backend.
        """
        super().__init__()
        self.channels_last, self.fullgraph, self.backend = channels_last, fullgraph, backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile before anything moves to the device; blocks are traced when they first run."""
        if stage != "fit":
            return
        model: Any = pl_module.model
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        compile_regions(model, self.backend, self.fullgraph)


def compile_regions(model: nn.Module, backend: str = "inductor", fullgraph: bool = True) -> None:
    """Compile the repeated blocks of a model in place; each width and size is traced once."""
    # Blocks of one class share a cache, whose default limit of 8 is below SDXL's number of widths.
    torch._dynamo.config.recompile_limit = max(128, torch._dynamo.config.recompile_limit)
    for region in regions(model):
        region.compile(fullgraph=fullgraph, backend=backend)


def regions(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of a model that are compiled."""
    for module in model.modules():
        if type(module).__name__ in REGIONS:
            yield module
