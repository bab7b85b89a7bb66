"""PSNR and GMSD against guidance 1 to 8 and steps 1 to 50, with the paper's 5 and 20 marked (issue 7).

    python -m benchmarks.sampling_sweep                                 # shipped model, validation photographs
    python -m benchmarks.sampling_sweep --model FOLDER --every 3        # every third picture: a third of the time
    python -m benchmarks.sampling_sweep --pictures test --out docs/tiny-model/sweep_test

Writes OUT.csv (a line a picture and point; a sweep that was stopped goes on, one of another model is kept apart), OUT.pdf and OUT.png. One picture costs about
13 restorations of 20 guided steps. The same sweep for other pictures: `unildiff.analysis.sweeps`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.held_out import add_options, add_pictures, held_out, opened
from unildiff.analysis.sweeps import GUIDANCE, STEPS, means, settings, sweep, sweep_figure
from unildiff.utils.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.sampling_sweep", description=__doc__.splitlines()[0])
    add_options(made, STEPS)
    add_pictures(made)
    made.add_argument("--guidance", type=float, nargs="+", default=GUIDANCE)
    made.add_argument("--out", type=Path, default=Path("runs/sweep/tiny"), help="path without suffix")
    options = made.parse_args(arguments)
    try:
        model = opened(options)
        samples = held_out(options.pictures)[:: options.every]
        points = settings(options.guidance, options.steps)
        rows = sweep(model, samples, points, options.out.with_suffix(".csv"))
    except UserError as error:
        print(f"sampling_sweep: error: {error}", file=sys.stderr)
        return 2
    print(f"{'steps':>6}{'guidance':>10}{'PSNR':>8}{'GMSD':>9}{'pictures':>10}")
    for point, scores in means(rows).items():
        numbers = f"{scores['psnr']:8.2f}{scores['gmsd']:9.4f}{int(scores['count']):10d}"
        print(f"{point.steps:6d}{point.guidance:10g}{numbers}")
    print(*sweep_figure(rows, options.out), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
