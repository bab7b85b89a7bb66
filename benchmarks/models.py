"""What several groups measure with: the shipped tiny model, a photograph, a smaller stand-in for trials."""

import cv2
import numpy as np
import torch
from torch import Tensor

from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_unit
from unildiff.data.batch import image_tensor
from unildiff.data.shipped_photographs import load, photographs
from unildiff.utils.paths import weights_path
from unildiff.weights.folder import load_model

CAPTION = photographs("test")[0].caption


def tiny_model() -> UniLDiff:
    """The shipped model, in evaluation mode and without gradients."""
    return load_model(weights_path("tiny")).eval().requires_grad_(False)


def photograph(height: int, width: int | None = None) -> np.ndarray:
    """A photograph (H, W, 3) uint8 of any size, resized where it must be."""
    image, _ = load(photographs("test")[0], 512)
    return cv2.resize(image, (width or height, height), interpolation=cv2.INTER_AREA)


def lq_image(side: int) -> Tensor:
    """The photograph with noise of 25, as the model takes it: (1, 3, H, W) in [-1, 1]."""
    noisy = photograph(side) + np.random.default_rng(0).normal(0, 25, (side, side, 3))
    return to_unit(image_tensor(noisy.clip(0, 255).astype(np.uint8))[None])


def released(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
