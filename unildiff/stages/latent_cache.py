"""How the processes of a run fill the decoder stage's cache of restored latents before training.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from unildiff.core.daem import DetailConfig
from unildiff.core.model import UniLDiff
from unildiff.data.batch import RestorationBatch, SampleSet, collate
from unildiff.data.datamodule import OneLineLoader, RestorationDataModule
from unildiff.data.latents import CachedTrainSet, LatentCache, picture_hash
from unildiff.utils.errors import UserError
from unildiff.utils.fingerprints import short_hash, weights_hash
from unildiff.utils.parallel import progress
from unildiff.weights.text_cache import text_fingerprint

_SAMPLES_IN_FINGERPRINT = 4
"""Samples of the data that go into the fingerprint; each later sample is compared when it is read."""

MakeEntries = Callable[[RestorationBatch], dict[str, Tensor]]
"""batch of B samples on the device -> what the cache keeps of them, on the CPU."""


def fill_cache(cache: LatentCache, trainer: Trainer, make_entries: MakeEntries, split_model: bool) -> None:
    """Make what is missing, each process its share, and let training read from the cache from now on.

    Args:
        cache: the cache of this run.
        trainer: knows the processes and the data.
        make_entries: restores a batch.
        split_model: whether the weights are split over the devices.

    Raises:
        UserError: the disk is full, this machine does not see what another one made, or the model is split.
    """
    datamodule = cached_datamodule(trainer)
    train = datamodule.training_samples()
    missing = cache.missing()
    if missing and split_model:  # ranks make different numbers of shards, and each pass gathers weights on all of them
        raise UserError(
            f"latents: {len(missing)} files of {cache.folder} are missing, and a split model cannot make them "
            "(ModelParallelStrategy, FSDP2); make them first with --trainer.strategy ddp --trainer.max_steps 1"
        )
    trainer.strategy.barrier("latents: listed")  # all processes have the same list before the first one writes
    shards = missing[trainer.global_rank :: trainer.world_size]
    for shard, entries in _make_shards(cache, shards, trainer, datamodule, make_entries):
        cache.write(shard, entries)
    trainer.strategy.barrier("latents: made")
    if absent := cache.missing():
        raise UserError(
            f"latents: {len(absent)} files of {cache.folder} are missing though all processes have finished; give a "
            "--model.cache.folder on a disk that all machines see"
        )
    datamodule.replace_training_samples(CachedTrainSet(train, cache))


def _make_shards(
    cache: LatentCache,
    shards: list[int],
    trainer: Trainer,
    datamodule: RestorationDataModule,
    make_entries: MakeEntries,
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
        datamodule.training_samples(),  # type: ignore[arg-type]  # a protocol, where torch asks for its own base class
        batch_sampler=[list(chunk) for _, chunk in chunks],
        num_workers=datamodule.num_workers,
        collate_fn=collate,
    )
    batches = progress(loader, len(chunks), "Restoring latents") if trainer.is_global_zero else loader
    parts: list[dict[str, Tensor]] = []
    for (shard, chunk), batch in zip(chunks, batches, strict=True):
        with torch.no_grad(), trainer.precision_plugin.train_step_context():
            parts.append(make_entries(datamodule.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)))
        if chunk.stop == cache.positions(shard).stop:
            yield shard, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            parts = []


def fingerprint(model: UniLDiff, train: SampleSet, trained: tuple[str, ...], **settings: Any) -> dict[str, Any]:
    """Return everything that the cached latents depend on, as short texts.

    Args:
        model: restores the latents.
        train: the training samples.
        trained: prefixes of the weights that have no effect on the latents.
        settings: further values that decide them.
    """
    apart = (*trained, "text.")
    frozen = [(name, value) for name, value in model.named_parameters() if not name.startswith(apart)]
    return {
        "weights": weights_hash(frozen),
        "text_encoders": text_fingerprint(model.text),
        "network": short_hash(asdict(replace(model.config, detail=DetailConfig())) | model.scheduler_config),
        **settings,
        "data": short_hash([_summary(train[position]) for position in range(_SAMPLES_IN_FINGERPRINT)]),
    } | ({"time_ids": "place of the crop"} if model.unet.rest.config.addition_embed_type == "text_time" else {})


def _summary(sample: Any) -> list[Any]:
    return [sample["key"], sample["caption"], picture_hash(sample["lq"]), picture_hash(sample["gt"])]


def cached_datamodule(trainer: Trainer) -> RestorationDataModule:
    """Return the datamodule of the run.

    Raises:
        UserError: the data do not come from a datamodule of UniLDiff.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RestorationDataModule):
        raise UserError(f"latents: cached needs a datamodule of unildiff, got {type(datamodule).__name__}; give --data")
    return datamodule
