"""A plain feed-forward restorer beside the tiny model: NAF-block U-Net, L1 loss, same data, same time.

    python -m studies.naf fit --minutes 60                 # processor minutes; run again to resume
    python -m studies.naf score --images validation     # or test: the five photographs of `data sample cdd11`
    python -m studies.goals --naf runs/naf/last.pt             # both models in one run, point 3 with the others

The net (`naf_model`) has the shipped model's number of parameters to within about 1.5%. Its training samples are those of
`configs/tiny/weights/4_joint.yaml`, with that file's crops, batch and keys, in the same order. The budget is processor time
of this process, including loading (in this process, so that all of it is counted); validation is not counted.
One thread wastes least of it. AdamW (betas 0.9, 0.9 as in NAFNet's description), 1e-3, cosine to zero over the budget after
a warm-up of 2%, gradients clipped to 1, bf16 autocast. A resumed run is not bit for bit the same: its schedule follows
the clock.

Axis letters: B batch, H/W pixels.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.timing import one_thread
from datamodules.deadleaves import DeadLeavesDataModule
from studies.naf_model import NAFNet, blocks_for
from studies.runner import add_images, degraded, held_out, number, positive, score
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.metrics.rows import Summary
from unildiff.utils.errors import UserError
from unildiff.utils.paths import config_path
from unildiff.weights.checkpoints import load_file_safely
from unildiff.weights.load import load_restorer

DATA = "configs/tiny/weights/4_joint.yaml"
RATE, WARMUP, CLIP = 1e-3, 0.02, 1.0
SAVED_EVERY = 60.0  # processor seconds


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    one_thread()
    torch.set_num_threads(options.threads)
    try:
        return fit(options) if options.command == "fit" else show(options)
    except UserError as error:
        print(f"naf: error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.naf", description=__doc__.splitlines()[0])
    commands = made.add_subparsers(dest="command", required=True)
    fits = commands.add_parser("fit", help="train for a budget of processor time, or resume")
    fits.add_argument("--minutes", type=float, required=True, help="processor minutes in all")
    fits.add_argument("--parameters", type=int, help="by default those of the shipped tiny model")
    fits.add_argument("--config", default=DATA, help="yaml whose data section is trained on")
    fits.add_argument("--seed", type=int, default=0, help="of the initialisation; the data keep the config's")
    fits.add_argument(
        "--looks", type=int, default=6, help="how often the validation photographs are restored during training"
    )
    scores = commands.add_parser("score", help="score a trained net")
    add_images(scores)
    for each in (fits, scores):
        each.add_argument("--run_dir", type=Path, default=Path("runs/naf"))
        each.add_argument("--threads", type=positive, default=1)
    return made


# Training.


def fit(options: argparse.Namespace) -> int:
    if not options.minutes > 0:
        raise UserError(f"minutes: {options.minutes:g}; give a time above 0")
    config = yaml.safe_load(config_path(options.config).read_text())
    settings = config["data"]["init_args"] | {"num_workers": 0, "seed": config["seed_everything"]}
    settings["batch_size"] *= config.get("trainer", {}).get("devices", 1)  # the global batch, in one process
    data = DeadLeavesDataModule(**settings)
    data.prepare_data()
    data.setup("fit")
    state = load_file_safely(last) if (last := options.run_dir / "last.pt").is_file() else None
    if state is None:
        parameters = options.parameters or sum(p.numel() for p in load_restorer("tiny").parameters())
        state = {"deep": blocks_for(parameters), "seed": options.seed, "step": 0, "seconds": 0.0, "consumed": 0}
    torch.manual_seed(state["seed"])
    net = NAFNet(state["deep"]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.9), weight_decay=0.0)
    if "net" in state:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        data.consumed = state["consumed"]
    options.run_dir.mkdir(parents=True, exist_ok=True)
    train(net, optimizer, data, state, options)
    return 0


def train(
    net: NAFNet,
    optimizer: torch.optim.Optimizer,
    data: DeadLeavesDataModule,
    state: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Train until the budget is spent; ``state`` counts steps, samples and seconds."""
    budget, step = 60 * options.minutes, state["step"]
    total = sum(parameter.numel() for parameter in net.parameters())
    print(f"NAF: {total / 1e6:.2f} M parameters, {options.minutes:g} processor minutes, {options.threads} thread(s)")
    clock, losses, batches = Clock(state["seconds"]), [], iter(())
    saved, looked = clock.seconds(), int(options.looks * clock.seconds() / budget)
    while clock.seconds() < budget:
        if (batch := next(batches, None)) is None:  # an epoch ends; the loader continues from ``consumed``
            batches = iter(data.train_dataloader())
            batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_factor(clock.seconds() / budget)
        losses.append(train_step(net, optimizer, to_unit(batch["lq"]), to_unit(batch["gt"])))
        step += 1
        data.consumed += len(batch["name"])
        due, ended = int(options.looks * clock.seconds() / budget), clock.seconds() >= budget
        if ended or due > looked or clock.seconds() - saved >= SAVED_EVERY:
            saved = clock.seconds()
            counts = {"step": step, "seconds": saved, "consumed": data.consumed}
            write(
                options.run_dir / "last.pt",
                state | counts | {"net": net.state_dict(), "optimizer": optimizer.state_dict()},
            )
            print(f"{saved / 60:7.1f} min  step {step}  L1 {sum(losses) / len(losses):.4f}", flush=True)
            if due > looked and options.looks:
                note(options.run_dir / "curve.csv", saved / 60, step, sum(losses) / len(losses), validate(net))
                clock.set(saved)
            looked, losses = due, []


