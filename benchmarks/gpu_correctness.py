"""Correctness rows: results of the device against the CPU, synchronisations, kernels, two processes, limits of memory."""

import os
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_context import Context, shipped
from unildiff.core.model import UniLDiff
from unildiff.core.moe import Router, Routing
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.diffusion.sampler import SamplingSettings

DTYPES: dict[str, torch.dtype | None] = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}
COSINE = {"float32": 0.9999, "tf32": 0.999, "bfloat16": 0.95}
"""Smallest cosine between the gradients of the device and those of the CPU in float32."""
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


def gradients_of(kind: str, context: Context, dtype: torch.dtype | None) -> tuple[float, Tensor]:
    """Return the loss and all gradients, on the CPU, of one micro-batch of a tiny stage."""
    settings = {"latents": "one_step"} if kind == "decoder" else {}
    stage = context.stage(kind, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in stage.trained_parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    with context.autocast(dtype):
        loss = stage.training_step(context.batch(2, 64), 0)
    loss.backward()
    flat = [parameter.grad.flatten().float().cpu() for _, parameter in stage.trained_parameters()]
    return float(loss.detach()), torch.cat(flat)


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Switch TF32 on or off for products and convolutions."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    yield
    torch.set_float32_matmul_precision(before)


def same_gradients(kind: str, context: Context) -> dict[str, Any]:
    """Compare one micro-batch's loss and gradients with those of the CPU in float32."""
    loss, expected = gradients_of(kind, Context("cpu", True), None)
    found: dict[str, Any] = {"ok": True}
    for name, dtype in DTYPES.items():
        with tf32(name == "tf32"):
            device_loss, gradients = gradients_of(kind, Context(context.device, True), dtype)
        cosine = float(torch.cosine_similarity(gradients, expected, dim=0))
        found[name] = {"cosine": cosine, "loss": device_loss / loss - 1}
        found["ok"] &= bool(cosine >= COSINE[name] and abs(device_loss / loss - 1) < 0.05)
    return found


def same_image(context: Context) -> dict[str, Any]:
    """Compare an image restored by the shipped tiny model with that of the CPU, in 8-bit levels."""
    from unildiff.weights.load import load_restorer

    if not shipped():
        return {"error": "the tiny model is not here"}
    images: dict[str, Tensor] = {}
    for name, device, dtype in (
        ("cpu", "cpu", torch.float32),
        ("float32", context.device, torch.float32),
        ("bfloat16", context.device, torch.bfloat16),
    ):
        model = load_restorer("tiny", dtype).to(device)
        lq = to_unit(Context(device, True).batch(1, 64)["lq"]).to(dtype)
        with tf32(False):
            restored = model.restore(lq, ["a red cat"], [1], SamplingSettings(4, 3.0))
        images[name] = to_uint8(restored, ["image"]).cpu().float()
    worst = {name: float((images[name] - images["cpu"]).abs().max()) for name in ("float32", "bfloat16")}
    mean = float((images["bfloat16"] - images["cpu"]).abs().mean())
    return {"ok": worst["float32"] <= 2 and mean <= 4, "levels": worst, "mean of bfloat16": mean}


def synchronisations(context: Context, run: Callable[[], Any]) -> dict[str, Any]:
    """Return how often a second run makes the host wait for the GPU, by file and line."""
    run()
    if not context.on_gpu:
        return {"waits": 0}
    places: Counter[str] = Counter()

    def note(message: Any, *arguments: Any, **options: Any) -> None:
        if "synchroniz" in str(message):
            own = [f for f in traceback.extract_stack() if re.search(r"unildiff|diffusers|transformers", f.filename)]
            frame = own[-1] if own else traceback.extract_stack()[-2]
            places[f"{Path(frame.filename).name}:{frame.lineno}"] += 1

    showing, warnings.showwarning = warnings.showwarning, note
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = showing
    return {"waits": sum(places.values()), "places": dict(places.most_common(8))}


def waits_in_training(context: Context) -> dict[str, Any]:
    """A micro-batch of the alignment stage must not wait for the GPU."""
    stage, batch = context.stage("alignment", gradient_checkpointing=True), context.batch(2, context.pixels(256))

    def step() -> None:
        with context.autocast():
            loss = stage.training_step(batch, 0)
        loss.backward()

    found = synchronisations(context, step)
    return {"ok": found["waits"] == 0} | found


def waits_in_sampling(context: Context, tile_size: int | None = None) -> dict[str, Any]:
    """Four guided sampler steps, or one tiled step."""
    model = context.model()
    side = context.pixels(512) if tile_size is None else 320
    lq = to_unit(context.batch(1, side)["lq"]).to(torch.bfloat16)
    settings = SamplingSettings(4 if tile_size is None else 1, 5.0, tile_size=tile_size)
    return synchronisations(context, lambda: model.restore(lq, ["a cat"], [1], settings))


def attention_kernels(context: Context) -> dict[str, Any]:
    """Run a guided step with fused attention only, which raises where none supports the inputs."""
    model, side = context.model(), context.pixels(512)
    lq = to_unit(context.batch(1, side)["lq"]).to(torch.bfloat16)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if context.on_gpu else [])]
    with sdpa_kernel(FUSED) if context.on_gpu else nullcontext(), profile(activities=activities) as recorded:
        model.restore(lq, ["a cat"], [1], SamplingSettings(1, 5.0))
    names = {event.key for event in recorded.key_averages() if "attention" in event.key}
    used = sorted(name for name in names if re.search("flash|efficient|cudnn|math", name))
    return {"ok": bool(used) and not any("math" in name for name in used), "kernels": used[:4]}


