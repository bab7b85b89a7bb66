"""Weights, gradients and optimiser split over the devices: FSDP2 under Lightning's ModelParallelStrategy.

The units are the blocks that gradient checkpointing recomputes one by one, so that a device never holds much more than one
whole block. VAE and text encoders stay whole on every device: they are frozen, and small compared with the U-Net.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from unildiff.core.model import UniLDiff
from unildiff.utils.errors import UserError


def shard_stage(stage: LightningModule, mesh: DeviceMesh) -> None:
    """Split a stage's model over the devices of ``mesh``; a second call does nothing.

    Raises:
        UserError: the stage has no restorer, or the command does something that a split model cannot do.
    """
    trainer: Any = stage.trainer
    if not isinstance(stage.model, UniLDiff):
        raise UserError(f"strategy: ModelParallelStrategy (FSDP2) cannot split {type(stage).__name__}; give ddp")
    if trainer.state.fn != TrainerFn.FITTING:
        raise UserError(
            f"strategy: ModelParallelStrategy (FSDP2) is for fit; run {trainer.state.fn.value} on one device instead"
        )
    if (
        trainer.limit_val_batches != 0
    ):  # ranks have different numbers of images, and each pass gathers weights on all of them
        raise UserError(
            "strategy: ModelParallelStrategy (FSDP2) does not support validation during training; give "
            "--trainer.limit_val_batches 0 and run `unildiff validate` on the checkpoints"
        )
    if not isinstance(stage.model.unet, FSDPModule):
        shard(stage.model, mesh, torch.bfloat16 if trainer.precision == "bf16-mixed" else None)


def synchronise_gradients(model: UniLDiff, enabled: bool) -> None:
    """Let the next backward pass reduce gradients over the devices if ``enabled``, otherwise accumulate them locally."""
    for unit in (model.unet, model.lq_encoder, model.decoder):
        if isinstance(unit, FSDPModule):
            unit.set_requires_gradient_sync(enabled)


def shard(model: UniLDiff, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None) -> None:
    """Replace the weights of LQ encoder, U-Net with fusion and decoder by the shares of this rank.

    Args:
        model: the whole model.
        mesh: the devices.
        compute_dtype: dtype in which weights are gathered, half the traffic of float32; None gathers them as they are.
            Gradients are always reduced in float32.
    """
    policy = MixedPrecisionPolicy(compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in _units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    for module, method in ((model.unet.fusion, "prepare"), (model.unet, "prepare"), (model.decoder, "merged_features")):
        register_fsdp_forward_method(module, method)


def _units(model: UniLDiff) -> Iterator[nn.Module]:
    """Yield the units that are gathered at once, inner ones before those that contain them."""
    rest: Any = model.unet.rest
    for block in (*rest.down_blocks, rest.mid_block, *rest.up_blocks):
        yield from block.resnets
        yield from getattr(block, "attentions", None) or ()
    yield from (model.unet.fusion, model.unet, model.lq_encoder, model.decoder)