def train_step(net: NAFNet, optimizer: torch.optim.Optimizer, lq: Tensor, gt: Tensor) -> float:
    """Take one step on images (B, 3, H, W) in [-1, 1]; return the loss, L1 on that scale."""
    with torch.autocast("cpu", torch.bfloat16):
        restored = net(lq.contiguous(memory_format=torch.channels_last))
    loss = (restored.float() - gt).abs().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    optimizer.step()
    return loss.item()


def rate_factor(share: float) -> float:
    """Return the factor on the learning rate after a share of the budget: linear warm-up, then half a cosine to zero."""
    if share < WARMUP:
        return max(share / WARMUP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP) / (1 - WARMUP))))


class Clock:
    """Processor seconds of this process, all threads, on top of those of earlier runs."""

    def __init__(self, seconds: float) -> None:
        self.set(seconds)

    def seconds(self) -> float:
        """Return the time on the clock."""
        return time.process_time() + self._offset

    def set(self, seconds: float) -> None:
        """Continue from that time."""
        self._offset = seconds - time.process_time()


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    partial = path.with_suffix(".part")
    torch.save(content, partial)
    partial.replace(path)


def note(path: Path, minutes: float, step: int, loss: float, summary: Summary) -> None:
    """Add a line to the curve."""
    row = {"minutes": round(minutes, 2), "step": step, "l1": round(loss, 5)}
    row |= {f"psnr/{name}": round(number(summary, "psnr", name), 3) for name in summary}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


# Scoring.


def restore(net: NAFNet, sample: RestorationSample) -> Tensor:
    """Return the restored image (3, H, W) uint8."""
    with torch.inference_mode():
        return to_uint8(net(degraded(sample)))[0]


def validate(net: NAFNet) -> Summary:
    net.eval()
    summary = score(held_out("validation", 256), lambda sample: {"naf": restore(net, sample)}, "validation")["naf"]
    net.train()
    return summary


def load_naf(path: Path) -> NAFNet:
    """Return a trained net.

    Raises:
        UserError: the file is missing, no checkpoint, or one of another model.
    """
    state = load_file_safely(path)
    if not {"deep", "net"} <= set(state):
        raise UserError(f"naf: {path} is not a checkpoint of studies.naf; give the last.pt of its run_dir")
    net = NAFNet(state["deep"])
    net.load_state_dict(state["net"])
    return net.eval().to(memory_format=torch.channels_last)


def show(options: argparse.Namespace) -> int:
    net = load_naf(options.run_dir / "last.pt")
    scores = score(held_out(options.images), lambda sample: {"naf": restore(net, sample)})
    print(f"{options.run_dir} on the {options.images} photographs, onerestore: PSNR / SSIM / GMSD, input and restored")
    for name in scores["naf"]:
        cells = [
            f"{number(s, 'psnr', name):6.2f} {number(s, 'ssim', name):.3f} {number(s, 'gmsd', name):.4f}"
            for s in scores.values()
        ]
        print(f"{name:16}" + "   ".join(cells))
    (options.run_dir / f"scores_{options.images}.json").write_text(json.dumps(scores, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
