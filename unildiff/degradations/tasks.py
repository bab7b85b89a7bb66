"""Every degradation that clean images are trained and validated under, by name.

CDD-11's eleven; ``clear`` (none); ``noise`` and ``noise_25`` (Gaussian, sigma 15 to 50 or the one named, of 255); ``blur``
and ``blur_2`` (Gaussian, sigma 0.8 to 3 pixels or the one named); ``motion_blur``. Ranges are our choice where no source is
named; the sigmas of the noise are those between 15 and 50 that denoising papers test.

Axis letters: H/W pixels. Images are uint8 (H, W, 3), RGB.
"""

import re
from collections.abc import Sequence

import numpy as np

from unildiff.degradations.blur import DISPLAY_GAMMA, gaussian_blur, motion_blur
from unildiff.degradations.cdd11 import VERSION, CleanImage, degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.degradations.operators import Luma
from unildiff.utils.errors import UserError
from unildiff.utils.keys import generator

CLEAR = "clear"
TASKS: tuple[str, ...] = (*DEGRADATIONS, CLEAR, "noise", "blur", "motion_blur")
"""Names to train on; levels are drawn."""
EVALUATED: tuple[str, ...] = (*DEGRADATIONS, CLEAR, "noise_25", "blur_2", "motion_blur")
"""Names to validate on; the level is part of the name."""
MADE_BY = f"degradations {VERSION}.1"  # raise the second number when noise or blur change

NOISE_RANGE = (15.0, 50.0)
BLUR_RANGE = (0.8, 3.0)
LENGTH_RANGE = (6.0, 16.0)
_WITH_LEVEL = re.compile(r"(noise|blur)_(\d+(?:\.\d+)?)")


def check_tasks(setting: str, names: Sequence[str]) -> None:
    """Refuse unknown names.

    Raises:
        UserError: the message names the setting and lists what there is.
    """
    if unknown := sorted(name for name in set(names) if name not in TASKS and not _WITH_LEVEL.fullmatch(name)):
        raise UserError(
            f"{setting}: unknown {', '.join(unknown)}; choose from {', '.join(TASKS)}, or noise and blur with a level, "
            "e.g. noise_25, blur_2"
        )
    if not names:
        raise UserError(f"{setting} is empty; give at least one of {', '.join(TASKS)}")


def apply(
    image: np.ndarray, task: str, key: int, depth: np.ndarray | None = None, luma: Luma = "onerestore"
) -> np.ndarray:
    """Return an image under one degradation, a pure function of the arguments.

    Args:
        image: the clean image.
        task: a name of ``TASKS``, or ``noise`` or ``blur`` with a level.
        key: determines every random draw.
        depth: float32 (H, W) in [0, 1], near = bright, for haze; estimated where None.
        luma: weights of grey in low light.
    """
    if task == CLEAR:
        return image
    if task in DEGRADATIONS:
        return degrade(CleanImage(image, depth, luma=luma), task, key).image
    kind, level = match.groups() if (match := _WITH_LEVEL.fullmatch(task)) else (task, None)
    rng = generator(key, kind)
    if kind == "noise":
        sigma = float(level or rng.uniform(*NOISE_RANGE))
        noisy = image + rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
        return np.asarray(np.rint(noisy).clip(0, 255), np.uint8)
    if kind == "blur":
        return gaussian_blur(image, float(level or rng.uniform(*BLUR_RANGE)))
    # Straight or bent, averaged as light or as stored values: data sets differ in both.
    length, bend, gamma = (
        rng.uniform(*LENGTH_RANGE),
        float(rng.choice((0, 0.12))),
        float(rng.choice((1, DISPLAY_GAMMA))),
    )
    return motion_blur(image, length, rng, bend, gamma)
