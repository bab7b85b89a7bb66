"""SDXL's real sizes on this machine's processor, with random bfloat16 weights: does it run, in what memory and time?

    python -m benchmarks.full_size             # all parts, each in a process of its own; `make full-size-check`
    python -m benchmarks.full_size alignment   # one part, here: prints seconds and bytes

Alignment: one optimiser step of `AlignmentModule` in Lightning (clipping, EMA, checks), checkpointing, batch 1; its peak growth
must agree within 15% with what `unildiff plan` reckons. Restore: one 512x512 picture, two guided steps. Decoder: one
optimiser step of `DecoderFinetuneModule` on latents of one prediction. Captions are random embeddings: the text encoders lie
in memory, but there is no tokenizer. Needs about 16 GB; refuses to begin where less is free.

Axis letters: B batch, H/W pixels.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.memory import field
from benchmarks.models import CAPTION, lq_picture
from benchmarks.training import fixed_batch
from unildiff.callbacks import ExponentialMovingAverage, NonFiniteGuard, StepSeed
from unildiff.cli.plan_inputs import parse_run
from unildiff.core.daff import FusionConfig
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.text import TextEmbedding
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.planning.report import device_memory
from unildiff.planning.shapes import BaseSizes, base_sizes, shaped_model
from unildiff.planning.step import measure_step
from unildiff.stages import restoration
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.decoder import DecoderFinetuneModule

HERE = Path(__file__).parent
BASE = "stabilityai/stable-diffusion-xl-base-1.0"
SIDE = 512  # of the alignment step, the size that the paper trains at
NEEDED_GB, WITHIN = 16, 0.15
NETWORK = NetworkConfig(FusionConfig())


def random_model(sizes: BaseSizes, network: NetworkConfig = NETWORK) -> UniLDiff:
    """The whole model in bfloat16, each weight filled once from a short stretch of random numbers."""
    model = shaped_model(sizes, network, torch.bfloat16).eval()
    stretch = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = parameter.view(-1)
            if parameter.dim() < 2:
                flat.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            for start in range(0, len(flat), len(stretch)):
                part = flat[start : start + len(stretch)]
                part.copy_(stretch[: len(part)])
    width = int(model.unet.rest.config.cross_attention_dim)
    pooled = int(model.text.encoders[-1].config.projection_dim)
    draw = torch.Generator().manual_seed(1)

    def embed(captions: Sequence[str]) -> TextEmbedding:
        tokens, whole = (torch.randn(len(captions), *shape, generator=draw) for shape in ((77, width), (pooled,)))
        return TextEmbedding(tokens.bfloat16(), whole.bfloat16())

    model.schedule = NoiseSchedule(model.scheduler_config)  # made without data, as all else
    model.embed = embed  # type: ignore[method-assign]
    return model


def stage_of(kind: Any, model: UniLDiff, **settings: Any) -> Any:
    """A stage over this very model, where it would load one."""
    loading = restoration.assemble
    restoration.assemble = lambda *_: (model, None)  # type: ignore[assignment]
    try:
        return kind(network=model.train().config, gradient_checkpointing=True, **settings)
    finally:
        restoration.assemble = loading


def one_step(stage: lightning.LightningModule, side: int) -> None:
    """One optimiser step of a stage, with what a run has around it."""
    batch: Any = DataLoader([0], collate_fn=lambda _: fixed_batch(1, side))  # type: ignore[arg-type]
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, precision="bf16-mixed", max_steps=1, gradient_clip_val=1.0,
            enable_checkpointing=False, default_root_dir=folder, log_every_n_steps=50,
            callbacks=[ExponentialMovingAverage(), NonFiniteGuard(), StepSeed()], **options,
        )  # fmt: skip
        trainer.fit(stage, batch)
    if trainer.callback_metrics.get("train/skipped_steps"):
        raise RuntimeError("the step was skipped: loss or gradients were not finite")


def alignment(sizes: BaseSizes, network: NetworkConfig, side: int) -> Callable[[], None]:
    return lambda: one_step(stage_of(AlignmentModule, random_model(sizes, network)), side)


def decoder(sizes: BaseSizes, network: NetworkConfig, side: int) -> Callable[[], None]:
    return lambda: one_step(stage_of(DecoderFinetuneModule, random_model(sizes, network), latents="one_step"), side)


def restore(sizes: BaseSizes, network: NetworkConfig, side: int) -> Callable[[], None]:
    def call() -> None:
        model = random_model(sizes, network)
        with torch.inference_mode():
            picture: Tensor = model.restore(lq_picture(side).bfloat16(), [CAPTION], [0], SamplingSettings(2))
        if not bool(picture.isfinite().all()):
            raise RuntimeError("the restored picture is not finite")

    return call


PARTS = {"alignment": (alignment, SIDE), "restore": (restore, 512), "decoder": (decoder, 256)}
NAMES = {
    "alignment": "one optimiser step of alignment, batch 1 of {0}x{0}, checkpointing",
    "restore": "one {0}x{0} picture, two guided steps",
    "decoder": "one optimiser step of the decoder stage, batch 1 of {0}x{0}",
}


def planned(sizes: BaseSizes, network: NetworkConfig, side: int) -> int:
    """Bytes that `unildiff plan` reckons for the alignment step."""
    run = parse_run(["--config", "configs/alignment.yaml"], None).run
    step = replace(
        run.step, batch_size=1, crop_size=side, weight_dtype=torch.bfloat16, compute_dtype=torch.bfloat16, checkpointing=True
    )  # fmt: skip
    run = replace(run, step=step, devices=1, accumulation=1, second_gradients=False, averaged_bytes=4)
    return device_memory(replace(run, cached_captions=False), measure_step(sizes, network, step)).total


def measure(part: str, sizes: BaseSizes, network: NetworkConfig, side: int) -> dict[str, float]:
    """Run a part here; seconds and peak growth in bytes."""
    call = PARTS[part][0](sizes, network, side)
    nn.Linear(1, 1)(torch.zeros(1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = field("VmRSS"), time.perf_counter()
    call()
    return {"seconds": time.perf_counter() - start, "bytes": (field("VmHWM") - before) * 2**20}


def main(arguments: Sequence[str]) -> int:
    if arguments:
        print(json.dumps(measure(arguments[0], base_sizes(BASE), NETWORK, PARTS[arguments[0]][1])))
        return 0
    free = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) / 1e6
    if free < NEEDED_GB:
        print(f"full size: {free:.0f} GB of memory are free, about {NEEDED_GB} are needed", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    failed = False
    for part, (_, side) in PARTS.items():
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # pools of the C library are not of the plan
        command = [sys.executable, "-m", "benchmarks.full_size", part]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout.splitlines()[-1]) | {"remark": ""}
        if part == "alignment":
            plan = planned(base_sizes(BASE), NETWORK, side)
            failed = abs(plan / result["bytes"] - 1) > WITHIN
            result["remark"] = f"`unildiff plan`: {plan / 1e9:.2f} GB, {plan / result['bytes'] - 1:+.1%}"
        results[NAMES[part].format(side)] = result
        print(
            f"{NAMES[part].format(side)}: {result['seconds']:.0f} s, {result['bytes'] / 1e9:.2f} GB {result['remark']}",
            flush=True,
        )
    path = HERE / "results" / "full_size.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}; `make bench` puts it into the table")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
