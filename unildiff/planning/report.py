"""From the cost of one micro-batch to what a whole run needs, and to text."""

from dataclasses import dataclass

import torch

from unildiff.planning.step import StepCost, StepSettings

GB = 1e9  # as on a card's label and in `nvidia-smi` only nearly; the difference is within the estimate's error


@dataclass(frozen=True)
class RunSettings:
    """What a run is made of beside the step.

    Attributes:
        config: names of the config files, for the title.
        base: where the base's sizes come from.
        step: one micro-batch on one device.
        devices: processes in all.
        accumulation: micro-batches an optimiser step.
        max_steps: optimiser steps.
        epoch_samples: training samples an epoch, None where only the data can tell.
        data: name of the data set.
        averaged_bytes: bytes a number of the EMA, 0 without one.
        second_gradients: DDP keeps gradients a second time, in its buckets.
        sharded: weights, gradients, optimiser are split over the devices (FSDP2).
        kept: checkpoints kept.
        weights_only: checkpoints without optimiser.
        throughput: operations a second and device.
        gpu: whether the devices are GPUs.
        cached_samples: samples whose latents are made before training and kept on disk.
        cached_skips: and their skips.
        cached_captions: the text encoders leave memory before training.
    """

    config: str
    base: str
    step: StepSettings
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
    gpu: bool
    cached_samples: int = 0
    cached_skips: bool = False
    cached_captions: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the fullest moment, by what they are for."""

    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    kernels: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimiser + self.average + self.activations + self.kernels


KERNELS = {torch.bfloat16: 55_000_000, None: 6_000_000}
"""Bytes of oneDNN's compiled kernels, which a run on a CPU keeps for every shape, by the dtype that it computes in. Measured on the
tiny joint stage, with its caches of 1024 kernels and of one: 53 to 56 MB at 8, 16 and 32 pictures, 5 to 7 MB in float32."""


def device_memory(run: RunSettings, cost: StepCost) -> Memory:
    """Return what one device holds."""
    trained = sum(cost.trained.values())
    share = run.devices if run.sharded else 1
    bytes_each = cost.weights // sum(cost.parameters.values())
    text = cost.parameters.get("text encoders", 0) * bytes_each
    whole = cost.parameters.get("VAE", 0) * bytes_each + text  # never split (stages/sharding.py)
    return Memory(
        weights=whole + (cost.weights - whole) // share - (text if run.cached_captions else 0),
        gradients=cost.gradients * (2 if run.second_gradients else 1) // share,
        optimiser=2 * cost.gradients // share,  # AdamW's two moments, in the weights' dtype
        average=run.averaged_bytes * trained // share,
        activations=cost.activations,
        kernels=0 if run.gpu else KERNELS.get(run.step.compute_dtype, 0),
    )


def checkpoint_bytes(run: RunSettings, cost: StepCost) -> int:
    """Return the size of one checkpoint: what is trained, its average, and the optimiser's moments."""
    average = run.averaged_bytes * sum(cost.trained.values())
    return cost.gradients + average + (0 if run.weights_only else 2 * cost.gradients)


def cache_bytes(run: RunSettings, cost: StepCost) -> int:
    """Return the disk that the cache of latents takes."""
    return run.cached_samples * (cost.latent_bytes + (cost.skip_bytes if run.cached_skips else 0))


def plan_text(run: RunSettings, cost: StepCost, other: StepCost) -> str:
    """Return the plan.

    Args:
        run: the run.
        cost: of its step.
        other: of the same step with recomputation of activations switched the other way.
    """
    with_, without = (cost, other) if run.step.checkpointing else (other, cost)
    global_batch = run.devices * run.step.batch_size * run.accumulation
    samples = run.max_steps * global_batch
    flops = cost.flops * run.accumulation * run.devices
    seconds = flops / (run.throughput * run.devices)
    epochs = (
        f"{samples / run.epoch_samples:,.1f} epochs of {run.epoch_samples:,}"
        if run.epoch_samples
        else "epochs: not known"
    )
    size = checkpoint_bytes(run, cost)
    lines = [
        f"{run.config}: stage {run.step.stage}",
        f"base: {run.base}",
        "",
        f"{'part':26}{'parameters':>16}{'trained':>16}",
        *(f"{part:26}{count:>16,}{cost.trained.get(part, 0):>16,}" for part, count in cost.parameters.items()),
        f"{'all':26}{sum(cost.parameters.values()):>16,}{sum(cost.trained.values()):>16,}",
        "",
        f"{'memory a device, GB' + (' (estimate)' if run.gpu else ''):34}{'recomputing':>14}{'storing all':>14}",
        *_memory_lines(device_memory(run, with_), device_memory(run, without)),
        (
            f"this config {'recomputes' if run.step.checkpointing else 'stores all'}: "
            f"{device_memory(run, cost).total / GB:.1f} GB{_beside(run.gpu)}"
        ),
        "",
        (
            f"batch: {run.devices} x {run.step.batch_size} x {run.accumulation} (devices, micro-batch, accumulation) = {global_batch} "
            f"pictures of {run.step.crop_size}x{run.step.crop_size}"
        ),
        f"steps: {run.max_steps:,}, {samples:,} samples of {run.data}, {epochs}",
        f"operations: {flops / 1e12:,.2f} TFLOP a step, {flops * run.max_steps / 1e18:,.3f} EFLOP in all",
        (
            f"time at {run.throughput / 1e12:g} TFLOP/s a device (estimate; --throughput): {seconds:,.2f} s a step, "
            f"{_duration(seconds * run.max_steps)} in all, without validation"
        ),
        (
            f"checkpoint: {size / GB:.2f} GB each; with {_kept(run.kept)} and one being written "
            f"{_disk(run.kept, size)} of disk"
        ),
        *_cache_lines(run, cost),
    ]
    return "\n".join(lines)


def _cache_lines(run: RunSettings, cost: StepCost) -> list[str]:
    lines = []
    if run.cached_captions:
        size = cost.caption_bytes
        most = f"; {run.epoch_samples * size / GB:,.2f} GB if no two pictures share one" if run.epoch_samples else ""
        lines.append(f"caption cache: {size / 1e6:,.3f} MB of disk a caption{most}")
    if not run.cached_samples:
        return lines
    flops = run.cached_samples * cost.cached_flops
    kinds = "latents and skips" if run.cached_skips else "latents"
    return [
        *lines,
        (
            f"cache: {kinds} of {run.cached_samples:,} samples, {cache_bytes(run, cost) / GB:,.2f} GB of disk; made once "
            f"before training: {flops / 1e18:,.3f} EFLOP, {_duration(flops / (run.throughput * run.devices))} at that rate"
        ),
    ]


def _memory_lines(with_: Memory, without: Memory) -> list[str]:
    rows = ("weights", "gradients", "optimiser", "average", "activations", "kernels", "total")
    return [f"  {row:32}{getattr(with_, row) / GB:>14.3f}{getattr(without, row) / GB:>14.3f}" for row in rows]


def _beside(gpu: bool) -> str:
    return (
        "; CUDA itself and the allocator take about 2 GB more" if gpu else " beside what Python and its packages take"
    )


def _kept(kept: int) -> str:
    return "all kept" if kept < 0 else f"{kept} kept"


def _disk(kept: int, size: int) -> str:
    return "no bound" if kept < 0 else f"{(kept + 1) * size / GB:.1f} GB"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return (
        f"{hours / 24:.1f} days"
        if hours >= 48
        else f"{hours:.1f} hours"
        if hours >= 1
        else f"{seconds / 60:.1f} minutes"
    )