def _forced_router(router: Router, features: Tensor, noise: Tensor | None = None, *, rank: int, free: Any) -> Routing:
    routing: Routing = free(router, features, noise)
    indices = torch.full_like(routing.indices, rank)
    return replace(routing, indices=indices, gates=routing.noisy_logits.softmax(-1).gather(1, indices))


def _rank(rank: int, context: Context, folder: str) -> None:
    """Be one of two processes whose routers choose different experts; write the gradients of two steps."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    free = Router.forward
    Router.forward = lambda *a: _forced_router(*a, rank=rank, free=free)  # type: ignore[method-assign, assignment]
    stage = context.stage("decoder", latents="lq")

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = stage

        def forward(self, batch: Any) -> Tensor:
            loss: Tensor = self.stage.training_step(batch, 0)
            return loss

    replica = torch.nn.parallel.DistributedDataParallel(Step())
    for _ in range(2):  # DDP reports parameters without a gradient in the second step
        stage.zero_grad()
        replica(context.batch(2, 64)).backward()
    gradients = {name: value.grad.cpu() for name, value in stage.trained_parameters()}
    torch.save(gradients, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def two_processes(context: Context) -> dict[str, Any]:
    """Two processes on one device with unequal routing must end with equal gradients, one for every parameter."""
    small = Context(context.device, True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (small, folder), nprocs=2)  # type: ignore[no-untyped-call]
        first, second = (torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2))
    equal = first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
    return {"ok": equal, "parameters": len(first)}


def large_decode(context: Context) -> dict[str, Any]:
    """Decode more than 8.4 megapixels, where a kernel's output would exceed INT_MAX elements."""
    model, side = context.model(), 3072 if not context.tiny else 256
    lq = to_unit(context.batch(1, side)["lq"]).to(torch.bfloat16)
    done = model.restoration(lq, [""], [1], SamplingSettings(1, 1.0))
    return {"ok": bool(done.image.isfinite().all()), "pixels": side**2, "peak": context.peak()}


def too_little_memory(context: Context) -> dict[str, Any]:
    """Let the encoder run out of memory above 200 pixels; tiles must take over."""
    model: UniLDiff = context.model()
    encoder = model.lq_encoder.forward

    def limited(images: Tensor) -> Any:
        if images.shape[3] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory (forced by the check)")
        return encoder(images)

    model.lq_encoder.forward = limited  # type: ignore[method-assign]
    lq = to_unit(context.batch(1, 320)["lq"]).to(torch.bfloat16)
    done = model.restoration(lq, [""], [1], SamplingSettings(1, 1.0))
    return {"ok": done.features.grid is not None and bool(done.image.isfinite().all())}


ROWS: dict[str, Callable[[Context], dict[str, Any]]] = {
    **{f"gradients, {kind}": partial(same_gradients, kind) for kind in ("alignment", "joint", "decoder")},
    "restored image": same_image,
    "synchronisations, micro-batch": waits_in_training,
    "synchronisations, four sampler steps": waits_in_sampling,
    "synchronisations, one tiled step": partial(waits_in_sampling, tile_size=160),
    "attention kernels": attention_kernels,
    "two processes, unequal routing": two_processes,
    "decode above INT_MAX": large_decode,
    "out of memory falls back to tiles": too_little_memory,
}
