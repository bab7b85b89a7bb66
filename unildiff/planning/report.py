"""Extrapolate the cost of one micro-batch to a whole run, and print the plan."""

from dataclasses import dataclass

import torch

from unildiff.planning.gpus import GPUS, RESERVED, UTILISATION
from unildiff.planning.step import StepCost, StepSettings

GB = 1e9


@dataclass(frozen=True)
class RunSettings:
    """A run, apart from its step.

    Attributes:
        config: names of the config files, for the title.
        base: where the sizes of the base come from.
        step: one micro-batch on one device.
        checkpointing: whether activations are recomputed.
        devices: number of processes.
        accumulation: micro-batches per optimiser step.
        max_steps: optimiser steps.
        epoch_samples: training samples per epoch; None if only the data can tell.
        data: name of the dataset.
        averaged_bytes: bytes per parameter of the EMA; 0 without one.
        second_gradients: DDP keeps a second copy of the gradients in its buckets.
        sharded: weights, gradients and optimiser are split over the devices (FSDP2).
        kept: number of checkpoints kept; -1 keeps all.
        weights_only: checkpoints without optimiser.
        throughput: operations per second and device.
        cached_samples: samples whose latents are made before training and kept on disk.
        cached_skips: whether their skips are kept too.
        cached_captions: whether the text encoders leave memory before training.
    """

    config: str
    base: str
    step: StepSettings
    checkpointing: bool
    devices: int
    accumulation: int
    max_steps: int
    epoch_samples: int | None
    data: str
    averaged_bytes: int
    second_gradients: bool
    sharded: bool
    kept: int
    weights_only: bool
    throughput: float
    cached_samples: int = 0
    cached_skips: bool = False
    cached_captions: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak, by purpose."""

    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    kernels: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimiser + self.average + self.activations + self.kernels


KERNELS = {torch.bfloat16: 55_000_000, None: 6_000_000}
"""Bytes of the kernels that oneDNN compiles on a CPU, by compute dtype. Measured in the tiny joint stage with a cache of 1024
kernels and of one: 53 to 56 MB at 8, 16 and 32 images, 5 to 7 MB in float32."""


def device_memory(run: RunSettings, cost: StepCost) -> Memory:
    """Return the peak memory of one device."""
    trained = sum(cost.trained.values())
    share = run.devices if run.sharded else 1
    return Memory(
        weights=cost.whole + (cost.weights - cost.whole) // share - (cost.text if run.cached_captions else 0),
        gradients=cost.gradients * (2 if run.second_gradients else 1) // share,
        optimiser=2 * cost.gradients // share,  # AdamW's two moments, in the weights' dtype
        average=run.averaged_bytes * trained // share,
        activations=cost.activations,
        kernels=0 if run.step.gpu else KERNELS.get(run.step.compute_dtype, 0),
    )


def checkpoint_bytes(run: RunSettings, cost: StepCost) -> int:
    """Return the size of one checkpoint: trained weights, their average, and the moments of the optimiser."""
    average = run.averaged_bytes * sum(cost.trained.values())
    return cost.gradients + average + (0 if run.weights_only else 2 * cost.gradients)


def cache_bytes(run: RunSettings, cost: StepCost) -> int:
    """Return the disk space of the cache of latents."""
    return run.cached_samples * (cost.latent_bytes + (cost.skip_bytes if run.cached_skips else 0))


def plan_text(run: RunSettings, cost: StepCost, other: StepCost) -> str:
    """Return the plan.

    Args:
        run: the run.
        cost: cost of its step.
        other: cost of the same step with the opposite choice about recomputing activations.
    """
    recomputing, storing = (cost, other) if run.checkpointing else (other, cost)
    global_batch = run.devices * run.step.batch_size * run.accumulation
    samples = run.max_steps * global_batch
    flops = cost.flops * run.accumulation * run.devices
    seconds = flops / (run.throughput * run.devices)
    per_epoch = run.epoch_samples
    epochs = f"{samples / per_epoch:,.1f} epochs of {per_epoch:,}" if per_epoch else "epochs unknown"
    size, memory = checkpoint_bytes(run, cost), device_memory(run, cost)
    rows = ("weights", "gradients", "optimiser", "average", "activations", "kernels", "total")
    columns = [device_memory(run, each) for each in (recomputing, storing)]
    side = run.step.crop_size
    most = f"up to {(run.kept + 1) * size / GB:.1f} GB on disk ({run.kept} kept, one being written)"
    disk = "all are kept, without limit" if run.kept < 0 else most
    lines = [
        f"{run.config}: stage {run.step.stage.__name__}",
        f"base: {run.base}",
        "",
        f"{'part':26}{'parameters':>16}{'trained':>16}",
        *(f"{part:26}{count:>16,}{cost.trained.get(part, 0):>16,}" for part, count in cost.parameters.items()),
        f"{'all':26}{sum(cost.parameters.values()):>16,}{sum(cost.trained.values()):>16,}",
        "",
        f"{'memory per device, GB' + (' (estimate)' if run.step.gpu else ''):34}{'recomputing':>14}{'storing all':>14}",
        *(f"  {row:32}" + "".join(f"{getattr(each, row) / GB:>14.3f}" for each in columns) for row in rows),
        f"this config {'recomputes' if run.checkpointing else 'stores all'}: {memory.total / GB:.1f} GB"
        + (
            "; CUDA and its allocator take about 2 GB more"
            if run.step.gpu
            else " in addition to Python and its packages"
        ),
        "",
        (
            f"batch: {run.devices} x {run.step.batch_size} x {run.accumulation} (devices, micro-batch, accumulation) = "
            f"{global_batch} images of {side}x{side}"
        ),
        f"steps: {run.max_steps:,}, {samples:,} samples of {run.data}, {epochs}",
        f"operations: {flops / 1e12:,.2f} TFLOP per step, {flops * run.max_steps / 1e18:,.3f} EFLOP in total",
        (
            f"time at {run.throughput / 1e12:g} TFLOP/s per device (estimate; --throughput): {seconds:,.2f} s per step, "
            f"{_duration(seconds * run.max_steps)} in total, without validation"
        ),
        f"checkpoints: {size / GB:.2f} GB each, {disk}",
        *_cache_lines(run, cost),
        *(_gpu_lines(run, memory, flops) if run.step.gpu else ()),
    ]
    return "\n".join(lines)


def _cache_lines(run: RunSettings, cost: StepCost) -> list[str]:
    lines = []
    if run.cached_captions:
        size = cost.caption_bytes
        most = f"; at most {run.epoch_samples * size / GB:,.2f} GB" if run.epoch_samples else ""
        lines.append(f"caption cache: {size / 1e6:,.3f} MB of disk per caption{most}")
    if run.cached_samples:
        flops = run.cached_samples * cost.cached_flops
        lines.append(
            f"cache: latents{' and skips' if run.cached_skips else ''} of {run.cached_samples:,} samples, "
            f"{cache_bytes(run, cost) / GB:,.2f} GB of disk; made once before training: {flops / 1e18:,.3f} EFLOP, "
            f"{_duration(flops / (run.throughput * run.devices))} at that rate"
        )
    return lines


def _gpu_lines(run: RunSettings, memory: Memory, flops: int) -> list[str]:
    """Return which cards the run fits on and the time on each, at a stated share of the card's peak."""
    lines = [
        "",
        f"{'card':8}{'memory, GB':>12}{'fits':>8}{'s per step':>12}   at {UTILISATION:.0%} of its bfloat16 peak",
    ]
    for name, card in GPUS.items():
        fits = memory.total + RESERVED <= card.memory
        seconds = flops / run.devices / (card.tflops * 1e12 * UTILISATION)
        lines.append(f"{name:8}{card.memory / GB:>12.1f}{'yes' if fits else 'no':>8}{seconds:>12.2f}   {card.source}")
    return lines


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{seconds / 60:.1f} minutes"
