"""What captions are worth to the tiny model: each picture restored under its own, none, and another photograph's caption.

    python -m benchmarks.caption_worth
    python -m benchmarks.caption_worth --model FOLDER --guidance 1 5

Where the three are alike, the model has learnt to do without captions, and an ablation of text cannot say much. Four steps
by default: they score as 20 do (docs/tiny-model.md, "Guidance and steps").

Axis letters: none.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.held_out import Restored, add_options, add_pictures, held_out, latents_of, number, opened, score
from unildiff.core.pixels import to_uint8
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        model = opened(options)
    except UserError as error:
        print(f"caption_worth: error: {error}", file=sys.stderr)
        return 2
    samples = held_out(options.pictures)
    others = others_captions([sample["caption"] for sample in samples])

    def restore(sample: RestorationSample) -> Restored:
        def under(caption: str, guidance: float) -> torch.Tensor:
            features, latents = latents_of(model, sample, SamplingSettings(options.steps, guidance), caption)
            return to_uint8(model.decode(latents, features, sample["lq"].shape))[0]

        with torch.inference_mode():
            pictures = {"none": under("", 1.0)}  # without a caption there is nothing to guide by
            for guidance in options.guidance:
                pictures[f"own, guidance {guidance:g}"] = under(sample["caption"], guidance)
                pictures[f"another's, guidance {guidance:g}"] = under(others[sample["caption"]], guidance)
        return pictures

    scores = score(samples[:: options.every], restore, "the model")
    print(f"{options.model}, {options.pictures} photographs, {options.steps} steps")
    for row, summary in scores.items():
        print(f"{row:26} PSNR {number(summary, 'psnr'):.2f} dB, GMSD {number(summary, 'gmsd'):.4f}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.caption_worth", description=__doc__.splitlines()[0])
    add_options(made, steps=4)
    add_pictures(made)
    made.add_argument("--guidance", type=float, nargs="+", default=[1.0, 5.0])
    return made


def others_captions(captions: Sequence[str]) -> dict[str, str]:
    """Return for each caption another one: the next in the order of their first use, the first for the last."""
    different = list(dict.fromkeys(captions))
    return dict(zip(different, [*different[1:], different[0]], strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
