"""What captions are worth to the tiny model: each picture restored under its own, none, and another photograph's caption.

    python -m benchmarks.caption_worth --validation
    python -m benchmarks.caption_worth --model FOLDER --guidance 1 5

Where the three are alike, the model has learnt to do without captions, and an ablation of text cannot say much.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.held_out import Restored, degraded, held_out, number, score
from benchmarks.timing import one_thread
from unildiff.assembly import load_restorer
from unildiff.core.pixels import to_uint8
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    one_thread()
    torch.set_num_threads(options.threads)
    try:
        model = load_restorer(options.model)
    except UserError as error:
        print(f"caption_worth: error: {error}", file=sys.stderr)
        return 2
    which = "validation" if options.validation else "test"
    samples = held_out(which)
    others = others_captions([sample["caption"] for sample in samples])

    def restore(sample: RestorationSample) -> Restored:
        lq = degraded(sample)
        captions = {"own": sample["caption"], "none": "", "another's": others[sample["caption"]]}
        pictures = {}
        with torch.inference_mode():
            features = model.encode_lq(model.pad(lq))
            for guidance in options.guidance:
                settings = SamplingSettings(options.steps, guidance)
                for name, caption in captions.items():
                    latents = model.sample_latents(features, [caption], [sample["key"]], settings)
                    picture = to_uint8(model.decode(latents, features, lq.shape))[0]
                    pictures[f"{name}, guidance {guidance:g}"] = picture
        return pictures

    scores = score(samples[:: options.every], restore, "the model")
    print(f"{options.model}, {which} photographs, {options.steps} steps")
    for row, summary in scores.items():
        print(f"{row:26} PSNR {number(summary, 'psnr'):.2f} dB, GMSD {number(summary, 'gmsd'):.4f}")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.caption_worth", description=__doc__.splitlines()[0])
    made.add_argument("--model", default="tiny", help="tiny, an exported folder, or a decoder checkpoint")
    made.add_argument("--validation", action="store_true", help="the validation photographs in place of the test ones")
    made.add_argument("--steps", type=int, default=4)
    made.add_argument("--guidance", type=float, nargs="+", default=[1.0, 5.0])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--every", type=int, default=1, help="only every n-th picture, for a quick look")
    return made


def others_captions(captions: Sequence[str]) -> dict[str, str]:
    """Return for each caption the next different one, in the order of their first use."""
    different = list(dict.fromkeys(captions))
    return dict(zip(different, [*different[1:], different[0]], strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
