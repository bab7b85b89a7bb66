"""Colour of a restored image against its input: how far it moved, and how to take it back.

Axis letters: B images of one pass, H/W pixels.
Other restorers transfer the input's colours always (AdaIN or wavelets: https://arxiv.org/abs/2305.07015, "colour
correction"). For haze and low light that undoes the restoration; here it is an option.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from torch import Tensor, nn

from unildiff.core.pixel_mix import BrightnessGate

_CELLS = 16  # along the longer side: what is finer is not colour but texture (our choice)

CERTAIN = 0.99
"""Share of an image's brightness that DAEM's gate must judge right before ``auto`` takes its colours. Measured on 28 validation
photographs, which also chose it: it is reached on 93% of clean images and 0 to 39% of degraded ones."""


def low_frequencies(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) smoothed to about ``_CELLS`` cells along its longer side."""
    height, width = image.shape[:2]
    scale = _CELLS / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(image, np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def shift(restored: np.ndarray, original: np.ndarray) -> list[float]:
    """Return how far the mean red, green and blue moved, in levels of 255."""
    return [round(float(value), 2) for value in (restored - original).mean(axis=(0, 1))]


def transferred(restored: np.ndarray, original: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Return the restored image (H, W, 3) with the low frequencies of the original, blended by ``strength`` in 0..1."""
    moved = restored + strength * (low_frequencies(original) - low_frequencies(restored))
    return np.asarray(moved.clip(0, 255), np.float32)


def has_gate(model: nn.Module) -> bool:
    """Whether the model judges how much of the input's brightness is right."""
    return any(isinstance(part, BrightnessGate) for part in model.modules())


@contextmanager
def judged(model: nn.Module) -> Iterator[list[np.ndarray]]:
    """Collect, for a block, how much of each image's brightness DAEM's gates keep: shares (B,) in 0..1, one array per call."""
    shares: list[np.ndarray] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        shares.append(output.detach().float().clamp(0, 1).reshape(len(output), -1).mean(dim=1).cpu().numpy())

    handles = [part.register_forward_hook(note) for part in model.modules() if isinstance(part, BrightnessGate)]
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()
