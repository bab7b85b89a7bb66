"""Decide between two versions of the tiny model: 31 photographs that nothing trains on, under every degradation.

    python -m studies.validate --out runs/validation/shipped.csv
    python -m studies.validate --model runs/tiny/export --out runs/validation/new.csv --against runs/validation/shipped.csv
    python -m studies.validate --model tiny --every 8 --out runs/quick.csv      # a quick look

The photographs are the 28 of `unildiff data photographs` and the three that installed packages ship. A row per image is
written as soon as it is scored, so an interrupted run continues. A version replaces the shipped one if the interval of the
mean over CDD-11's eleven degradations lies above zero, or the interval with clean images and those of `studies.unseen` does and
the eleven lose at most 0.05 dB. Scenes are the unit of the bootstrap: images of one photograph are not independent. `unildiff compare` reads the same files.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from datamodules.photographs import PhotographsDataModule
from studies.runner import METRICS, add_options, degraded, opened
from unildiff.core.pixels import to_uint8
from unildiff.data.batch import RestorationSample
from unildiff.degradations.cdd11 import DEGRADATIONS
from unildiff.degradations.tasks import CLEAR
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.results.evaluator import Evaluator
from unildiff.results.statistics import compare_paired
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder
from unildiff.utils.parallel import progress

Rows = dict[tuple[str, str], dict[str, float]]
EXACT = 60.0
"""dB: what an image that equals its ground truth counts as, so that means stay finite."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        data = PhotographsDataModule(val_root=options.photographs, captions_from_names=True, num_workers=0)
        score_all(options, data)
        print(summary(read_rows(options.out)))
        if options.against is not None:
            print(decision(read_rows(options.against), read_rows(options.out)))
    except UserError as error:
        print(f"validate: error: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.validate", description=__doc__.splitlines()[0])
    add_options(made, steps=4)
    made.add_argument("--guidance", type=float, default=5.0)
    made.add_argument("--photographs", default="data/photographs/validation", help="folder of clean photographs")
    made.add_argument("--out", type=Path, required=True, help="CSV with a row per image")
    made.add_argument("--against", type=Path, help="the same file of another version")
    return made


def score_all(options: argparse.Namespace, data: PhotographsDataModule) -> None:
    """Restore and score the images that ``options.out`` lacks."""
    if not Path(options.photographs).is_dir():
        raise UserError(
            f"no folder {options.photographs}; `unildiff data photographs` downloads it, or give --photographs"
        )
    samples = data.test_set()
    known = read_rows(options.out) if options.out.is_file() else {}
    missing = [
        index
        for index, pair in list(enumerate(samples.pairs))[:: options.every]
        if (pair.degradation, pair.name) not in known
    ]
    if not missing:
        return
    model, settings = opened(options), SamplingSettings(options.steps, options.guidance)
    output_folder(options.out.parent)
    fields = ["degradation", "name", *METRICS, *(f"input_{metric}" for metric in METRICS)]
    with options.out.open("a", newline="") as file, torch.inference_mode():
        writer = csv.DictWriter(file, fields)
        if file.tell() == 0:
            writer.writeheader()
        for index in progress(missing, len(missing), "Restoring"):
            sample = cast(RestorationSample, samples[index])
            image = model.restore(degraded(sample), [sample["caption"]], [sample["key"]], settings)
            row = {"degradation": sample["degradation"], "name": sample["name"]}
            for prefix, scored in (("", to_uint8(image)[0]), ("input_", sample["lq"])):
                evaluator = Evaluator("onerestore", METRICS)
                evaluator.add(sample["name"], sample["degradation"], scored, sample["gt"])
                (scores,) = evaluator.rows()
                row |= {f"{prefix}{metric}": scores[metric] for metric in METRICS}
            writer.writerow(row)
            file.flush()


def read_rows(path: Path) -> Rows:
    """Return the scores of a file that this study wrote, by degradation and name.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                (row.pop("degradation"), row.pop("name")): {key: min(float(value), EXACT) for key, value in row.items()}
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"no scores in {path} ({type(error).__name__}: {error}); give a file of this study") from None


def summary(rows: Rows) -> str:
    """Return means by degradation: input, restored and gain."""
    lines = [f"{'':16}{'images':>7}{'input':>9}{'PSNR':>9}{'gain':>8}{'SSIM':>8}{'GMSD':>9}"]
    names = list(dict.fromkeys(degradation for degradation, _ in rows))
    groups = {name: [name] for name in names} | {"CDD-11's eleven": [n for n in names if n in DEGRADATIONS]}
    for label, members in groups.items():
        means = {
            metric: _mean([_mean([r[metric] for (d, _), r in rows.items() if d == name]) for name in members])
            for metric in ("input_psnr", "psnr", "ssim", "gmsd")
        }
        count = sum(degradation in members for degradation, _ in rows)
        before, after = means["input_psnr"], means["psnr"]
        lines.append(
            f"{label:16}{count:7}{before:9.2f}{after:9.2f}{after - before:+8.2f}{means['ssim']:8.3f}{means['gmsd']:9.4f}"
        )
    return "\n".join(lines)


def decision(first: Rows, second: Rows) -> str:
    """Return the paired differences over CDD-11's eleven degradations, alone and with clean images, and what they decide."""
    eleven = sorted(key for key in first.keys() & second.keys() if key[0] in DEGRADATIONS)
    if not eleven:
        raise UserError("against: the two files have no image in common; score the same photographs")
    clean = sorted(key for key in first.keys() & second.keys() if key[0] == CLEAR)
    lines = [_paired("CDD-11's eleven", eleven, first, second)]
    return "\n".join(lines + ([_paired("with clean ones", eleven + clean, first, second)] if clean else []))


def _paired(label: str, keys: list[tuple[str, str]], first: Rows, second: Rows) -> str:
    values = [[rows[key]["psnr"] for key in keys] for rows in (first, second)]
    found = compare_paired(values[0], values[1], [name for _, name in keys])
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "not decided"
    return (
        f"PSNR, {label}, {len(keys)} images of {found.count} photographs: {found.difference:+.3f} dB, 95% {found.low:+.3f} to "
        f"{found.high:+.3f}; higher in {found.better}, lower in {found.worse}: {verdict}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    raise SystemExit(main())
