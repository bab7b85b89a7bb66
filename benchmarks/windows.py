"""What a window's surroundings are worth: the colour of clean windows restored alone, and cut from the whole restored.

    python -m benchmarks.windows
    python -m benchmarks.windows --pictures test      # to explain, not to choose

Point 4 of `tiny_goals` asks that clean windows keep their mean colour to 1 of 255. Where the same pixels keep it in the
whole photograph and not alone, what is missing is what lies around them: by itself a dark or pale window may as well be
damaged.

Axis letters: none.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.held_out import add_options, add_pictures, opened
from benchmarks.robustness import WINDOWS, clean_photographs, colour_shift, restored_array, window
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        model = opened(options)
    except UserError as error:
        print(f"windows: error: {error}", file=sys.stderr)
        return 2
    settings = SamplingSettings(options.steps, options.guidance)
    print(
        f"{options.model}, clean {options.pictures} photographs, {options.steps} steps; shift of mean colour, of 255\n"
    )
    print(f"{'photograph':16}{'whole':>8}" + "".join(f"{f'{h}x{w} alone':>16}{'in the whole':>14}" for h, w in WINDOWS))
    for name, (picture, caption) in list(clean_photographs(options.pictures).items())[:: options.every]:
        whole = restored_array(model, picture, caption, settings)
        cells = [f"{colour_shift(whole, picture):8.2f}"]
        for size in WINDOWS:
            truth = window(picture, *size)
            alone = restored_array(model, truth, caption, settings)
            cells.append(f"{colour_shift(alone, truth):16.2f}{colour_shift(window(whole, *size), truth):14.2f}")
        print(f"{name:16}" + "".join(cells), flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__.splitlines()[0])
    add_options(made, steps=4)
    add_pictures(made)
    made.add_argument("--guidance", type=float, default=5.0)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
