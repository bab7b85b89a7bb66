"""From options to a model that restores."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from unildiff.core.model import UniLDiff
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.restoring.colour import has_gate
from unildiff.restoring.options import Offload, RestoreOptions
from unildiff.restoring.recipe import Recipe, model_hash
from unildiff.restoring.run import Restorer
from unildiff.utils.errors import UserError
from unildiff.weights.load import check_sampling, load_restorer, pick_device
from unildiff.weights.precision import check_dtype, default_dtype, use_fast_matmul

CUDA_CONTEXT = 500_000_000
"""Bytes of a GPU that CUDA takes for itself (our estimate)."""


def recipe(options: RestoreOptions, caption_of: Callable[[Path], str]) -> Recipe:
    """Return the options together with what they mean on this machine.

    Raises:
        UserError: there is no such device, or it lacks the type of the weights.
    """
    device = pick_device(options.device)
    dtype = str(default_dtype(device)).removeprefix("torch.") if options.dtype == "auto" else options.dtype
    check_dtype(getattr(torch, dtype), device)
    return Recipe(options, model_hash(options.model), dtype, caption_of)


def load(made: Recipe) -> Restorer:
    """Return the model, on its device and in its type.

    Raises:
        UserError: it cannot be loaded, or the sampling settings do not fit it.
    """
    options = made.options
    device = pick_device(options.device)
    device = torch.empty(0, device=device).device  # cuda becomes cuda:0
    check_offload(options.offload or "none", device)
    model = load_restorer(options.model, getattr(torch, made.dtype))
    sampling = sampling_of(options, model)
    use_fast_matmul(device)
    if options.memory is not None and device.type == "cuda":
        _limit(options.memory, device)
    if options.offload in ("model", "group"):
        from unildiff.weights.offload import offload_parts

        return Restorer(model, made, sampling, device, offload_parts(model, device, options.offload))
    return Restorer(model.to(device), made, sampling, device)


def sampling_of(options: RestoreOptions, model: UniLDiff) -> SamplingSettings:
    """Return the sampler's part of the options.

    Raises:
        UserError: they do not fit the model.
    """
    sampling = SamplingSettings(
        options.num_inference_steps,
        options.guidance_scale,
        options.start,
        last_timestep=options.last_timestep,
        tile_size=options.tile_size,
        vae_tile=options.vae_tile,
        timestep_spacing=options.timestep_spacing,
    )
    check_sampling(model, sampling, "restore")
    if options.colour == "auto" and not has_gate(model):
        raise UserError(
            "colour: auto follows DAEM's brightness gate, which this model lacks (network.detail.to_pixels); give --colour none "
            "or input"
        )
    return sampling


def check_offload(offload: Offload, device: torch.device) -> None:
    """Refuse to offload without a GPU or without accelerate.

    Raises:
        UserError: see above.
    """
    if offload != "none" and device.type != "cuda":
        raise UserError(f"offload: {offload} needs an NVIDIA GPU, and the device is {device}; leave --offload out")
    if offload != "none" and find_spec("accelerate") is None:
        raise UserError(
            "offload: accelerate is not installed; `pip install 'unildiff[offload]'`, or leave --offload out"
        )


def _limit(memory: int, device: torch.device) -> None:
    """Let PyTorch allocate no more than the limit less what CUDA itself takes; smaller tiles are tried beyond that."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(memory - CUDA_CONTEXT, 0) / total), device)
