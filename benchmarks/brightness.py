"""How much of the tiny model's error is brightness and colour, which DAEM does not decide, and what DAEM is worth beside it.

    python -m benchmarks.brightness --validation
    python -m benchmarks.brightness            # the test photographs: to explain scores, not to choose

A picture's mean over ``REACH`` pixels is moved to the truth's, once by one number a colour (``exposure``) and once
everywhere (``brightness``). What is left of the error is structure. An oracle: no restorer could do this.

Axis letters: H/W pixels.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.held_out import Restored, held_out, number, score
from benchmarks.held_out import degraded as degraded_input
from benchmarks.timing import one_thread
from unildiff.assembly import load_restorer
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.errors import UserError
from unildiff.evaluation.rows import Summary

REACH = 41  # pixels, odd; about the means that PixelMix moves (5 cells of 8)
KINDS = ("", "+exposure", "+brightness")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    one_thread()
    torch.set_num_threads(options.threads)
    try:
        model = load_restorer(options.model)
    except UserError as error:
        print(f"brightness: error: {error}", file=sys.stderr)
        return 2
    settings = SamplingSettings(options.steps, options.guidance)

    def restore(sample: RestorationSample) -> Restored:
        lq = degraded_input(sample)
        with torch.inference_mode():
            features = model.encode_lq(model.pad(lq))
            latents = model.sample_latents(features, [sample["caption"]], [sample["key"]], settings)
            pictures = {
                "plain decoder": model.decode(latents, features, lq.shape, detail=False),
                "DAEM": model.decode(latents, features, lq.shape),
            }
        return {
            row + kind: picture
            for row, image in pictures.items()
            for kind, picture in zip(KINDS, oracles(image[0], sample["gt"]), strict=True)
        }

    which = "validation" if options.validation else "test"
    scores = score(held_out(which)[:: options.every], restore, "the model")
    print(
        f"{options.model} on the {which} photographs, {options.steps} steps, guidance {options.guidance:g}; PSNR (dB)\n"
    )
    print(report(scores))
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.brightness", description=__doc__.splitlines()[0])
    made.add_argument("--model", default="tiny", help="tiny, an exported folder, or a decoder checkpoint")
    made.add_argument("--validation", action="store_true", help="the validation photographs in place of the test ones")
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--guidance", type=float, default=5.0)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--every", type=int, default=1, help="only every n-th picture, for a quick look")
    return made


def oracles(image: Tensor, truth: Tensor) -> list[Tensor]:
    """Return a picture (3, H, W) in [-1, 1] as uint8: as it is, with the truth's mean colour, with its local means.

    ``truth`` is (3, H, W) uint8.
    """
    image, wanted = (image.clamp(-1, 1) + 1) * 127.5, truth.to(image.dtype)
    error = wanted - image
    moved = [image, image + error.mean(dim=(1, 2), keepdim=True), image + local_means(error)]
    return [each.round().clamp(0, 255).to(torch.uint8) for each in moved]


def local_means(picture: Tensor) -> Tensor:
    """Return means over ``REACH`` x ``REACH`` pixels about each pixel of (3, H, W); beyond the edges nothing counts."""
    return F.avg_pool2d(picture[None], REACH, stride=1, padding=REACH // 2, count_include_pad=False)[0]


def report(scores: dict[str, Summary]) -> str:
    """Return a table: rows as scored, and what DAEM adds of each kind."""
    degradations = list(scores["input"])
    lines = [f"{'':26}" + "".join(f"{name[:13]:>14}" for name in degradations)]
    values = {row: [number(summary, "psnr", name) for name in degradations] for row, summary in scores.items()}
    for kind in KINDS:
        pairs = zip(values["DAEM" + kind], values["plain decoder" + kind], strict=True)
        values[f"worth of DAEM{kind}"] = [ours - plain for ours, plain in pairs]
    for row, cells in values.items():
        lines.append(f"{row:26}" + "".join(f"{cell:14.2f}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
