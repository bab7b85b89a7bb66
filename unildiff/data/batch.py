"""The fields of a sample and of a batch, and how samples become a batch.

Axis letters: B batch, C channels (3, RGB), H W pixels.
"""

from collections.abc import Sequence
from typing import NotRequired, Protocol, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from unildiff.data.pair import Pair
from unildiff.utils.keys import sample_key


class RestorationSample(TypedDict):
    """One image pair; ``lq`` and ``gt`` are uint8 (C, H, W) in 0..255."""

    lq: Tensor
    gt: Tensor
    caption: str  # what the image shows, "" when unknown; never names a degradation
    degradation: str  # e.g. "low_haze", "rain", "noise_25"
    name: str  # file stem, unique within its degradation
    key: int  # see unildiff.utils.keys: every random draw of the sample comes from it
    original_size: NotRequired[tuple[int, int]]  # height and width before cropping; absent: the sample is not a crop
    crop: NotRequired[tuple[int, int]]  # top and left pixel of the crop in the (flipped, turned) original


class RestorationBatch(TypedDict):
    """A collated list of :class:`RestorationSample`; ``lq`` and ``gt`` are uint8 (B, C, H, W) in 0..255."""

    lq: Tensor
    gt: Tensor
    caption: list[str]
    degradation: list[str]
    name: list[str]
    key: Tensor  # int64 (B,)
    original_size: NotRequired[Tensor]  # int64 (B, 2)
    crop: NotRequired[Tensor]  # int64 (B, 2)


class PredictSample(TypedDict):
    """One image to restore, without ground truth; ``lq`` is uint8 (C, H, W) in 0..255."""

    lq: Tensor
    caption: str
    name: str  # path below the folder that was given, suffix included
    key: int


class PredictBatch(TypedDict):
    """A collated list of :class:`PredictSample`; ``lq`` is uint8 (B, C, H, W) in 0..255."""

    lq: Tensor
    caption: list[str]
    name: list[str]
    key: Tensor  # int64 (B,)


class SampleSet(Protocol):
    """What a data loader of this project reads: a map from an integer to a sample."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """What its samples are made of, as far as that lies in files."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> RestorationSample | PredictSample: ...


def image_tensor(image: np.ndarray) -> Tensor:
    """Return uint8 (H, W, C) as a uint8 (C, H, W) tensor that shares its memory when that is possible."""
    array = np.ascontiguousarray(image)
    if not array.flags.writeable:  # a memory map: torch warns of tensors over read-only memory
        array = array.copy()
    return torch.from_numpy(array).permute(2, 0, 1)


def make_sample(
    lq: np.ndarray,
    gt: np.ndarray,
    caption: str,
    degradation: str,
    name: str,
    key: int,
    place: tuple[tuple[int, int], tuple[int, int]] | None,
) -> RestorationSample:
    """Return the sample of two uint8 (H, W, C) images; ``place``: size of the original and corner of the crop in it."""
    sample = RestorationSample(
        lq=image_tensor(lq), gt=image_tensor(gt), caption=caption, degradation=degradation, name=name, key=key
    )
    if place is not None:
        sample["original_size"], sample["crop"] = place
    return sample


def image_array(image: Tensor) -> np.ndarray:
    """Return a uint8 (C, H, W) tensor as a contiguous uint8 (H, W, C) array."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def _stack(images: Sequence[Tensor]) -> Tensor:
    # Stacked as H W C, as they lie in memory: a copy without transposing, nine times faster than through floats.
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"images of one batch must have one size, got {sorted(shapes)}; use a batch size of 1")
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def collate(samples: Sequence[RestorationSample | PredictSample]) -> RestorationBatch | PredictBatch:
    """Return the batch of ``samples``: images stacked, text as lists, keys as int64 (B,).

    Raises:
        ValueError: the images differ in size.
    """
    batch: dict[str, object] = {}
    for field in samples[0]:
        values = [cast(dict[str, object], sample)[field] for sample in samples]
        if field in ("lq", "gt"):
            batch[field] = _stack(cast(list[Tensor], values))
        elif field in ("key", "original_size", "crop"):
            batch[field] = torch.tensor(values, dtype=torch.int64)
        else:
            batch[field] = values
    return cast(RestorationBatch, batch)


def cut_batch(batch: RestorationBatch, parts: int) -> RestorationBatch:
    """Return each image (C, H, W) as its ``parts`` x ``parts`` pieces (C, H / parts, W / parts), row by row; uint8 as they are.

    A piece has the image's caption, its own place in the original, and a key derived from the image's and its number.
    Other fields are dropped.

    Raises:
        ValueError: the sides cannot be cut evenly.
    """
    images = {}
    for field in ("lq", "gt"):
        images_in = cast(dict[str, Tensor], batch)[field]
        count, channels, height, width = images_in.shape
        if height % parts or width % parts:
            raise ValueError(f"images of {height}x{width} cannot be cut into {parts}x{parts} pieces")
        pieces = images_in.reshape(count, channels, parts, height // parts, parts, width // parts)
        images[field] = pieces.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    numbers = range(parts**2)
    place: dict[str, Tensor] = {}
    if "crop" in batch and "original_size" in batch:
        height, width = (side // parts for side in batch["lq"].shape[2:])
        corners = torch.tensor([(row * height, column * width) for row in range(parts) for column in range(parts)])
        place["crop"] = (batch["crop"][:, None] + corners.to(batch["crop"].device)).flatten(0, 1)
        place["original_size"] = batch["original_size"].repeat_interleave(parts**2, dim=0)
    cut = {
        "lq": images["lq"],
        "gt": images["gt"],
        "caption": [caption for caption in batch["caption"] for _ in numbers],
        "degradation": [degradation for degradation in batch["degradation"] for _ in numbers],
        "name": [f"{name}_{number}" for name in batch["name"] for number in numbers],
        "key": torch.tensor([sample_key(int(key), "piece", number) for key in batch["key"] for number in numbers]),
    }
    return cast(RestorationBatch, cut | place)
