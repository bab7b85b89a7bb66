"""``unildiff plan``: what a training run, or restoring images, will need before you rent a GPU."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from unildiff.utils.errors import UserError

_HELP = """usage: unildiff plan --config FILE [all that `unildiff fit` takes] [--throughput TFLOPS]
       unildiff plan --restore [--size 2048x1536,...] [--memory 8GB,...] [--model MODEL] [--help]

Print parameters, memory per device, steps, epochs, operations, time and disk of a training run. They follow from shapes
alone, so you need neither weights nor data nor a GPU. Figures for GPUs are estimates.

  --throughput TFLOPS  assumed speed of a device (default: 120 for a GPU, 0.1 for a CPU)
  --restore            print tiles, offload and peak memory of `unildiff restore` for sizes of images and of cards"""


def plan(*arguments: str) -> int:
    """Print what a training run will need: memory, time and disk; takes no weights, data or GPU.

    Args:
        arguments: those of ``unildiff fit``, and ``--throughput``.

    Raises:
        UserError: the config does not train a restoration stage, or `fit` would refuse it.
    """
    if "--restore" in arguments:
        from unildiff.cli.parsing import call_function

        return call_function(
            plan_restoring, "unildiff plan --restore", [each for each in arguments if each != "--restore"]
        )
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(_HELP)
        return 0 if arguments else 2
    rest, throughput = _taken(list(arguments), "--throughput")
    try:
        tflops = None if throughput is None else float(throughput)
    except ValueError:
        tflops = 0.0
    if tflops is not None and not tflops > 0:
        raise UserError(f"--throughput {throughput}: give the TFLOP/s of a device, e.g. 120")

    from unildiff.cli.arguments import TrainerArguments

    TrainerArguments.parse("fit", rest)  # most mistakes are reported before Lightning is imported
    _progress("reading the configuration")
    from unildiff.cli.plan_inputs import parse_run
    from unildiff.planning.report import plan_text
    from unildiff.planning.shapes import base_sizes
    from unildiff.planning.step import measure_step

    parsed = parse_run(rest, tflops)
    _progress("measuring a training step on shapes alone, with and without gradient checkpointing")
    sizes = base_sizes(parsed.base)
    step = parsed.run.step
    cost, other = (
        measure_step(sizes, parsed.network, step.with_settings(gradient_checkpointing=checkpointing))
        for checkpointing in (parsed.run.checkpointing, not parsed.run.checkpointing)
    )
    print(plan_text(replace(parsed.run, base=sizes.source), cost, other))
    return 0


def plan_restoring(
    size: str = "512x512",
    memory: str = "8GB,12GB,24GB",
    model: str = "stabilityai/stable-diffusion-xl-base-1.0",
    device: Literal["cuda", "cpu"] = "cuda",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    offload: Literal["none", "model", "group"] | None = None,
    tile_size: int | None = None,
    vae_tile: int | None = None,
    batch_size: int = 1,
) -> int:
    """Print tiles, offload and peak memory of `unildiff restore --memory`, worked out from shapes alone.

    Args:
        size: width x height of images, several with commas, e.g. 512x512,2048x1536
        memory: sizes of memory, e.g. 8GB,24GB
        model: tiny, a folder made by `unildiff export`, a checkpoint, or a base (SDXL's published sizes if it is not here)
        device: cuda, which need not be there, or cpu
        dtype: type of the weights; auto is bfloat16 on a GPU and float32 on a CPU, or bfloat16 if that alone fits
        offload: none, model or group; by default what fits
        tile_size: side of the U-Net's tiles in pixels; by default what fits
        vae_tile: side of the tiles of encoders and decoder in pixels; by default what fits
        batch_size: images of equal size that go through the model together

    Raises:
        UserError: a size is not one, or the model is not there.
    """
    from unildiff.restoring.options import RestoreOptions, memory_bytes

    options = RestoreOptions(
        dtype=dtype, offload=offload, tile_size=tile_size, vae_tile=vae_tile, batch_size=batch_size
    )
    sizes = [_size(each) for each in size.split(",")]
    memories = [memory_bytes(each) for each in memory.split(",")]
    name = model.partition("+")[0]
    if name != "tiny" and not Path(name).exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"plan: no model {name}; give tiny, a folder, a checkpoint, or a base on the Hub (OWNER/NAME)")
    import torch

    from unildiff.planning.restoring import RestorePlanner, limits, sizes_of

    base, network = sizes_of(model)
    planner = RestorePlanner(base, network, device == "cuda", batch_size)
    print(f"{base.source}, on {device}")
    for height, width in sizes:
        for limit in memories:
            try:
                plan = planner.choose([(height, width)], limits(replace(options, memory=limit), torch.device(device)))
                text = str(plan)
            except UserError as error:
                text = str(error).removeprefix("memory: ")
            print(f"{width}x{height} in {limit / 1e9:g} GB: {text}", flush=True)
    return 0


def _size(text: str) -> tuple[int, int]:
    """Return height and width of ``WIDTHxHEIGHT``."""
    width, cross, height = text.strip().lower().partition("x")
    sides = [int(side) if side.isdecimal() and len(side) < 9 else 0 for side in (width, height)]
    if not cross or not all(0 < side <= 65_536 for side in sides):
        raise UserError(f"size: {text!r} is not WIDTHxHEIGHT with sides of 1 to 65,536 pixels; give e.g. 2048x1536")
    return int(height), int(width)


def _progress(text: str) -> None:
    print(f"plan: {text} ...", file=sys.stderr, flush=True)


def _taken(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without one option, and the value of that option."""
    rest, value = [], None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == option:
            value = next(waiting, "")
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, value
