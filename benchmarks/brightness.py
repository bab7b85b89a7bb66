"""How much of the tiny model's error is brightness and colour, which DAEM can only take back from the LQ picture.

    python -m benchmarks.brightness
    python -m benchmarks.brightness --pictures test      # to explain scores, not to choose

Each restored picture is scored as it is; moved by one number a colour to the truth's mean (``+exposure``); and with what a
mean over ``REACH_PIXELS`` sees of its error taken away (``+brightness``). What is left is structure. Oracles: no restorer
could do this.

Axis letters: H/W pixels.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.held_out import (
    Restored,
    add_options,
    add_pictures,
    held_out,
    latents_of,
    number,
    opened,
    score,
    table_line,
)
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.results.rows import Summary
from unildiff.utils.errors import UserError

REACH_PIXELS = 41  # odd; about the means that PixelMix moves (5 cells of 8)
KINDS = ("", "+exposure", "+brightness")
DETAIL = {"after_joint": False, "restored": True}
"""Rows, and whether DAEM decodes them."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        model = opened(options)
    except UserError as error:
        print(f"brightness: error: {error}", file=sys.stderr)
        return 2
    settings = SamplingSettings(options.steps, options.guidance)

    def restore(sample: RestorationSample) -> Restored:
        pictures = {}
        with torch.inference_mode():
            features, latents = latents_of(model, sample, settings)
            for row, detail in DETAIL.items():
                picture = model.decode(latents, features, sample["lq"].shape, detail)[0]
                moved = oracles(picture, to_unit(sample["gt"]))
                pictures |= {row + kind: to_uint8(each) for kind, each in zip(KINDS, moved, strict=True)}
        return pictures

    scores = score(held_out(options.pictures)[:: options.every], restore, "the model")
    print(
        f"{options.model} on the {options.pictures} photographs, {options.steps} steps, guidance {options.guidance:g}; PSNR (dB)\n"
    )
    print(report(scores))
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.brightness", description=__doc__.splitlines()[0])
    add_options(made, steps=20)
    add_pictures(made)
    made.add_argument("--guidance", type=float, default=5.0)
    return made


def oracles(picture: Tensor, truth: Tensor) -> list[Tensor]:
    """Return a picture (3, H, W) in [-1, 1] in the order of ``KINDS``; the truth likewise."""
    error = truth - picture
    return [picture, picture + error.mean(dim=(1, 2), keepdim=True), picture + local_means(error)]


def local_means(picture: Tensor) -> Tensor:
    """Return means over ``REACH_PIXELS`` squared about each pixel of (3, H, W); what lies beyond the edges does not count."""
    padding = REACH_PIXELS // 2
    return F.avg_pool2d(picture[None], REACH_PIXELS, stride=1, padding=padding, count_include_pad=False)[0]


def report(scores: dict[str, Summary]) -> str:
    """Return a table: rows as scored, and what DAEM adds of each kind."""
    degradations = list(scores["input"])
    values = {row: [number(summary, "psnr", name) for name in degradations] for row, summary in scores.items()}
    for kind in KINDS:
        pairs = zip(values["restored" + kind], values["after_joint" + kind], strict=True)
        values["worth of DAEM" + kind] = [ours - plain for ours, plain in pairs]
    rows = [table_line(row, [f"{cell:.2f}" for cell in cells]) for row, cells in values.items()]
    return "\n".join([table_line("", degradations), *rows])


if __name__ == "__main__":
    raise SystemExit(main())
