"""How well the model restores degradations that it was not trained on, and what its judgement of clean images costs there.

    python -m studies.unseen --model tiny --photographs data/photographs/validation

Each photograph is degraded once in every way; strengths are drawn from its number. Printed are mean PSNRs of the input, of the restored
image if none is judged clean, and of what the model returns, and how many images it returns as they are. Source: our choice.

Axis letters: H/W pixels. Images are uint8 (H, W, 3).
"""

import argparse
import sys
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from datamodules.photographs import PhotographsDataModule
from studies.other_degradations import DEGRADATIONS, degrade
from studies.runner import add_options, opened
from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample, image_tensor
from unildiff.degradations.tasks import CLEAR
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.results.statistics import compare_paired
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import progress

EXACT = 60.0  # dB, for equal images


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m studies.unseen", description=(__doc__ or "").splitlines()[0])
    add_options(made, steps=4)
    made.add_argument("--photographs", default="data/photographs/validation", help="folder of clean photographs")
    options = made.parse_args(arguments)
    try:
        clean = PhotographsDataModule(val_root=options.photographs, val_degradations=[CLEAR], num_workers=0).test_set()
        model, settings = opened(options), SamplingSettings(options.steps, 5.0)
        samples = [cast(RestorationSample, clean[index]) for index in range(0, len(clean.pairs), options.every)]
        rows: dict[str, list[list[float]]] = {name: [] for name in DEGRADATIONS}
        for number, sample in enumerate(progress(samples, len(samples), "Restoring")):
            for name, found in rows.items():
                found.append(measure(model, sample, name, number, settings))
    except UserError as error:
        print(f"unseen: error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


@torch.no_grad()
def measure(
    model: UniLDiff, sample: RestorationSample, name: str, number: int, settings: SamplingSettings
) -> list[float]:
    """Return the PSNRs of input, restored and returned image in dB, and 1 if the input is returned as it is."""
    gt = sample["gt"][None]
    lq = image_tensor(degrade(sample["gt"].permute(1, 2, 0).numpy(), name, number))[None]
    tone, model.decoder.tone = model.decoder.tone, None
    image = model.restore(to_unit(lq), [""], [number], settings)
    model.decoder.tone = tone
    returned = restored = image
    if tone is not None:
        returned, judgement = tone(image, to_unit(lq)), tone.clean.output.bias.clone()
        tone.clean.output.bias.fill_(-torch.inf)
        restored = tone(image, to_unit(lq))
        tone.clean.output.bias.copy_(judgement)
    made = [lq, to_uint8(restored.clamp(-1, 1)), to_uint8(returned.clamp(-1, 1))]
    scores = [min(EXACT, psnr(each, gt, PROTOCOLS["onerestore"]).item()) for each in made]
    return [*scores, float(torch.equal(made[2], lq))]


def table(rows: dict[str, list[list[float]]]) -> str:
    """Return means by degradation and over all, and the interval of what the judgement costs."""
    lines = [f"{'':20}{'input':>8}{'restored':>10}{'returned':>10}{'as it is':>10}"]
    for name, found in (rows | {"all": [image for images in rows.values() for image in images]}).items():
        means = np.mean(found, axis=0)
        lines.append(f"{name:20}{means[0]:8.2f}{means[1]:10.2f}{means[2]:10.2f}{np.sum(found, axis=0)[3]:10.0f}")
    scores = np.array(list(rows.values()))
    scenes = [str(number) for _ in rows for number in range(scores.shape[1])]
    cost = compare_paired(scores[..., 1].ravel().tolist(), scores[..., 2].ravel().tolist(), scenes)
    return "\n".join(
        [*lines, f"returned - restored: {cost.difference:+.3f} dB, 95% {cost.low:+.3f} to {cost.high:+.3f}"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
