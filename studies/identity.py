"""How faithfully can the decoder with DAEM return an image? A VAE of SDXL's shape at a quarter of its widths.

    python -m studies.identity train PHOTOGRAPHS --minutes 15     # processor minutes per setting; run again to resume
    python -m studies.identity score PHOTOGRAPHS

PHOTOGRAPHS is a folder with ``train`` and ``validation`` images. First the VAE is trained on clean images, for the same time;
the LQ encoder is a frozen copy of its encoder. Then decoder and DAEM are trained as in the decoder stage (L1, SSIM, balancing
loss) on latents of the LQ image: half of the crops are clean, half have rain, and the ground truth is always clean. The
schedule follows the clock, so a longer budget needs a new ``--run_dir``.

Axis letters: B batch, H/W pixels.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.timing import one_thread
from studies.naf import Clock, rate_factor, write
from studies.naf_model import NAFNet, blocks_for
from unildiff.core.daem import DetailConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, decode_latents, encode_latents
from unildiff.core.moe import Routing, StepBalance
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.core.sizes import SDXL
from unildiff.data.images.reader import read_rgb
from unildiff.degradations.cdd11 import degrade
from unildiff.diffusion.noise import KeyedNoise
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.metrics.ssim import training_ssim
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoint_files import load_file_safely

SHAPE = {"block_out_channels": (32, 64, 128, 128), "norm_num_groups": 8}
SETTINGS: dict[str, DetailConfig | None] = {
    "naf": None,
    "none": DetailConfig(kind="none"),
    "recipe": DetailConfig(width=16),  # SDXL's 64 at a quarter
    "wide": DetailConfig(width=32),
    "deep": DetailConfig(width=16, expert_depth=2, mix_depth=2),
    "pixels": DetailConfig(width=16, to_pixels=True),
    "deep pixels": DetailConfig(width=16, expert_depth=2, mix_depth=2, to_pixels=True),
    "wide pixels": DetailConfig(width=32, to_pixels=True),
    "wide deep pixels": DetailConfig(width=32, expert_depth=4, mix_depth=4, to_pixels=True),
}
"""Variants of DAEM. "none" is the tuned decoder alone, "naf" a NAFNet of 3.8 M parameters on pixels, without latents: what the budget allows."""
NAF_PARAMETERS = 3_800_000
RATE = 1e-3
SSIM_WEIGHT, BALANCE_WEIGHT = 0.2, 0.01
SAVED_EVERY = 30.0  # processor seconds
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes LQ and ground-truth images (B, 3, H, W) in [-1, 1] and keys, and returns the loss."""


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m studies.identity", description=(__doc__ or "").splitlines()[0])
    made.add_argument("command", choices=("train", "score"))
    made.add_argument("photographs", type=Path)
    made.add_argument("--minutes", type=float, default=15.0, help="processor minutes for the VAE and for each setting")
    made.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    made.add_argument("--run_dir", type=Path, default=Path("runs/identity"))
    made.add_argument("--crop", type=int, default=128, help="side of the crops, and of the scored middle of each image")
    made.add_argument("--batch_size", type=int, default=4)
    options = made.parse_args(arguments)
    one_thread()
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        vae = AutoencoderKL.from_config({**SDXL["vae"], **SHAPE})
        images = load(options.photographs / "train")
        if options.command == "train":

            def step(lq: Tensor, gt: Tensor, keys: Tensor) -> Tensor:
                return (decode_latents(vae, encode_latents(vae, gt)) - gt).abs().mean()

            fit("vae", vae, step, images, options)
        elif not (options.run_dir / "vae.pt").is_file():
            raise UserError(f"run_dir: no vae.pt in {options.run_dir}; run `train` first")
        else:
            vae.load_state_dict(load_file_safely(options.run_dir / "vae.pt")["net"])
        for name in options.settings:
            torch.manual_seed(0)
            net = restorer(name, vae)
            if options.command == "train":
                fit(name, net, restoring_step(vae, net), images, options)
        return score(vae, options)
    except UserError as error:
        print(f"identity: error: {error}", file=sys.stderr)
        return 2


def load(folder: Path) -> list[np.ndarray]:
    """Return the images (H, W, 3) uint8 of a folder, by name."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise UserError(f"photographs: no images in {folder}; give a folder with train and validation")
    return [read_rgb(path) for path in paths]


def tensor(images: list[np.ndarray]) -> Tensor:
    """Return (B, 3, H, W) in [-1, 1]."""
    return to_unit(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def batches(images: list[np.ndarray], first: int, size: int, crop: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield LQ, ground truth and keys of endless random crops, starting at batch ``first``: even ones clean, odd ones with rain."""
    for number in range(first, sys.maxsize):
        draw, lq, gt = np.random.default_rng((number, 1)), [], []
        for index in range(size):
            image = images[draw.integers(len(images))]
            top, left = (int(draw.integers(side - crop + 1)) for side in image.shape[:2])
            gt.append(np.ascontiguousarray(image[top : top + crop, left : left + crop][:, :: draw.choice((1, -1))]))
            lq.append(degrade(gt[-1], "rain", number * size + index).image if index % 2 else gt[-1])
        yield tensor(lq), tensor(gt), torch.arange(number * size, (number + 1) * size)


