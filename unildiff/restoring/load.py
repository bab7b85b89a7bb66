"""From options to a model that restores."""

from collections.abc import Callable
from pathlib import Path

import torch

from unildiff.diffusion.sampler import SamplingSettings
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.recipe import Recipe, model_hash
from unildiff.restoring.run import Restorer
from unildiff.weights.load import check_sampling, load_restorer, pick_device
from unildiff.weights.precision import default_dtype, use_fast_matmul


def recipe(options: RestoreOptions, caption_of: Callable[[Path], str]) -> Recipe:
    """Return the options together with what they mean on this machine.

    Raises:
        UserError: there is no such device.
    """
    device = pick_device(options.device)
    dtype = str(default_dtype(device)).removeprefix("torch.") if options.dtype == "auto" else options.dtype
    return Recipe(options, model_hash(options.model), dtype, caption_of)


def load(made: Recipe) -> Restorer:
    """Return the model, on its device and in its type.

    Raises:
        UserError: it cannot be loaded, or the sampling settings do not fit it.
    """
    options = made.options
    sampling = SamplingSettings(
        options.num_inference_steps,
        options.guidance_scale,
        options.start,
        last_timestep=options.last_timestep,
        tile_size=options.tile_size,
    )
    model = load_restorer(options.model, getattr(torch, made.dtype))
    check_sampling(model, sampling, "restore")
    device = pick_device(options.device)
    use_fast_matmul(device)
    return Restorer(model.to(device), made, sampling)
