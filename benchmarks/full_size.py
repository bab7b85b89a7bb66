"""SDXL's real sizes on this machine's processor, with random bfloat16 weights: does it run, in what memory and time?

    python -m benchmarks.full_size             # all parts, each in a process of its own; `make full-size-check`
    python -m benchmarks.full_size alignment   # one part, here: prints seconds and bytes

Alignment: one optimiser step of `AlignmentModule` in Lightning (clipping, EMA, checks), checkpointing, batch 1. Restore: one
512x512 image, two guided steps. Decoder: one
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
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.memory import field
from benchmarks.models import CAPTION, lq_image
from benchmarks.random_model import random_model, stage_over
from benchmarks.training import fixed_batch
from unildiff.callbacks import ExponentialMovingAverage, NonFiniteGuard, StepSeed
from unildiff.core.daff import FusionConfig
from unildiff.core.network import NetworkConfig
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.planning.shapes import BaseSizes, base_sizes
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.decoder import DecoderFinetuneModule

HERE = Path(__file__).parent
BASE = "stabilityai/stable-diffusion-xl-base-1.0"
SIDE = 512  # of the alignment step, the size that the paper trains at
NEEDED_GB, WITHIN = 16, 0.15
NETWORK = NetworkConfig(FusionConfig())


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
    return lambda: one_step(
        stage_over(AlignmentModule, random_model(sizes, network, torch.bfloat16), gradient_checkpointing=True), side
    )


def decoder(sizes: BaseSizes, network: NetworkConfig, side: int) -> Callable[[], None]:
    return lambda: one_step(
        stage_over(
            DecoderFinetuneModule,
            random_model(sizes, network, torch.bfloat16),
            gradient_checkpointing=True,
            latents="one_step",
        ),
        side,
    )


def restore(sizes: BaseSizes, network: NetworkConfig, side: int) -> Callable[[], None]:
    def call() -> None:
        model = random_model(sizes, network, torch.bfloat16)
        with torch.inference_mode():
            image: Tensor = model.restore(lq_image(side).bfloat16(), [CAPTION], [0], SamplingSettings(2))
        if not bool(image.isfinite().all()):
            raise RuntimeError("the restored image is not finite")

    return call


PARTS = {"alignment": (alignment, SIDE), "restore": (restore, 512), "decoder": (decoder, 256)}
NAMES = {
    "alignment": "one optimiser step of alignment, batch 1 of {0}x{0}, checkpointing",
    "restore": "one {0}x{0} image, two guided steps",
    "decoder": "one optimiser step of the decoder stage, batch 1 of {0}x{0}",
}


def measure(part: str, sizes: BaseSizes, network: NetworkConfig, side: int) -> dict[str, float]:
    """Run a part here; seconds and peak growth in bytes."""
    call = PARTS[part][0](sizes, network, side)
    nn.Linear(1, 1)(torch.zeros(1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
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
    for part, (_, side) in PARTS.items():
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # pools of the C library are not of the plan
        command = [sys.executable, "-m", "benchmarks.full_size", part]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout.splitlines()[-1]) | {"remark": ""}
        results[NAMES[part].format(side)] = result
        print(
            f"{NAMES[part].format(side)}: {result['seconds']:.0f} s, {result['bytes'] / 1e9:.2f} GB {result['remark']}",
            flush=True,
        )
    path = HERE / "results" / "full_size.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}; `make bench` puts it into the table")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
