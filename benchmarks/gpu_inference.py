"""Inference rows: sizes and dtypes, whole and tiled, small cards, guidance, compilation, several images per forward."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch

from benchmarks.gpu_context import Context
from unildiff.core.pixels import to_unit
from unildiff.diffusion.sampler import SamplingSettings

STEPS = 4
"""Sampler steps of a row; the time of 20 follows from the difference to fewer."""


def restore(
    side: int,
    context: Context,
    dtype: torch.dtype = torch.bfloat16,
    tf32: bool = True,
    tile_size: int | None = None,
    guidance: float = 5.0,
    batch_size: int = 1,
    compiled: bool = False,
    gigabytes: int | None = None,
    steps: int = STEPS,
    offload: Literal["model", "group"] | None = None,
) -> dict[str, Any]:
    """Restore images of ``side`` pixels once to warm up and once more to measure."""
    if offload and find_spec("accelerate") is None:
        return {"skipped": "accelerate is not installed"}
    if context.on_gpu and gigabytes is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 2**30 / total))
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    model, side, back = context.model(dtype, "cpu" if offload else None), context.pixels(side), None
    if offload:
        from unildiff.weights.offload import offload_parts

        back = offload_parts(model, torch.device(context.device), offload)
    if compiled:
        context.compile(model)
    lq = to_unit(context.batch(batch_size, side)["lq"]).to(dtype)
    settings = SamplingSettings(1 if context.tiny else steps, guidance, tile_size=tile_size)
    seconds: dict[str, float] = {}
    for name in ("first", "restore"):
        context.start_peak()
        with context.clock(seconds, name):
            done = model.restoration(lq, ["a red cat"] * batch_size, list(range(batch_size)), settings)
            if back is not None:
                back()
    return {
        "ok": bool(done.image.isfinite().all()),
        **seconds,
        "peak GB": context.peak() / 1e9,
        "tiles": 0 if done.features.grid is None else done.features.grid.tile[0] * model.downscale_factor,
    }


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
ROWS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "512, bfloat16": partial(restore, 512),
    "512, float16": partial(restore, 512, dtype=FP16),
    "512, TF32": partial(restore, 512, dtype=FP32),
    "512, float32": partial(restore, 512, dtype=FP32, tf32=False),
    "512, bfloat16, no guidance": partial(restore, 512, guidance=1.0),
    "512, bfloat16, compiled regions": partial(restore, 512, compiled=True),
    "512, bfloat16, 4 images": partial(restore, 512, batch_size=4),
    "512, bfloat16, 16 images": partial(restore, 512, batch_size=16),
    "1024, bfloat16": partial(restore, 1024),
    "2048, bfloat16, tiles of 1024": partial(restore, 2048, tile_size=1024, steps=2),
    "2048, bfloat16, default": partial(restore, 2048, steps=2),
    "4096, bfloat16, default": partial(restore, 4096, steps=1),
    "512 within 8 GB, offload model": partial(restore, 512, gigabytes=8, offload="model"),
    "512 within 8 GB, offload group": partial(restore, 512, gigabytes=8, offload="group"),
    "4096 within 8 GB, offload group": partial(restore, 4096, gigabytes=8, tile_size=1024, steps=1, offload="group"),
    "512 within 12 GB": partial(restore, 512, gigabytes=12),
    "512 within 24 GB": partial(restore, 512, gigabytes=24),
    "2048 within 24 GB": partial(restore, 2048, gigabytes=24, steps=2),
}
