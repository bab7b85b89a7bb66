"""What is looked at in a restored image before it is written: seams of tiles, shifts of colour, the model's uncertainty.

Axis letters: H/W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unildiff.core.model import UniLDiff
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.restoring.options import RestoreOptions
from unildiff.weights.restoring import as_levels, restore_images


@dataclass
class CheckedImage:
    """A restored image.

    Attributes:
        levels: sRGB (H, W, 3), float32 in 0..255.
        measured: what the manifest gets to know.
        warnings: one line each.
        spread: standard deviation over seeds (H, W, 3) in 0..255, None unless it was measured.
    """

    levels: np.ndarray
    measured: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    spread: np.ndarray | None = None


def check_and_correct(
    model: UniLDiff,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    names: Sequence[str],
    sampling: SamplingSettings,
    options: RestoreOptions,
) -> list[CheckedImage]:
    """Restore images (H, W, 3) of one size and return them checked.

    Raises:
        UserError: a result is not finite.
    """
    restored = restore_images(model, images, captions, sampling, options.seed)
    return [CheckedImage(as_levels(each, name)) for each, name in zip(restored, names, strict=True)]
