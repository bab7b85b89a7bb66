"""Measurements of `goals` beyond scores: repeatability, sizes, clean images, time.

Axis letters: H/W pixels.
"""

import time
from statistics import median

import numpy as np

from studies.runner import Images
from unildiff.core.model import UniLDiff
from unildiff.data.batch import image_array, image_tensor
from unildiff.data.shipped_photographs import load, photographs
from unildiff.data.tools.samples import LONGEST
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import get_protocol
from unildiff.metrics.psnr import psnr
from unildiff.weights.restoring import restore_image

WINDOWS = ((101, 75), (131, 257), (64, 64))  # (H, W); the first two are odd; all fit into every photograph
TIMED_ROUNDS = 3


def clean_photographs(which: Images) -> dict[str, tuple[np.ndarray, str]]:
    """Return (uint8 (H, W, 3), caption) by name, at the size at which they are scored."""
    role = "val" if which == "validation" else "test"
    return {photo.name: (load(photo, LONGEST)[0], photo.caption) for photo in photographs(role)}


def same_bytes(model: UniLDiff, again: UniLDiff, which: Images, settings: SamplingSettings) -> bool:
    """Restore one photograph by a model and by the same one loaded once more; the sampler's noise has the same seed."""
    image, caption = next(iter(clean_photographs(which).values()))
    first, second = (restore_image(each, image[:128, :160], caption, settings).numpy() for each in (model, again))
    return bool((first == second).all())


def mean_colour_shift(model: UniLDiff, which: Images, settings: SamplingSettings) -> dict[str, float]:
    """Return the largest shift of a channel's mean (0..255) of clean images, by size.

    Odd sizes and 64 px are windows about the centre; 1,024 px is the first photograph, mirrored until it is that large.
    """
    clean = clean_photographs(which)

    def shift(image: np.ndarray, caption: str) -> float:
        return colour_shift(restored_array(model, image, caption, settings), image)

    shifts = {}
    for height, width in WINDOWS:
        cut = [(window(image, height, width), caption) for image, caption in clean.values()]
        shifts[f"{height}x{width}"] = max(shift(*each) for each in cut)
    image, caption = next(iter(clean.values()))
    shifts["384 px"] = max(shift(*each) for each in clean.values())
    large = np.pad(image, ((0, 1024 - image.shape[0]), (0, 1024 - image.shape[1]), (0, 0)), "symmetric")
    shifts["1024x1024"] = shift(large, caption)
    return shifts


def clean_psnr(model: UniLDiff, which: Images, settings: SamplingSettings) -> dict[str, float]:
    """Return PSNR in dB of clean photographs after an unnecessary restoration, by name."""
    protocol = get_protocol("onerestore")
    result = {}
    for name, (image, caption) in clean_photographs(which).items():
        restored = restore_image(model, image, caption, settings)
        result[name] = psnr(restored[None], image_tensor(image)[None], protocol=protocol).item()
    return result


def seconds_for_512(model: UniLDiff, settings: SamplingSettings) -> tuple[float, float]:
    """Return wall and processor seconds for one captioned 512x512 image: medians of three, after a small warm-up."""
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    restore_image(model, image[:128, :128], "a stone", settings)
    wall, processor = [], []
    for _ in range(TIMED_ROUNDS):
        start, began = time.perf_counter(), time.process_time()
        restore_image(model, image, "a stone", settings)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - began)
    return median(wall), median(processor)


def window(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the window about the centre of an image (H, W, 3), a copy.

    Raises:
        ValueError: the image is smaller.
    """
    if height > image.shape[0] or width > image.shape[1]:
        raise ValueError(f"no window of {height}x{width} in an image of {image.shape[0]}x{image.shape[1]}")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def restored_array(model: UniLDiff, image: np.ndarray, caption: str, settings: SamplingSettings) -> np.ndarray:
    """Return the model's restoration of an image (H, W, 3) uint8, the same size.

    Raises:
        RuntimeError: it is of another size.
    """
    restored = image_array(restore_image(model, image, caption, settings))
    if restored.shape != image.shape:
        raise RuntimeError(f"restored {image.shape} to {restored.shape}")
    return restored


def colour_shift(restored: np.ndarray, image: np.ndarray) -> float:
    """Return the largest difference of a channel's mean (0..255) between two images (H, W, 3)."""
    means = [each.reshape(-1, 3).astype(np.float64).mean(axis=0) for each in (restored, image)]
    return float(np.abs(means[0] - means[1]).max())
