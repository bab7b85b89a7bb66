"""The decoder stage's cache: what its latents depend on, and how the processes of a run make them.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from unildiff.callbacks.text_cache import text_fingerprint
from unildiff.core.daem import DetailConfig
from unildiff.data.batch import SampleSet, collate
from unildiff.data.datamodule import OneLineLoader, RestorationDataModule
from unildiff.data.latents import CachedTrainSet, LatentCache, entries_of, picture_hash
from unildiff.diffusion.noise import KeyedNoise
from unildiff.stages.base import batch_pictures, crop_place
from unildiff.utils.errors import UserError
from unildiff.utils.fingerprints import short_hash, weights_hash
from unildiff.utils.parallel import progress

if TYPE_CHECKING:
    from unildiff.stages.decoder import DecoderFinetuneModule

_LOOKED_AT = 4
"""Samples of the data that go into the fingerprint; each later one is compared when it is read."""


@dataclass
class LatentCacheConfig:
    """Restored latents made once before training and kept on disk.

    Args:
        folder: of the cache, on a disk that all machines of the run see; a run that finds it goes on with it.
        samples: training samples that are made. With n pictures, 3 n samples are three crops of each, every one with its
            own noise; training goes over them again and again.
        skips: keep the LQ encoder's skips as well. That spares a pass of the encoder a step, and takes 117 MB a sample
            at SDXL's size and 512 px in bfloat16.
    """

    folder: str = "cache/latents"
    samples: int = 20000
    skips: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"cache: samples is {self.samples}; it must be at least 1")


def open_cache(stage: "DecoderFinetuneModule") -> LatentCache:
    """Return the stage's cache after a look at what it holds, before anything takes long.

    Raises:
        UserError: it is of another model, other settings or other data.
    """
    cache = LatentCache(Path(stage.cache.folder), stage.cache.samples)
    cache.open(made_by(stage, _datamodule(stage.trainer).training_samples()), write=stage.trainer.is_global_zero)
    return cache


def fill_cache(stage: "DecoderFinetuneModule", cache: LatentCache) -> None:
    """Make what is missing, each process its share, and let training read from the cache from now on.

    Raises:
        UserError: the disk is full, this machine does not see what another one has made, or the model is split.
    """
    trainer = stage.trainer
    datamodule = _datamodule(trainer)
    train = datamodule.training_samples()
    missing = cache.missing()
    if missing and stage.device_mesh is not None:  # ranks make unlike many, and each pass gathers weights on all
        raise UserError(
            f"latents: {len(missing)} files of {cache.folder} are to be made, which a split model cannot "
            "(ModelParallelStrategy, FSDP2); make them first with --trainer.strategy ddp --trainer.max_steps 1"
        )
    trainer.strategy.barrier("latents: listed")  # all processes have the same list before the first writes
    made = _restored(stage, train, cache, missing[trainer.global_rank :: trainer.world_size], datamodule)
    for shard, entries in made:
        cache.write(shard, entries)
    trainer.strategy.barrier("latents: made")
    if absent := cache.missing():
        raise UserError(
            f"latents: {len(absent)} files of {cache.folder} are not there though all processes are done; give a "
            "--model.cache.folder on a disk that all machines see"
        )
    datamodule.replace_training_samples(CachedTrainSet(train, cache))


def _restored(
    stage: "DecoderFinetuneModule",
    train: SampleSet,
    cache: LatentCache,
    shards: list[int],
    datamodule: RestorationDataModule,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield shards with their entries."""
    size = datamodule.batch_size
    chunks = [
        (shard, whole[first : first + size])
        for shard in shards
        for whole in [cache.positions(shard)]
        for first in range(0, len(whole), size)
    ]
    loader = OneLineLoader(
        train,  # type: ignore[arg-type]  # a protocol, where torch asks for its own base class
        batch_sampler=[list(chunk) for _, chunk in chunks],
        num_workers=datamodule.num_workers,
        collate_fn=collate,
    )
    rank_zero = stage.trainer.is_global_zero
    batches = progress(loader, len(chunks), "Restoring latents") if rank_zero else loader
    parts: list[dict[str, Tensor]] = []
    for (shard, chunk), batch in zip(chunks, batches, strict=True):
        batch = datamodule.transfer_batch_to_device(batch, stage.device, 0)
        with torch.no_grad(), stage.trainer.precision_plugin.train_step_context():
            corner, original = crop_place(batch)
            features = stage.model.encode_lq(batch_pictures(batch, "lq"), corner=corner, original=original)
            latents = stage.sampled_latents(batch, features, KeyedNoise(batch["key"], stage.device))
        parts.append(entries_of(batch, latents, features.skips if stage.cache.skips else []))
        if chunk.stop == cache.positions(shard).stop:
            yield shard, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            parts = []


def made_by(stage: "DecoderFinetuneModule", train: SampleSet) -> dict[str, Any]:
    """Return all that decides what the latents are, as short texts: a cache's fingerprint."""
    model = stage.model
    apart = (*stage.trained, "text.")
    frozen = [(name, value) for name, value in model.named_parameters() if not name.startswith(apart)]
    return {
        "weights": weights_hash(frozen),
        "text_encoders": text_fingerprint(model.text),
        "network": short_hash(asdict(replace(model.config, detail=DetailConfig())) | model.scheduler_config),
        "training_sampling": asdict(stage.training_sampling),
        "text_dropout": stage.text_dropout,
        "precision": str(stage.trainer.precision),
        "skips": stage.cache.skips,
        "data": short_hash([_looks(train[position]) for position in range(_LOOKED_AT)]),
    } | ({"time_ids": "place of the crop"} if model.unet.rest.config.addition_embed_type == "text_time" else {})


def _looks(sample: Any) -> list[Any]:
    return [sample["key"], sample["caption"], picture_hash(sample["lq"]), picture_hash(sample["gt"])]


def _datamodule(trainer: Trainer) -> RestorationDataModule:
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RestorationDataModule):
        raise UserError(f"latents: cached needs a datamodule of unildiff, got {type(datamodule).__name__}; give --data")
    return datamodule
