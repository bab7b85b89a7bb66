"""Weights, gradients and optimiser split over the devices: FSDP2 under Lightning's ModelParallelStrategy.

The units are what gradient checkpointing recomputes one by one, so that no device ever holds much more than one of them
whole. VAE and text encoders stay whole on every device: they are frozen, and small beside the U-Net.
"""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from unildiff.core.model import UniLDiff
from unildiff.utils.errors import UserError


def shard_stage(stage: LightningModule, mesh: DeviceMesh) -> None:
    """Split a stage's model over the devices of ``mesh``; a second call does nothing.

    Raises:
        UserError: the stage is none over the whole restorer, or the command does what a split model cannot.
    """
    trainer: Any = stage.trainer
    if not isinstance(stage.model, UniLDiff):
        raise UserError(f"strategy: ModelParallelStrategy (FSDP2) cannot split {type(stage).__name__}; give ddp")
    if trainer.state.fn != TrainerFn.FITTING:
        raise UserError(
            f"strategy: ModelParallelStrategy (FSDP2) is for fit; {trainer.state.fn.value} on one device instead"
        )
    if trainer.limit_val_batches != 0:  # ranks have unlike many pictures, and each pass gathers weights on all of them
        raise UserError(
            "strategy: ModelParallelStrategy (FSDP2) does not go with validation during training; give "
            "--trainer.limit_val_batches 0 and run `unildiff validate` on the checkpoints"
        )
    if not isinstance(stage.model.unet, FSDPModule):
        shard(stage.model, mesh)


def shard(model: UniLDiff, mesh: DeviceMesh) -> None:
    """Replace the weights of LQ encoder, U-Net with fusion and decoder by this rank's shares."""
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    for module, method in ((model.unet.fusion, "prepare"), (model.unet, "prepare"), (model.decoder, "merged_features")):
        register_fsdp_forward_method(module, method)


def _units(model: UniLDiff) -> Iterator[nn.Module]:
    """Yield what is gathered at once, inner units before those that hold them."""
    rest: Any = model.unet.rest
    for block in (*rest.down_blocks, rest.mid_block, *rest.up_blocks):
        yield from block.resnets
        yield from getattr(block, "attentions", None) or ()
    yield from (model.unet.fusion, model.unet, model.lq_encoder, model.decoder)