def fit(name: str, net: nn.Module, step: Step, images: list[np.ndarray], options: argparse.Namespace) -> None:
    """Train ``net`` until the budget of processor time is spent on it, in this run and in earlier ones."""
    budget, path, optimizer = (
        60 * options.minutes,
        options.run_dir / f"{name}.pt",
        torch.optim.AdamW(net.parameters(), RATE),
    )
    state = load_file_safely(path) if path.is_file() else {"seconds": 0.0, "step": 0}
    if "net" in state:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    clock, number = Clock(state["seconds"]), state["step"]
    saved, losses = clock.seconds(), []
    for lq, gt, keys in batches(images, number, options.batch_size, options.crop):
        if (now := clock.seconds()) >= budget or now - saved >= SAVED_EVERY:
            saved = now
            write(path, {"seconds": now, "step": number, "net": net.state_dict(), "optimizer": optimizer.state_dict()})
            print(f"{name}: {now / 60:.1f} min, step {number}, loss {np.mean(losses or [np.nan]):.4f}", flush=True)
            losses = []
            if now >= budget:
                return
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_factor(now / budget)
        loss = step(lq, gt, keys)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        number += 1


def restorer(name: str, vae: AutoencoderKL) -> nn.Module:
    """Return the untrained net of a setting."""
    config = SETTINGS[name]
    return NAFNet(blocks_for(NAF_PARAMETERS)) if config is None else DetailDecoder(vae, config)


def restore(
    net: nn.Module, vae: AutoencoderKL, encoder: LQEncoder, lq: Tensor, noise: KeyedNoise | None = None
) -> tuple[Tensor, list[Routing]]:
    """Return images (B, 3, H, W), about [-1, 1], and the experts that were chosen."""
    if isinstance(net, NAFNet):
        return net(lq), []
    with torch.no_grad():
        latents, skips = encode_latents(vae, lq), encoder(lq)[1]
    made: tuple[Tensor, list[Routing]] = net(latents, skips, lq, noise)
    return made


def restoring_step(vae: AutoencoderKL, net: nn.Module) -> Step:
    """Return the decoder stage's loss on latents of the LQ image."""
    encoder, balance, count = LQEncoder(vae).requires_grad_(False), StepBalance(), [0]

    def step(lq: Tensor, gt: Tensor, keys: Tensor) -> Tensor:
        image, routings = restore(net, vae, encoder, lq, KeyedNoise(keys))
        image, gt = (image + 1) / 2, (gt + 1) / 2
        loss: Tensor = (image - gt).abs().mean() + SSIM_WEIGHT * (1 - training_ssim(image, gt))
        count[0] += 1
        return loss + BALANCE_WEIGHT * balance(routings, count[0]) if routings else loss

    return step


@torch.no_grad()
def score(vae: AutoencoderKL, options: argparse.Namespace) -> int:
    """Print and write the mean PSNR over the validation images, clean and with rain, for the VAE and each trained setting."""
    images, encoder = load(options.photographs / "validation"), LQEncoder(vae)
    rows: dict[str, dict[str, float]] = {}
    for name in ["vae", *options.settings]:
        if not (path := options.run_dir / f"{name}.pt").is_file():
            continue
        state, net = load_file_safely(path), restorer("none" if name == "vae" else name, copy.deepcopy(vae)).eval()
        if name != "vae":
            net.load_state_dict(state["net"])
        found: dict[str, list[float]] = {"clean": [], "rain": []}
        for key, image in enumerate(images):
            top, left = ((side - options.crop) // 2 for side in image.shape[:2])
            clear = np.ascontiguousarray(image[top : top + options.crop, left : left + options.crop])
            gt = to_uint8(tensor([clear]), [name])
            for kind, given in (("clean", clear), ("rain", degrade(clear, "rain", key).image)):
                restored = to_uint8(restore(net, vae, encoder, tensor([given]))[0].clamp(-1, 1), [name])
                found[kind].append(float(psnr(restored, gt, PROTOCOLS["onerestore"])))
        parts = (getattr(net, "details", None), getattr(net, "pixels", None))
        added = sum(p.numel() for part in parts if part is not None for p in part.parameters())
        rows[name] = {"minutes": state["seconds"] / 60, "steps": state["step"], "DAEM parameters": added}
        rows[name] |= {f"PSNR, {kind}": float(np.mean(values)) for kind, values in found.items()}
        print(f"{name:12}" + "".join(f"  {column} {value:.4g}" for column, value in rows[name].items()), flush=True)
    (options.run_dir / "scores.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
