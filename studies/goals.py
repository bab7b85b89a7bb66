"""Every goal of the tiny model, measured for one model, one line per point.

    python -m studies.goals --validation                       # the shipped model on the validation photographs
    python -m studies.goals                                    # the test photographs, not for decisions
    python -m studies.goals --model runs/tiny/decoder/checkpoints/last.ckpt --alignment runs/tiny/alignment/...
    make tiny-goals ARGS="--validation"

Point 2 wants rivals trained with the same budget: a decoder fed LQ latents (`configs/tiny/weights/5_decoder.yaml` with
`--model.latents lq`) as --no-diffusion, and one without experts (`--model.network.detail.kind none`) as --without-daem;
without them the model's own parts are compared, which favours it; the line notes this. Point 3 wants --naf, a checkpoint of
`naf` trained for the processor time that the stages after the base took.
Exits with 1 where a goal is missed.

Axis letters: H/W pixels.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from studies.naf import load_naf
from studies.naf import restore as restore_by_naf
from studies.robustness import clean_psnr, mean_colour_shift, same_bytes, seconds_for_512
from studies.runner import Restored, add_options, held_out, latents_of, number, opened, score, table_line
from unildiff.analysis.sweeps import PAPER
from unildiff.core.encoders import encode_latents
from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.rows import Summary
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.load import load_restorer

MOCE_IR_S_SECONDS = 24.5  # for 512x512 on one core of such a machine
EQUAL_PSNR = 0.05  # dB: "equal PSNR" of point 2 (our reading)


@dataclass(frozen=True)
class Point:
    """One goal: its number, the measured value, and whether it is met (None: not measured)."""

    number: str
    text: str
    measured: str
    goal: str
    met: bool | None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        model = opened(options)
        settings = SamplingSettings(options.steps, options.guidance)
        rivals = open_rivals(options, settings)
        which = "validation" if options.validation else "test"
        samples = held_out(which)[:: options.every]
        scores = score(samples, lambda sample: way(model, sample, settings), "the model")
        rival_scores = {row: score(samples, lambda s, r=row: {r: rivals[r](s)}, row)[row] for row in rivals}
    except UserError as error:
        print(f"goals: error: {error}", file=sys.stderr)
        return 2
    found = [
        *gains(scores["input"], scores["restored"]),
        *stages(scores, rival_scores),
        *feed_forward(scores["restored"], rival_scores.get("naf")),
        *robustness(model, which, settings, options),
        *sizes(model, options.model),
    ]
    print(f"{options.model} on the {which} photographs: {len(samples)} images, onerestore, {options.steps} steps, ")
    print(f"guidance {options.guidance:g}, {options.threads} thread(s), load {os.getloadavg()[0]:.1f}\n")
    print(table(scores | rival_scores) + "\n\n" + points_text(found))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"points": [asdict(point) for point in found], "scores": scores | rival_scores}
        options.out.write_text(json.dumps(content, indent=2) + "\n")
    return int(any(point.met is False for point in found))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.goals", description=__doc__.splitlines()[0])
    add_options(made, steps=20)
    made.add_argument(
        "--validation", action="store_true", help="use the validation photographs instead of the test ones"
    )
    made.add_argument("--alignment", help="checkpoint of the alignment stage; by default the one beside a checkpoint")
    made.add_argument("--no-diffusion", help="checkpoint of a decoder trained on LQ latents, same budget")
    made.add_argument("--without-daem", help="checkpoint of a decoder trained without experts, same budget")
    made.add_argument("--naf", type=Path, help="checkpoint of studies.naf")
    made.add_argument("--guidance", type=float, default=5.0)
    made.add_argument("--skip-robustness", action="store_true", help="leave out points 4 and 5 and the time")
    made.add_argument("--out", type=Path, help="also write points and scores as JSON")
    return made


# What is compared.


def way(model: UniLDiff, sample: RestorationSample, settings: SamplingSettings) -> Restored:
    """Restore one image, also with the plain decoder on the same latents and with the decoder on LQ latents."""
    size = sample["lq"].shape
    with torch.inference_mode():
        features, latents = latents_of(model, sample, settings)
        truth = encode_latents(model.vae, model.pad(to_unit(sample["gt"][None])))
        images = {
            "restored": model.decode(latents, features, size),
            "after_joint": model.decode(latents, features, size, detail=False),
            "own_no_diffusion": model.decode(features.latents, features, size),
            "round_trip": model.decode(truth, features, size, detail=False),
        }
    return {row: to_uint8(image)[0] for row, image in images.items()}


def open_rivals(
    options: argparse.Namespace, settings: SamplingSettings
) -> dict[str, Callable[[RestorationSample], Tensor]]:
    """Return how --alignment, --no-diffusion, --without-daem and --naf restore, by row; options not given are left out."""
    given = {"after_alignment": options.alignment or stage_before(options.model, 2)}
    given |= {"no_diffusion": options.no_diffusion, "without_daem": options.without_daem}
    found: dict[str, Callable[[RestorationSample], Tensor]] = {}
    for row, source in given.items():
        if source is not None:
            found[row] = partial(rival, load_restorer(source), settings=settings, row=row)
    if options.naf is not None:
        found["naf"] = partial(restore_by_naf, load_naf(options.naf))
    return found


def rival(model: UniLDiff, sample: RestorationSample, settings: SamplingSettings, row: str) -> Tensor:
    with torch.inference_mode():
        features, latents = latents_of(model, sample, settings, diffusion=row != "no_diffusion")
        return to_uint8(model.decode(latents, features, sample["lq"].shape, detail=row != "after_alignment"))[0]


def stage_before(source: str, times: int) -> str | None:
    """Return the checkpoint that a checkpoint was started from, ``times`` stages back; None if it does not exist."""
    for _ in range(times):
        if not Path(source).is_file():
            return None
        source = str(read_checkpoint(source).settings.get("init_from"))
    return source if Path(source).is_file() else None


# The points.


def gains(before: Summary, after: Summary) -> list[Point]:
    """Point 1."""
    degradations = [name for name in after if name != "avg"]
    mean = number(after, "psnr") - number(before, "psnr")
    gain = {name: number(after, "psnr", name) - number(before, "psnr", name) for name in degradations}
    ssim = {name: number(after, "ssim", name) - number(before, "ssim", name) for name in degradations}
    least, worst = min(gain, key=lambda name: gain[name]), min(ssim, key=lambda name: ssim[name])
    below, darker = [name for name in gain if gain[name] < 0.5], [name for name in ssim if ssim[name] <= 0]
    return [
        Point("1", "PSNR above the input, mean", f"{mean:+.2f} dB", ">= +6 dB", mean >= 6),
        Point(
            "1", "PSNR above the input, least", f"{gain[least]:+.2f} dB {least}{_of(below)}", ">= +0.5 dB", not below
        ),
        Point("1", "SSIM above the input, least", f"{ssim[worst]:+.4f} {worst}{_of(darker)}", "> 0", not darker),
    ]


def stages(scores: dict[str, Summary], rivals: dict[str, Summary]) -> list[Point]:
    """Point 2."""
    rows = {"input": "input", "after_alignment": "alignment", "after_joint": "joint", "restored": "decoder"}
    known = [(name, number((scores | rivals)[row], "psnr")) for row, name in rows.items() if row in scores | rivals]
    rises = all(first[1] < second[1] for first, second in pairwise(known))
    text = ", ".join(f"{name} {value:.2f}" for name, value in known)
    complete = "after_alignment" in rivals
    met: bool | None = rises if complete or not rises else None
    found = [
        Point(
            "2", "each stage better than the one before", text + ("" if complete else " (no alignment)"), "rises", met
        )
    ]
    psnr, gmsd = (number(scores["restored"], metric) for metric in ("psnr", "gmsd"))
    plain = psnr - number(scores["after_joint"], "psnr")
    found.append(Point("2", "DAEM against the plain decoder", f"{plain:+.2f} dB", ">= +1 dB", plain >= 1))
    if "without_daem" in rivals:
        fair = psnr - number(rivals["without_daem"], "psnr")
        found.append(Point("2", "DAEM, same budget without it", f"{fair:+.2f} dB", ">= +1 dB", fair >= 1))
    fair_row = rivals.get("no_diffusion")
    other = fair_row or scores["own_no_diffusion"]
    gain, change = psnr - number(other, "psnr"), gmsd - number(other, "gmsd")
    met = gain >= 0.3 or (gain >= -EQUAL_PSNR and change < 0)
    name = "same budget on LQ latents" if fair_row else "own decoder on LQ latents, not trained for them"
    measured = f"{gain:+.2f} dB, GMSD {change:+.4f}"
    goal = ">= +0.3 dB, or PSNR equal and GMSD lower"
    found.append(Point("2", f"diffusion against {name}", measured, goal, met if fair_row or not met else None))
    return found


def feed_forward(ours: Summary, naf: Summary | None) -> list[Point]:
    """Point 3."""
    if naf is None:
        return []
    gain, change = (number(ours, metric) - number(naf, metric) for metric in ("psnr", "gmsd"))
    met = gain >= -0.5 and change < 0
    measured = f"{gain:+.2f} dB, GMSD {change:+.4f}"
    return [Point("3", "against a NAF U-Net of the same size", measured, ">= -0.5 dB and GMSD lower", met)]


def robustness(model: UniLDiff, which: str, settings: SamplingSettings, options: argparse.Namespace) -> list[Point]:
    """Points 4 and 5, and the time."""
    if options.skip_robustness:
        return []
    same = same_bytes(model, load_restorer(options.model), which, settings)
    found = [Point("4", "same image, seed, device: same bytes", "yes" if same else "no", "yes", same)]
    for name, shift in mean_colour_shift(model, which, settings).items():
        found.append(Point("4", f"mean colour, clean, {name}", f"{shift:.2f}/255", "<= 1/255", shift <= 1))
    psnr = clean_psnr(model, which, settings)
    least = min(psnr, key=lambda name: psnr[name])
    mean = sum(psnr.values()) / len(psnr)
    measured = f"{mean:.2f} dB, least {psnr[least]:.2f} dB {least}"
    found.append(Point("5", "clean photographs stay clean, mean", measured, ">= 30 dB", mean >= 30))
    wall, processor = seconds_for_512(model, PAPER)
    limit = MOCE_IR_S_SECONDS / 2
    measured = f"{processor:.1f} s processor, {wall:.1f} s wall (load {os.getloadavg()[0]:.1f})"
    found.append(
        Point(
            "Model",
            f"512x512, {PAPER.num_inference_steps} guided steps",
            measured,
            f"<= {limit} s",
            processor <= limit,
        )
    )
    return found


def sizes(model: UniLDiff, source: str) -> list[Point]:
    """Parameters, bytes, and DAEM's proportion including the LQ encoder, whose skips it reads."""

    def count(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    total = count(model)
    experts, skips = count(model.decoder.details), count(model.lq_encoder)
    experts += sum(count(part) for part in (model.decoder.pixels, model.decoder.tone) if part is not None)
    share = (experts + skips) / total
    folder = Path(source)
    stored = (
        2 * total if not folder.is_dir() else sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    )
    return [
        Point("Model", "parameters", f"{total / 1e6:.2f} M", "<= 10 M", total <= 10e6),
        Point("Model", "stored, 16 bits", f"{stored / 1e6:.1f} MB", "<= 20 MB", stored <= 20e6),
        Point(
            "Model",
            "DAEM and its skips (the whole LQ encoder)",
            f"{experts / 1e6:.2f} M + {skips / 1e6:.2f} M = {share:.0%}",
            "<= 25%",
            share <= 0.25,
        ),
    ]


# Text.


def table(scores: dict[str, Summary]) -> str:
    """Return PSNR, SSIM and GMSD by degradation, one block per metric."""
    degradations = list(scores["restored"])
    lines = []
    for metric, form in (("psnr", "{:.2f}"), ("ssim", "{:.3f}"), ("gmsd", "{:.4f}")):
        lines.append(table_line(metric.upper(), degradations))
        for row, summary in scores.items():
            lines.append(table_line(row, [form.format(number(summary, metric, name)) for name in degradations]))
    return "\n".join(lines)


def points_text(points: Sequence[Point]) -> str:
    """Return one line per point."""
    verdict = {True: "met", False: "MISSED", None: "open"}
    return "\n".join(f"{p.number:6}{verdict[p.met]:7} {p.text}: {p.measured} (goal {p.goal})" for p in points)


def _of(names: Sequence[str]) -> str:
    return f"; missed by {', '.join(names)}" if names else ""


if __name__ == "__main__":
    raise SystemExit(main())
