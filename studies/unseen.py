"""What the model makes of degradations that it was not trained on, and what its judgement of clean images costs there.

    python -m studies.unseen --model tiny --photographs data/photographs/validation

Each photograph is degraded once in every way; strengths are drawn from its number. Printed are mean PSNRs of the input, of the restored
image if none is judged clean, and of what the model returns, and how many images it returns as they are. Source: our choice.

Axis letters: H/W pixels. Images are uint8 (H, W, 3).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import cv2
import numpy as np
import torch

from datamodules.photographs import PhotographsDataModule
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
Draw = np.random.Generator
Degrade = Callable[[np.ndarray, Draw], np.ndarray]


def dark(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * draw.uniform(0.12, 0.75)


def gamma(image: np.ndarray, draw: Draw) -> np.ndarray:
    return 255 * (image / 255) ** draw.uniform(1.4, 3.5)


def bright(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * draw.uniform(1.2, 2.0)


def veil(image: np.ndarray, draw: Draw) -> np.ndarray:
    share, light = draw.uniform(0.3, 0.85), 255 * draw.uniform(0.6, 1.0) * (1 + draw.normal(0, 0.04, 3))
    return image * share + light * (1 - share)


def contrast(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image.mean() + (image - image.mean()) * draw.uniform(0.35, 0.8)


def cast_colour(image: np.ndarray, draw: Draw) -> np.ndarray:
    return image * np.exp(draw.normal(0, 0.2, 3))


def noise(image: np.ndarray, draw: Draw, low: float = 3, high: float = 60) -> np.ndarray:
    return image + draw.normal(0, np.exp(draw.uniform(np.log(low), np.log(high))), image.shape)


def shot_noise(image: np.ndarray, draw: Draw) -> np.ndarray:
    gain = np.exp(draw.uniform(np.log(0.2), np.log(6)))
    return draw.poisson(image / gain) * gain


def salt_and_pepper(image: np.ndarray, draw: Draw) -> np.ndarray:
    share, place = draw.uniform(0.005, 0.1), draw.random((*image.shape[:2], 1))
    return np.where(place < share / 2, 0, np.where(place > 1 - share / 2, 255, image))


def jpeg(image: np.ndarray, draw: Draw) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(5, 60))])[1], 1)


def low_resolution(image: np.ndarray, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    scale = draw.uniform(1.5, 4)
    small = cv2.resize(image, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def streaks(image: np.ndarray, draw: Draw) -> np.ndarray:
    """Drops that an exposure draws out, as light over the image."""
    drops = np.where(draw.random(image.shape[:2]) < draw.uniform(0.002, 0.02), draw.uniform(0.5, 1), 0)
    length = 3 + int(draw.uniform(0.04, 0.2) * max(image.shape))
    kernel = np.zeros((length, length), np.float32)
    reach = length // 2 * np.array([np.sin(angle := draw.uniform(-0.6, 0.6)), np.cos(angle)])
    first, last = (tuple(int(each) for each in np.rint(length // 2 + sign * reach)) for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0, 1 if draw.random() < 0.6 else 2)
    light = cv2.filter2D(drops.astype(np.float32), -1, kernel / kernel.sum() * length * draw.uniform(0.25, 0.8))
    light = cv2.GaussianBlur(light, (0, 0), draw.uniform(0.4, 0.9)).clip(0, 1)[..., None]
    return image * (1 - light) + light * draw.uniform(170, 255)


def flakes(image: np.ndarray, draw: Draw) -> np.ndarray:
    """Bright discs of many sizes."""
    light = np.zeros(image.shape[:2], np.float32)
    for _ in range(int(light.size * draw.uniform(0.0005, 0.004))):
        place = int(draw.integers(light.shape[1])), int(draw.integers(light.shape[0]))
        cv2.circle(light, place, int(max(1, draw.exponential(max(light.shape) / 150))), draw.uniform(0.5, 1), -1)
    light = cv2.GaussianBlur(light, (0, 0), draw.uniform(0.5, 1.5))[..., None]
    return image * (1 - light) + light * 245


SINGLE: tuple[Degrade, ...] = (
    dark, gamma, bright, veil, contrast, cast_colour, noise, shot_noise, salt_and_pepper, jpeg, low_resolution, streaks, flakes,
)  # fmt: skip
slight_noise: Degrade = partial(noise, low=1.5, high=12)
DEGRADATIONS: dict[str, tuple[Degrade, ...]] = {each.__name__: (each,) for each in SINGLE} | {  # type: ignore[attr-defined]
    "dark with noise": (dark, slight_noise),
    "dark jpeg": (dark, jpeg),
    "gamma with noise": (gamma, slight_noise),
    "streaks in a veil": (streaks, veil),
    "dark streaks": (streaks, dark),
}


def degrade(image: np.ndarray, name: str, number: int) -> np.ndarray:
    """Return an image (H, W, 3) under a degradation whose strength is a function of a number."""
    draw = np.random.default_rng((number, list(DEGRADATIONS).index(name)))
    for step in DEGRADATIONS[name]:
        image = np.rint(step(image, draw)).clip(0, 255).astype(np.uint8)
    return image


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
