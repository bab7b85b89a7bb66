"""The decoder stage on the tiny model: latents cached, predicted in one step, or sampled live, after equal wall time.

Run:      python benchmarks/latents.py --seconds 900 --samples 1000        (an hour and a half on two cores, 6 rows)
A trial:  python benchmarks/latents.py --seconds 20 --samples 16 --photographs 1 --side 64
Only some rows: --rows cached one_step     Into a file: --out docs/history/latents.md (written at the end, whole)

Every row starts from the same model: the shipped tiny one, its decoder put back to the plain VAE's with untrained experts,
so that there is everything to learn. Its clock starts before the cache is made and stands still while it is scored. PSNR
is of whole restored photographs (the validation photographs under CDD-11's degradations) by the decoder as it is at a
third, two thirds and the end of the time; their latents come from the sampler as the model is used, 20 steps guided by 5,
and are the same for all rows, since the decoder has no part in them. Machine, threads and load are printed with the table.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from datamodules.deadleaves import DeadLeavesDataModule
from unildiff.core.decoder import DetailDecoder
from unildiff.core.model import UniLDiff
from unildiff.core.network import LQFeatures
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.stages.settings import LatentCacheConfig

FEW, FULL = SamplingSettings(4, 1.0), SamplingSettings(20, 5.0)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "cached": ("cached, 20 guided steps", {"latents": "cached", "training_sampling": FULL}),
    "cached_skips": ("cached with skips, 20 guided steps", {"latents": "cached", "training_sampling": FULL}),
    "cached_few": ("cached, 4 unguided steps", {"latents": "cached", "training_sampling": FEW}),
    "one_step": ("one step", {"latents": "one_step"}),
    "sample_few": ("live, 4 unguided steps", {"latents": "sample", "training_sampling": FEW}),
    "sample": ("live, 20 guided steps", {"latents": "sample", "training_sampling": FULL}),
}
BUDGET = 10**6  # steps that no row reaches: the clock ends it


@dataclass
class Photograph:
    """A validation pair with all that the decoder needs for it."""

    gt: Tensor  # uint8 (3, H, W)
    features: LQFeatures
    latents: Tensor


@torch.no_grad()
def photographs(data: DeadLeavesDataModule, model: UniLDiff, count: int) -> list[Photograph]:
    """Restore the latents of the first ``count`` validation pairs."""
    pairs = data.val_set()
    chosen = []
    for index in range(min(count, len(pairs))):
        sample = pairs[index]
        features = model.encode_lq(model.pad(to_unit(sample["lq"][None])))
        latents = model.sample_latents(features, [sample["caption"]], [sample["key"]], FULL)
        chosen.append(Photograph(sample["gt"], features, latents))
    return chosen


@torch.no_grad()
def psnr(model: UniLDiff, pairs: list[Photograph]) -> float:
    """Return the mean PSNR over RGB of the 8-bit images."""
    values = []
    for pair in pairs:
        restored = to_uint8(model.decode(pair.latents, pair.features, pair.gt.shape))[0]
        error = (restored.double() - pair.gt.double()).square().mean()
        values.append(10 * torch.log10(255**2 / error))
    return float(torch.stack(values).mean())


class Clock(Callback):
    """Ends a fit when its time is over, and scores it on the way; scoring does not count."""

    def __init__(self, seconds: float, score: Callable[[], float]) -> None:
        self.seconds, self.score = seconds, score
        self.begin = time.perf_counter()
        self.making = self.end = 0.0
        self.scores: list[float | None] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note how long what comes before training took, the cache, and which scores were missed in it."""
        self.making = time.perf_counter() - self.begin
        self.scores += [None] * min(2, int(3 * self.making / self.seconds))

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Score at each third."""
        used = time.perf_counter() - self.begin
        if used >= self.seconds * (len(self.scores) + 1) / 3:
            self.scores.append(self.score())
            self.begin += time.perf_counter() - self.begin - used
            self.end = used
        trainer.should_stop = len(self.scores) >= 3


def run(row: str, options: argparse.Namespace, pairs: list[Photograph], folder: Path) -> str:
    """Train one row and return its line of the table."""
    label, settings = ROWS[row]
    torch.manual_seed(0)
    rate = OptimizerConfig(options.learning_rate, warmup_steps=10, schedule="constant")
    cache = LatentCacheConfig(str(folder / row), options.samples, skips=row == "cached_skips")
    stage = DecoderFinetuneModule(base="tiny", optimizer=rate, cache=cache, **settings)
    stage.model.decoder = DetailDecoder(stage.model.vae, stage.model.config.detail)
    stage.freeze_untrained()
    clock = Clock(options.seconds, lambda: psnr(stage.model, pairs))
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=BUDGET, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
        default_root_dir=folder, callbacks=[clock],
    )  # fmt: skip
    clock.begin = time.perf_counter()
    trainer.fit(stage, datamodule=make_data(options))
    rate_a_second = trainer.global_step / (clock.end - clock.making)
    scores = " | ".join("-" if score is None else f"{score:.2f}" for score in clock.scores)
    making = f"{clock.making:.0f}" if "cached" in row else "-"
    return f"| {label} | {making} | {trainer.global_step} | {rate_a_second:.2f} | {scores} |"


def make_data(options: argparse.Namespace) -> DeadLeavesDataModule:
    """Return the data of configs/tiny/decoder.yaml."""
    return DeadLeavesDataModule(
        crop_size=options.crop_size, picture_size=options.crop_size * 5 // 4, val_size=options.side, batch_size=4,
        num_workers=1, seed=0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="wall time of each row, its cache included")
    parser.add_argument("--samples", type=int, default=1000, help="in the cache")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--photographs", type=int, default=33, help="validation pairs that are scored")
    parser.add_argument("--side", type=int, default=256, help="their long side in pixels")
    parser.add_argument("--crop_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    data, start = make_data(options), DecoderFinetuneModule(base="tiny").model.eval()
    pairs = photographs(data, start, options.photographs)
    shipped, plain = psnr(start, pairs), DetailDecoder(start.vae, start.config.detail)
    start.decoder = plain
    about = (
        f"{len(pairs)} validation pairs of {options.side} px: {psnr(start, pairs):.2f} dB before training, {shipped:.2f} dB "
        f"with the shipped decoder. {options.seconds:g} s a row, crops of {options.crop_size} px, batch 4, "
        f"{options.samples} samples in the cache, AdamW at {options.learning_rate:g}. {platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f}."
    )
    head = "| latents | making, s | steps | steps a second | PSNR at 1/3 | 2/3 | end |"
    lines = [about, "", head, "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in options.rows:
            lines.append(run(row, options, pairs, Path(folder)))
            print(lines[-1], flush=True)
    if options.out:
        title = "# Latents of the decoder stage: cached, predicted, sampled live\n\n"
        options.out.write_text(f"{title}Made by `python benchmarks/latents.py`.\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
