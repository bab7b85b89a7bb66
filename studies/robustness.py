"""What `goals` asks of a model beyond scores: repeatability, sizes, clean pictures, time.

Axis letters: H/W pixels.
"""

import time
from statistics import median

import numpy as np

from studies.runner import Pictures
from unildiff.core.model import UniLDiff
from unildiff.data.batch import image_array, image_tensor
from unildiff.data.shipped_photographs import load, photographs
from unildiff.data.tools.samples import LONGEST
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import get_protocol
from unildiff.metrics.psnr import psnr
from unildiff.weights.restoring import restore_image

WINDOWS = ((101, 75), (131, 257), (64, 64))  # (H, W); the first two no multiple of anything; all in every photograph
TIMED_ROUNDS = 3


def clean_photographs(which: Pictures) -> dict[str, tuple[np.ndarray, str]]:
    """Return (uint8 (H, W, 3), caption) by name, at the size that they are scored at."""
    role = "val" if which == "validation" else "test"
    return {photo.name: (load(photo, LONGEST)[0], photo.caption) for photo in photographs(role)}


def same_bytes(model: UniLDiff, again: UniLDiff, which: Pictures, settings: SamplingSettings) -> bool:
    """Restore one photograph by a model and by the same one loaded once more; the sampler's noise has the same seed."""
    picture, caption = next(iter(clean_photographs(which).values()))
    first, second = (restore_image(each, picture[:128, :160], caption, settings).numpy() for each in (model, again))
    return bool((first == second).all())


def mean_colour_shift(model: UniLDiff, which: Pictures, settings: SamplingSettings) -> dict[str, float]:
    """Return the largest shift of a channel's mean (0..255) that clean pictures suffer, by size.

    Odd sizes and 64 px are windows about the centre; 1,024 px is the first photograph, mirrored until it is that large.
    """
    clean = clean_photographs(which)

    def shift(picture: np.ndarray, caption: str) -> float:
        return colour_shift(restored_array(model, picture, caption, settings), picture)

    shifts = {}
    for height, width in WINDOWS:
        cut = [(window(picture, height, width), caption) for picture, caption in clean.values()]
        shifts[f"{height}x{width}"] = max(shift(*each) for each in cut)
    picture, caption = next(iter(clean.values()))
    shifts["384 px"] = max(shift(*each) for each in clean.values())
    large = np.pad(picture, ((0, 1024 - picture.shape[0]), (0, 1024 - picture.shape[1]), (0, 0)), "symmetric")
    shifts["1024x1024"] = shift(large, caption)
    return shifts


def clean_psnr(model: UniLDiff, which: Pictures, settings: SamplingSettings) -> dict[str, float]:
    """Return PSNR in dB of clean photographs after a restoration that they did not need, by name."""
    protocol = get_protocol("onerestore")
    result = {}
    for name, (picture, caption) in clean_photographs(which).items():
        restored = restore_image(model, picture, caption, settings)
        result[name] = psnr(restored[None], image_tensor(picture)[None], protocol=protocol).item()
    return result


def seconds_for_512(model: UniLDiff, settings: SamplingSettings) -> tuple[float, float]:
    """Return wall and processor seconds for one captioned 512x512 picture: medians of three, after a small warm-up."""
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    restore_image(model, picture[:128, :128], "a stone", settings)
    wall, processor = [], []
    for _ in range(TIMED_ROUNDS):
        start, began = time.perf_counter(), time.process_time()
        restore_image(model, picture, "a stone", settings)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - began)
    return median(wall), median(processor)


def window(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the window about the centre of a picture (H, W, 3), a copy.

    Raises:
        ValueError: the picture is smaller.
    """
    if height > picture.shape[0] or width > picture.shape[1]:
        raise ValueError(f"no window of {height}x{width} in a picture of {picture.shape[0]}x{picture.shape[1]}")
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def restored_array(model: UniLDiff, picture: np.ndarray, caption: str, settings: SamplingSettings) -> np.ndarray:
    """Return what the model makes of a picture (H, W, 3) uint8, the same size.

    Raises:
        RuntimeError: it is of another size.
    """
    restored = image_array(restore_image(model, picture, caption, settings))
    if restored.shape != picture.shape:
        raise RuntimeError(f"restored {picture.shape} to {restored.shape}")
    return restored


def colour_shift(restored: np.ndarray, picture: np.ndarray) -> float:
    """Return the largest difference of a channel's mean (0..255) between two pictures (H, W, 3)."""
    means = [each.reshape(-1, 3).astype(np.float64).mean(axis=0) for each in (restored, picture)]
    return float(np.abs(means[0] - means[1]).max())
