"""What callers give a diffusers pipeline and get from it, as what the restorer takes and returns.

Axis letters: N images, H/W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from unildiff.core.text import TextEmbedding
from unildiff.data.images import load_image
from unildiff.data.images.colour import to_srgb
from unildiff.data.images.decode import stored_pillow
from unildiff.data.images.stored import upright
from unildiff.utils.keys import sample_key

CALLBACK_TENSORS = ("latents",)
"""What ``callback_on_step_end_tensor_inputs`` may name."""
ImageLike = str | Path | Image.Image | np.ndarray | Tensor


@dataclass
class UniLDiffPipelineOutput(BaseOutput):  # type: ignore[misc]  # diffusers has no types
    """Restored images, in the order given: a list of PIL images, or one array or tensor (a list if sizes differ)."""

    images: Any


def image_list(given: ImageLike | Sequence[ImageLike]) -> list[np.ndarray]:
    """Return images as sRGB (H, W, 3), uint8 or uint16; batches (N, H, W, 3) and (N, 3, H, W) are taken apart.

    Raises:
        ValueError: a type, shape or range that is not an image's.
        UserError: a file cannot be read.
    """
    if isinstance(given, (str, Path, Image.Image)):
        return [as_array(given)]
    if isinstance(given, (np.ndarray, Tensor)):
        return [as_array(each) for each in given] if given.ndim == 4 else [as_array(given)]
    return [each for item in given for each in image_list(item)]


def as_array(image: ImageLike) -> np.ndarray:
    """Return one image as sRGB (H, W, 3), uint8 or uint16.

    Raises:
        ValueError: see :func:`image_list`.
        UserError: a file cannot be read.
    """
    if isinstance(image, (str, Path)):
        return load_image(Path(image)).rgb
    if isinstance(image, Image.Image):
        return _pillow(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"a tensor image must be floating (3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}"
            )
        return _from_float(image.detach().float().cpu().permute(1, 2, 0).numpy())
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an array image must be (H, W, 3), got {image.dtype} {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        return _from_float(image.astype(np.float32))
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array image must be uint8, uint16, or floating in [0, 1], got {image.dtype}")
    return image


def _pillow(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        return np.repeat(_from_float(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"an image of mode I must hold 0 to 65535, got {values.min()} to {values.max()}")
        return np.repeat(values.astype(np.uint16)[:, :, None], 3, axis=2)
    stored = stored_pillow(Path("image"), image)
    return upright(to_srgb(stored)[0], stored.orientation)


def _from_float(image: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] as uint8 where they are multiples of 1/255, else as uint16."""
    if not np.isfinite(image).all():
        raise ValueError("an image must be finite, got NaN or infinity")
    low, high = float(image.min()), float(image.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"a floating-point image must lie in [0, 1], got {low:g} to {high:g}")
    levels = image * 255
    if np.abs(levels - np.rint(levels)).max() < 1e-3:
        return np.asarray(np.rint(levels).clip(0, 255), np.uint8)
    return np.asarray(np.rint(image * 65535).clip(0, 65535), np.uint16)


def one_each(value: Any, count: int, name: str) -> list[Any]:
    """Return ``count`` values: one for all, or as many as there are.

    Raises:
        ValueError: there are neither one nor ``count``.
    """
    if value is None or isinstance(value, (str, torch.Generator)):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{len(values)} values of {name} for {count} images; give one, or one each")
    return values


def seed_of(generator: torch.Generator | None) -> int:
    """Return the seed of the noise, and advance the generator.

    A fresh generator gives its own seed, so that ``manual_seed(7)`` means ``unildiff restore --seed 7``; one that was used
    before gives another seed each time. None is seed 0.
    """
    if generator is None:
        return 0
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    unused = torch.equal(generator.get_state(), fresh.get_state())
    drawn = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    return generator.initial_seed() if unused else drawn


def copy_seed(seed: int, number: int) -> int:
    """Return the seed of a further result of the same image (number from 0, which keeps the seed)."""
    return seed if number == 0 else sample_key(seed, "copy", number) % 2**31


def as_output(results: list[Any], output_type: str) -> Any:
    """Return results (levels (H, W, 3) in 0..255, or latents) in the requested form."""
    same = len({result.shape for result in results}) == 1
    if output_type == "latent":
        return torch.stack(results) if same else results
    if output_type == "pil":
        return [Image.fromarray(np.rint(result).clip(0, 255).astype(np.uint8)) for result in results]
    arrays = [result / np.float32(255) for result in results]
    if output_type == "np":
        return np.stack(arrays) if same else arrays
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    return torch.stack(tensors) if same else tensors


def check_call(
    output_type: str, tensors: Sequence[str], num_images_per_prompt: int, prompt: Any, prompt_embeds: Tensor | None
) -> None:
    """Refuse arguments of a call that contradict each other or are not implemented; see ``UniLDiffPipeline.__call__``.

    Raises:
        ValueError: one line names the argument.
    """
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type is {output_type!r}; it must be pil, np, pt or latent")
    if others := set(tensors) - set(CALLBACK_TENSORS):
        raise ValueError(f"callback_on_step_end_tensor_inputs: no {', '.join(sorted(others))}; there are the latents")
    if num_images_per_prompt < 1:
        raise ValueError(f"num_images_per_prompt is {num_images_per_prompt}; it must be at least 1")
    if prompt_embeds is not None and prompt not in ("", None):
        raise ValueError("prompt and prompt_embeds are both given; give one of them")


def seeds_of(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """Return one seed per image."""
    if generator is None or isinstance(generator, torch.Generator):
        return [seed_of(generator)] * count
    return [seed_of(each) for each in one_each(generator, count, "generator")]


def embedding_at(pair: tuple[Tensor | None, Tensor | None], index: int) -> TextEmbedding | None:
    """Return the embedding of one image, of those of all or of one for all."""
    tokens, pooled = pair
    if tokens is None:
        return None
    row = slice(index, index + 1) if len(tokens) > 1 else slice(0, 1)
    return TextEmbedding(tokens[row], None if pooled is None else pooled[row])
