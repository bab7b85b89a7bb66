"""The base class of all datamodules: loaders, shards, resumption, counts and a fingerprint.

Axis letters: B batch, C channels, H W pixels.
"""

import hashlib
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning
import torch
from torch.utils.data import DataLoader

from unildiff.data.augment import Augment
from unildiff.data.batch import RestorationBatch, SampleSet, collate
from unildiff.data.datasets import EvalSet, PredictSet
from unildiff.data.lmdb_folders import file_of
from unildiff.data.pair import Split
from unildiff.data.sharding import ShardSampler, StreamSampler, rank_and_world
from unildiff.utils.errors import UserError
from unildiff.utils.parallel import cores
from unildiff.utils.validation import PixelCount, PositiveInt, Seed, WorkerCount, check_arguments

_LOG = logging.getLogger(__name__)
_SPLITS: dict[str, tuple[Split, ...]]  # by Lightning's name of the stage
_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class RestorationDataModule(lightning.LightningDataModule):
    """Loaders over the sample sets that a subclass makes.

    A subclass defines those of ``train_set``, ``val_set``, ``test_set`` and ``predict_set`` that it has. Training runs
    over an endless stream of positions; the number of samples trained on is kept in every checkpoint, so that a resumed
    run continues with the next one, whatever the number of workers or processes. Test images come one at a time, in full
    size, each once whatever the number of processes; the degradation's name is in each sample.

    Attributes:
        protocol: how this set is scored by default, a name of :mod:`unildiff.metrics.protocols`.
        blind: nothing in a sample tells the network what the degradation is.
        skipped: one line for each file or pair that ``on_error: skip`` left out.
        consumed: training samples that all processes together have trained on so far.
    """

    protocol: ClassVar[str] = "unildiff"
    blind: ClassVar[bool] = True

    def __init__(
        self,
        batch_size: PositiveInt = 8,
        num_workers: WorkerCount | None = None,
        crop_size: PixelCount = 512,
        hflip: bool = True,
        vflip: bool = False,
        rotate: bool = False,
        seed: Seed | None = None,
        test_seed: Seed = 0,
    ) -> None:
        """Set what all loaders share.

        Args:
            batch_size: training samples per process and micro-batch (the paper's 64: times two GPUs, times four accumulated).
            num_workers: loader processes per training process; 0 loads in the main process; by default half of the cores,
                from 2 to 8 (our choice).
            crop_size: side of the training images in pixels (the paper: 512).
            hflip: flip training images left-right half of the time (the authors do).
            vflip: flip them upside down half of the time.
            rotate: turn them by a random multiple of 90 degrees.
            seed: of training order, crops and degradations; by default the one of ``--seed_everything``, else 0.
            test_seed: seed of validation and test; part of the protocol, so separate from ``seed``.
        """
        check_arguments(RestorationDataModule, locals())
        super().__init__()
        if num_workers is None:
            num_workers = min(8, max(2, cores() // 2))
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augment = Augment(crop_size, hflip, vflip, rotate)
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.test_seed = test_seed
        self.skipped: list[str] = []
        self.consumed = 0
        self._sets: dict[Split, SampleSet | None] = {}

    @property
    def data_name(self) -> str:
        """The name of the data in tables: that of the module, as on the command line."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def data_kind(self) -> Literal["real", "sample"]:
        """``sample`` if the test images are a small stand-in for the dataset of that name."""
        return "real"

    @property
    def published(self) -> bool:
        """Whether the test images are those of a published dataset, which published figures are of."""
        return False

    # What subclasses define.

    def train_set(self) -> SampleSet:
        """Return the training set.

        Raises:
            UserError: this datamodule has none, or it cannot be found.
        """
        raise UserError(f"{type(self).__name__} has no training images; train with another --data")

    def val_set(self) -> SampleSet | None:
        """Return the validation set, or None when there is none."""
        return None

    def test_set(self) -> EvalSet:
        """Return the test set.

        Raises:
            UserError: this datamodule has none, or it cannot be found.
        """
        raise UserError(f"{type(self).__name__} has no test images; give another --data")

    def predict_set(self) -> SampleSet:
        """Return the images to restore; those of the test set unless a subclass overrides this."""
        return PredictSet(self.test_set())

    def predict_names(self) -> list[str]:
        """Return the names of all images to restore, as far as the set knows them, the same on every rank; after ``setup``."""
        return list(getattr(self._made("predict"), "names", []))

    def training_samples(self) -> SampleSet:
        """Return the training set that is in use; after ``setup``.

        Raises:
            UserError: there is none.
        """
        return self._made("train")

    def replace_training_samples(self, samples: SampleSet) -> None:
        """Train on other samples from now on, such as the same ones with stored latents added."""
        self._sets["train"] = samples

    def listed_captions(self) -> set[str]:
        """Return every caption of the sets that were set up.

        Raises:
            UserError: a set makes its captions along with its images, without end.
        """
        found: set[str] = set()
        for split, made in self._sets.items():
            if made is not None and not hasattr(made, "captions"):
                raise UserError(
                    f"captions: those of {type(self).__name__} ({split}) cannot be listed; leave CaptionCache out"
                )
            found |= set() if made is None else set(made.captions())
        return found

    def captioned(self) -> dict[Split, float]:
        """Return the share of images with a caption in each set that was set up, 1 where captions come with the images."""
        shares: dict[Split, float] = {}
        for split, made in self._sets.items():
            if made is not None:
                captions = made.captions() if hasattr(made, "captions") else ["generated"]
                shares[split] = sum(map(bool, captions)) / len(captions)
        return shares

    # Lightning's side.

    def setup(self, stage: str) -> None:
        """Make the sets that ``stage`` (fit, validate, test or predict) needs, so that faults show before any work.

        Raises:
            UserError: a set is empty, or there is nothing to validate.
        """
        for split in _SPLITS[stage]:
            if split not in self._sets:
                made = getattr(self, f"{split}_set")()
                if made is not None and len(made) == 0:
                    raise UserError(f"{type(self).__name__}: the {split} set is empty; check folder and settings")
                self._sets[split] = made
                if rank_and_world()[0] == 0:
                    self._warn_of_captions(split)
        if "val" in _SPLITS[stage] and self._sets["val"] is None:
            nothing = f"{type(self).__name__} has no validation images and holds none out of training"
            if stage == "validate":
                raise UserError(f"{nothing}; add some (see `unildiff data layout`), or give --data.val_scenes")
            if rank_and_world()[0] == 0:
                _LOG.warning("no validation: %s, so no checkpoint is the best one", nothing)

    def _warn_of_captions(self, split: Split) -> None:
        """Report images without a caption where others have one; the stage reports that no image has one."""
        share = self.captioned().get(split, 1.0)
        if 0 < share < 1:
            _LOG.warning(
                "captions: %.0f%% of the %s images have one; without a caption text and guidance have no effect "
                "(`unildiff data caption` writes them)",
                100 * share,
                split,
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training stream, from ``consumed`` on."""
        rank, world = rank_and_world()
        train = self.training_samples()
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        sampler = StreamSampler(len(train), self.batch_size, lambda: self.consumed, rank, world, accumulated)
        return self._loader(train, sampler, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the one validation loader, or an empty list when there is no validation set."""
        return [] if self._sets.get("val") is None else self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the one test loader: batch 1, full size."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the images to restore: batch 1, full size."""
        return self._eval_loader("predict")

    def on_before_batch_transfer(self, batch: RestorationBatch, dataloader_idx: int) -> RestorationBatch:
        """Count the samples that go to training."""
        if self.trainer is not None and self.trainer.training:
            self.consumed += len(batch["name"]) * self.trainer.world_size
        return batch

    def transfer_batch_to_device(
        self, batch: RestorationBatch, device: torch.device, dataloader_idx: int
    ) -> RestorationBatch:
        """Move a batch and lay its images out as (B, C, H, W): workers leave them as (B, H, W, C), which is cheaper.

        Keys stay on the CPU, where they seed generators: each would be read back from a GPU by itself.
        """
        rest = {field: value for field, value in batch.items() if field != "key"}
        moved: RestorationBatch = super().transfer_batch_to_device(rest, device, dataloader_idx)
        moved["key"] = batch["key"]
        moved["lq"] = moved["lq"].contiguous()
        if "gt" in moved:
            moved["gt"] = moved["gt"].contiguous()
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training stream."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the position that a checkpoint holds."""
        self.consumed = int(state_dict["consumed"])

    # What describes the data of a run.

    def counts(self) -> dict[str, int]:
        """Return how many test images each degradation has."""
        self.setup("test")
        return dict(Counter(pair.degradation for pair in self._made("test").pairs))

    def fingerprint(self) -> str:
        """Return a short hash of what the sets consist of: settings, files and their sizes in bytes, not their pixels.

        It covers the sets that have been set up (those that a run reads), or the test set where none has.
        """
        if not self._sets:
            self.setup("test")
        digest = hashlib.blake2b(digest_size=8)
        for line in [type(self).__name__, f"seed {self.test_seed}", *self.contents()]:
            digest.update(os.fsencode(line) + b"\n")
        return digest.hexdigest()

    def contents(self) -> list[str]:
        """Return the lines that the fingerprint is made of: one per pair, and what a subclass adds."""
        return [
            f"{split} {pair.degradation} {pair.name} {_bytes(pair.lq)} {_bytes(pair.gt)}"
            for split, made in self._sets.items()
            if made is not None
            for pair in made.pairs
        ]

    def _made(self, split: Split) -> SampleSet:
        if (made := self._sets.get(split)) is None:
            raise UserError(f"{type(self).__name__}: no {split} set; call setup first, or give another --data")
        return made

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        made = self._made(split)
        rank, world = rank_and_world()
        if len(made) < world:  # Lightning stops the ranks without an image alone: the others would wait for them
            advice = f"give --trainer.devices and --trainer.num_nodes that make {len(made)} at most"
            advice += " (or --trainer.limit_val_batches 0)" if split == "val" else ""
            raise UserError(f"{type(self).__name__}: {len(made)} images ({split}) for {world} processes; {advice}")
        return self._loader(made, ShardSampler(made, rank, world), batch_size=1)

    def _loader(self, samples: SampleSet, sampler: StreamSampler | ShardSampler, batch_size: int) -> DataLoader[Any]:
        return OneLineLoader(
            samples,  # type: ignore[arg-type]  # a protocol, where torch expects its own base class
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0 and isinstance(sampler, StreamSampler),
        )


class OneLineLoader(DataLoader[Any]):
    """A DataLoader whose workers' user errors arrive as one line, without a worker's traceback.

    It is resumable, as Lightning requires of a loader; the datamodule's state holds the position.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state; the datamodule restores the position."""

    def __iter__(self) -> Any:
        """Yield batches."""
        try:
            yield from super().__iter__()
        except UserError as error:
            _, _, own = str(error).rpartition("unildiff.utils.errors.UserError: ")  # after the worker's traceback
            raise UserError(own) from None


def _one_thread(worker: int) -> None:
    import cv2  # workers are the parallelism: OpenCV's own threads on top would only fight for the cores

    cv2.setNumThreads(0)


def _bytes(path: Path | None) -> int:
    file = None if path is None else file_of(path)
    return file.stat().st_size if file is not None and file.is_file() else 0
