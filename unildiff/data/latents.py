"""Restored latents on disk, by position of the training stream: written once, by any number of processes, read at random.

Axis letters: N entries of a shard, C latent channels, h/w latent height and width, K channels of a skip, H/W its size.

A folder holds ``cache.json``, which lists what the latents were made by, and shards ``latents-00000.safetensors``, ... of
``SHARD`` positions each with ``latents`` (N, C, h, w) float32, ``skip0``, ``skip1``, ... (N, K, H, W) finest first where
skips are kept, ``key`` (N,) and ``picture`` (N,), a hash of the degraded image that the latents belong to. A shard
appears complete or not at all, so that the next run continues with what is missing. Unlike LMDB, such files may be written by
several machines at the same time on a network disk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unildiff.data.batch import RestorationBatch, RestorationSample, SampleSet, image_array
from unildiff.data.pair import Pair
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole
from unildiff.utils.fingerprints import compare_note
from unildiff.utils.keys import image_key, sample_key

SHARD = 32
"""Positions per file: at SDXL's size and 512 px 2 MB without skips, 3.7 GB with them (our choice)."""


class CachedBatch(RestorationBatch):
    """A batch with its restored latents; lists of one tensor per sample, on the device."""

    latents: list[Tensor]  # (C, h, w)
    skips: list[list[Tensor]]  # finest first, (K, H, W) each; empty where they are not kept


class LatentCache:
    """One cache.

    Args:
        folder: made by ``open``.
        samples: positions 0 ... samples - 1 of the training stream are kept; more may be added later.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder, self.samples = folder, samples

    def open(self, made_by: Mapping[str, Any], write: bool) -> None:
        """Compare what the folder holds with what is needed, see ``compare_note``.

        Raises:
            UserError: it holds latents of another model, other settings or other data; or other files.
        """
        compare_note(self.folder, made_by, "latents", "--model.cache.folder", write)

    def positions(self, shard: int) -> range:
        """Return the positions of a shard."""
        return range(shard * SHARD, min((shard + 1) * SHARD, self.samples))

    def missing(self) -> list[int]:
        """Return the shards that are not there, or hold less than is wanted by now."""
        count = -(-self.samples // SHARD)
        return [shard for shard in range(count) if self._stored(shard) < len(self.positions(shard))]

    def write(self, shard: int, entries: Mapping[str, Tensor]) -> None:
        """Write a shard: tensors (N, ...) by name.

        Raises:
            UserError: the disk is full, or the like; nothing is left behind.
        """
        write_whole(self._path(shard), save({name: value.contiguous() for name, value in entries.items()}))

    def read(self, position: int) -> dict[str, Tensor]:
        """Return what is kept of one position, without N.

        Raises:
            UserError: the file is missing, broken or too short.
        """
        shard, index = divmod(position, SHARD)
        try:
            with safe_open(self._path(shard), "pt") as file:
                return {name: file.get_slice(name)[index] for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError, IndexError) as error:
            raise UserError(
                f"latents: {self._path(shard)} cannot be read ({error}); delete it, the next run makes it again"
            ) from None

    def _path(self, shard: int) -> Path:
        return self.folder / f"latents-{shard:05d}.safetensors"

    def _stored(self, shard: int) -> int:
        """Return the entries of a shard's file, 0 where there is none that can be read."""
        try:
            with safe_open(self._path(shard), "pt") as file:
                return int(file.get_slice("key").get_shape()[0])
        except (OSError, SafetensorError):
            return 0


class CachedTrainSet:
    """The first samples of a training stream with their latents, over and over, each time in another order."""

    def __init__(self, train: SampleSet, cache: LatentCache) -> None:
        """Args: the stream that the cache was made over, and the cache."""
        self._train, self._cache = train, cache
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def pairs(self) -> Sequence[Pair]:
        """Those of the stream."""
        return self._train.pairs

    def __len__(self) -> int:
        return self._cache.samples

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position, with ``latents`` and ``skips`` beside what every sample has.

        Raises:
            UserError: latents are missing or belong to another image.
        """
        turn, place = divmod(position, self._cache.samples)
        if self._order[0] != turn:
            shuffled = np.random.default_rng(sample_key("latents", turn)).permutation(self._cache.samples)
            self._order = (turn, shuffled)
        item = int(self._order[1][place])
        sample, stored = self._train[item], self._cache.read(item)
        if int(stored.pop("key")) != sample["key"] or int(stored.pop("picture")) != picture_hash(sample["lq"]):
            raise UserError(
                f"latents: {self._cache.folder} holds those of another image at position {item} than "
                f"{sample['name']}: the data has changed; give another --model.cache.folder"
            )
        latents = stored.pop("latents")
        skips = [stored[name] for name in sorted(stored)]
        return {**sample, "latents": latents, "skips": skips}  # type: ignore[typeddict-item, typeddict-unknown-key]


def picture_hash(image: Tensor) -> int:
    """Return a 63-bit hash of a uint8 image (3, H, W)."""
    return image_key(0, image_array(image))


def entries_of(batch: RestorationBatch, latents: Tensor, skips: list[Tensor]) -> dict[str, Tensor]:
    """Return what a shard keeps of a batch, on the CPU; latents (B, C, h, w), skips (B, K, H, W) each as in :class:`CachedBatch`."""
    images = torch.tensor([picture_hash(image) for image in batch["lq"].cpu()])
    kept = {"latents": latents.float(), "key": batch["key"], "picture": images}
    kept |= {f"skip{level}": skip for level, skip in enumerate(skips)}
    return {name: value.detach().cpu() for name, value in kept.items()}


def of_batch(batch: CachedBatch) -> tuple[Tensor, list[Tensor]]:
    """Return latents (B, C, h, w) and skips (B, K, H, W) each, finest first, of a batch that brought them along."""
    return torch.stack(batch["latents"]), [torch.stack(level) for level in zip(*batch["skips"], strict=True)]
