"""Train the tone correction of a restorer on what it makes of whole photographs: step 8 of `make tiny-weights`.

    python -m studies.tone --model runs/tiny/photographs_decoder/checkpoints/last.ckpt --out runs/tiny/export

The restorer is frozen, so that its images are made once: ``--batches`` of eight, each kept in ``--cache`` as soon as it is made
(an interrupted run continues). Kept are descriptions (``unildiff.core.tone``), products of the correction's terms, from which
the exact squared error of any correction follows, and the squared error of the LQ image. First the correction is trained, then the
judgement whether an image is clean. Both see degradations that the restorer was not trained on (``other_degradations``): without them
a darkened photograph without noise stayed dark. Recipe and constants: our choice.

Axis letters: B batch, H/W pixels, D numbers that describe an image, K terms of the correction with the error as the last.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import one_thread
from studies.tone_samples import OTHERS, SIZE, SMALL, WHOLE, Samples
from unildiff.core.model import UniLDiff
from unildiff.core.tone import DESCRIBED, CleanGate, ToneCorrection, describe, row_middles
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import progress
from unildiff.weights.load import load_restorer
from unildiff.weights.model_card import card_of_folder
from unildiff.weights.pipeline import UniLDiffPipeline

SETTINGS = SamplingSettings(2, 5.0)  # scores as twenty steps do
_FLOOR = 1e-4  # of the mean squared error: nothing is to be gained beyond 40 dB


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        one_thread()
        model = load_restorer(options.model)
        model.decoder.tone = None  # a correction that the model already has is replaced
        make_batches(options, model)
        files = [options.cache / f"{number:05d}.npz" for number in range(options.batches)]
        stored = [np.load(file) for file in files]
        if old := [file for file, each in zip(files, stored, strict=True) if "r" not in each]:
            raise UserError(
                f"cache: {old[0]} is of an earlier version of this study; give another --cache, or remove it"
            )
        described, products, lq_error, never_kept = (
            torch.from_numpy(np.concatenate([each[key] for each in stored])) for key in ("d", "p", "q", "r")
        )
        number = torch.arange(len(described)) // SIZE
        known = (number < WHOLE + SMALL).int()
        small = known * (number >= WHOLE)
        tone = train(described, products, options.steps, options.seed, 1 + known)
        with torch.no_grad():
            error = squared_error(products, tone.coefficients(described))
        lq_error = torch.where(never_kept, torch.maximum(lq_error, _WORSE * error), lq_error)
        tone.clean = train_gate(described, error, lq_error, options.gate_steps, options.seed + 1, 1 + 5 * small)
        UniLDiffPipeline.from_model(with_tone(model, tone).half(), card_of_folder(options.model)).save_pretrained(
            options.out
        )
    except UserError as error:
        print(f"tone: error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.tone", description=__doc__.splitlines()[0])
    made.add_argument("--model", required=True, help="checkpoint or exported folder whose images are corrected")
    made.add_argument("--out", type=Path, required=True, help="folder for the model with the correction")
    made.add_argument("--photographs", type=Path, default=Path("data/photographs/train"))
    made.add_argument(
        "--scenes", type=Path, default=Path("cache/scenes224"), help="cache of generated scenes of 224 pixels"
    )
    made.add_argument("--scene_count", type=int, default=2000)
    made.add_argument("--cache", type=Path, default=Path("cache/tone"))
    made.add_argument("--batches", type=int, default=BATCHES)
    made.add_argument("--steps", type=int, default=20000, help="of the correction")
    made.add_argument("--gate_steps", type=int, default=5000, help="of the judgement whether an image is clean")
    made.add_argument("--seed", type=int, default=0)
    return made


BATCHES = WHOLE + SMALL + OTHERS


def make_batches(options: argparse.Namespace, model: UniLDiff) -> None:
    """Restore the batches that the cache lacks."""
    missing = [number for number in range(options.batches) if not (options.cache / f"{number:05d}.npz").is_file()]
    if not missing:
        return
    samples = Samples(options.photographs, options.scenes, options.scene_count)
    options.cache.mkdir(parents=True, exist_ok=True)
    for number in progress(missing, len(missing), "Restoring"):
        batch = samples.batch(number)
        with torch.inference_mode():
            image = model.restore(batch.lq, batch.captions, batch.keys, SETTINGS)
        part = options.cache / "part.npz"
        q = (batch.gt - batch.lq).double().square().mean(dim=(1, 2, 3)) / 4
        d, p = describe(image, batch.lq), products_of(image, batch.gt)
        np.savez(part, d=d.numpy(), p=p.numpy(), q=q.numpy(), r=batch.never_kept.numpy())
        part.replace(options.cache / f"{number:05d}.npz")


def products_of(image: Tensor, gt: Tensor) -> Tensor:
    """Return the means of all products of the correction's terms and the error, (B, 3, K, K), float64.

    The terms are 1, u, y and y u, with u the value above black and y the row from -1 to 1; the error is gt - image.
    """
    u = image.double() + 1
    y = row_middles(u.shape[2], u.device).double()[:, None].expand_as(u)
    terms = torch.stack([torch.ones_like(u), u, y, y * u, gt.double() - image.double()], dim=2).flatten(3)
    return terms @ terms.transpose(2, 3) / terms.shape[3]


def squared_error(products: Tensor, numbers: Tensor) -> Tensor:
    """Return the mean squared error (B,), of 1, of images corrected with numbers (B, 12)."""
    terms = numbers.double().view(-1, 4, 3).transpose(1, 2)
    terms = torch.cat([terms, -torch.ones_like(terms[..., :1])], dim=2)
    return torch.einsum("bci,bcij,bcj->b", terms, products, terms).clamp_min(0) / 12


def train(described: Tensor, products: Tensor, steps: int, seed: int, weights: Tensor | None = None) -> ToneCorrection:
    """Return a correction trained on descriptions (B, D) and products (B, 3, K, K); for weights see ``fit``."""
    torch.manual_seed(seed)
    tone = ToneCorrection()

    def error(hidden: Tensor, chosen: Tensor) -> Tensor:
        return squared_error(products[chosen], tone.numbers(hidden))

    fit(tone, tone.hidden, described, error, steps, weights)
    return tone.eval()


def train_gate(
    described: Tensor, error: Tensor, lq_error: Tensor, steps: int, seed: int, weights: Tensor | None = None
) -> CleanGate:
    """Return the judgement whether an image is clean, trained on descriptions (B, D) and two squared errors (B,).

    Of an image that is a mixture of two, the squared error is at most the same mixture of their squared errors.

    Args:
        described: descriptions.
        error: of the corrected images.
        lq_error: of the LQ images: 0 for clean ones.
        steps: of the optimiser.
        seed: of initial weights and batches.
        weights: see ``fit``.
    """
    torch.manual_seed(seed)
    gate = CleanGate()

    def mixed(hidden: Tensor, chosen: Tensor) -> Tensor:
        return torch.lerp(error[chosen], lq_error[chosen], torch.sigmoid(gate.output(hidden))[:, 0].double())

    fit(gate, gate.hidden, described, mixed, steps, weights)
    return gate.eval()


def fit(
    net: nn.Module,
    hidden: nn.Sequential,
    described: Tensor,
    error: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    weights: Tensor | None = None,
) -> None:
    """Train a net in place.

    Args:
        net: what is trained.
        hidden: its two hidden layers, which see the descriptions.
        described: descriptions (B, D).
        error: squared errors of the images chosen (256,), from what the hidden layers make of them and their indices.
        steps: of the optimiser.
        weights: how often each image is drawn, relative to the others, whole numbers (B,); None: equally often.
    """
    drawn = torch.arange(len(described))
    drawn = drawn if weights is None else drawn.repeat_interleave(weights)
    mean, spread = described.mean(0), described.std(0) + 0.02
    scaled = ((described - mean) / spread).clamp(-5, 5)
    first, second = (layer for layer in hidden if isinstance(layer, nn.Linear))
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in progress(range(steps), steps, "Training"):
        chosen = drawn[torch.randint(len(drawn), (256,))]
        x = scaled[chosen] + _NOISE * torch.randn(256, DESCRIBED)
        for layer in (first, second):  # dropout is no part of the model that restores
            x = nn.functional.dropout(nn.functional.silu(layer(x)), _DROPOUT)
        loss = (error(x, chosen) + _FLOOR).log().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # the scale becomes part of the first layer
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ mean)


_RATE, _NOISE, _DROPOUT = 2e-3, 0.1, 0.3
_WORSE = 1.5  # times the restored image's error: what keeping an image counts for at least that is to be restored in any case


def with_tone(model: UniLDiff, tone: ToneCorrection) -> UniLDiff:
    """Return the model with the correction in place of the one it may have."""
    detail = replace(model.config.detail, tone=True)
    model.decoder.tone, model.decoder.config = tone, detail
    model.config = replace(model.config, detail=detail)
    return model


if __name__ == "__main__":
    raise SystemExit(main())
