"""The sample sets that every datamodule builds: training draws, evaluation pairs and images to restore.

Axis letters: C channels, H W pixels. Images are uint8 RGB; arrays are (H, W, C), tensors (C, H, W).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from unildiff.data.augment import Augment
from unildiff.data.batch import PredictSample, RestorationSample, image_tensor, make_sample
from unildiff.data.captions import Captions
from unildiff.data.pair import OnError, Pair, PairSource, check_sizes
from unildiff.utils.errors import UserError
from unildiff.utils.keys import generator, image_key, sample_key

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 100  # broken files in a row before a training draw gives up


class Degrader(Protocol):
    """Makes the degraded image of pairs that have none on disk (noise)."""

    def train(self, gt: np.ndarray, key: int) -> tuple[np.ndarray, str]:
        """Return the degraded crop and its degradation's name."""
        ...

    def test(self, gt: np.ndarray, pair: Pair, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the degraded image and the ground truth to compare it with."""
        ...


class EpochOrder:
    """Which task, and which of its items, comes at a position: a pure function of (seed, epoch, index).

    A task is drawn by weight at each position; its item is the one at that position, modulo the task's size, of an order
    that is shuffled again for each epoch. So one task alone gives each item once per epoch. With several tasks the
    positions of each task are random: of two tasks of equal size and weight a quarter of the items is missed in an epoch,
    of many tasks more than a third (1/e), and others come more than once.
    """

    def __init__(
        self, sizes: Mapping[str, int], weights: Mapping[str, float] | None, per_epoch: int, seed: int
    ) -> None:
        """Args: items per task, weight per task (1 where none is given; None: all equal), samples per epoch, seed.

        Raises:
            UserError: a weight is negative, names no task, or all are 0.
        """
        given = dict(weights or {})
        if unknown := sorted(set(given) - set(sizes)):
            raise UserError(f"weights: no task named {', '.join(unknown)}; there are {', '.join(sizes)}")
        self._tasks = [task for task in sizes if sizes[task] > 0 and given.get(task, 1.0) != 0]
        values = np.array([given.get(task, 1.0) for task in self._tasks])
        if not self._tasks or (values < 0).any() or not np.isfinite(values).all():
            raise UserError(
                f"weights: {given} leaves nothing to draw; give at least one positive weight, none negative"
            )
        self._shares = np.cumsum(values / values.sum())
        self._sizes = sizes
        self._seed = seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        self.per_epoch = per_epoch

    def __call__(self, position: int) -> tuple[str, int, int]:
        """Return (task, item, key) of a position of the endless stream."""
        epoch, index = divmod(position, self.per_epoch)
        key = sample_key(self._seed, epoch, index)
        draw = generator(key, "task").random() if len(self._tasks) > 1 else 0.0
        chosen = int(np.searchsorted(self._shares, draw, side="right"))
        task = self._tasks[min(chosen, len(self._tasks) - 1)]  # rounding may leave the last share a hair below 1
        return task, self.item(task, epoch, index), key

    def item(self, task: str, epoch: int, index: int) -> int:
        """Return the item of ``task`` at position ``index`` of ``epoch``, whichever tasks the positions before were of."""
        size = self._sizes[task]
        kept = self._orders.get(task)
        if kept is None or kept[0] != epoch:
            shuffled = np.random.default_rng(sample_key(self._seed, epoch, task)).permutation(size)
            kept = self._orders[task] = (epoch, shuffled)
        return int(kept[1][index % size])


class TrainSet:
    """Cropped, turned training pairs at positions of an endless stream (see :class:`EpochOrder`)."""

    def __init__(
        self,
        sources: Mapping[str, PairSource],
        order: EpochOrder,
        augment: Augment,
        captions: Captions,
        degrader: Degrader | None = None,
        on_error: OnError = "raise",
    ) -> None:
        """Args: pairs per task, the order, the crops, captions, what degrades pairs without a file, what to do with broken files."""
        self._sources = sources
        self._order = order
        self._augment = augment
        self._captions = captions
        self._degrader = degrader
        self._on_error = on_error
        self._reported: set[str] = set()

    @property
    def pairs(self) -> list[Pair]:
        """All pairs, task by task."""
        return [pair for source in self._sources.values() for pair in source.pairs]

    def __len__(self) -> int:
        return self._order.per_epoch

    def captions(self) -> list[str]:
        """Return the caption of each pair."""
        return [_caption(pair, self._captions) for pair in self.pairs]

    def __getitem__(self, position: int) -> RestorationSample:
        """Return the sample at any position, also beyond the first epoch.

        Raises:
            UserError: a file cannot be read or a pair's sizes differ (with ``on_error: skip``: only if 100 in a row are).
        """
        for attempt in range(_ATTEMPTS):
            task, item, key = self._order(position + attempt * self._order.per_epoch if attempt else position)
            try:
                return self._sample(self._sources[task], item, key)
            except UserError as error:
                if self._on_error == "raise":
                    raise
                if str(error) not in self._reported:
                    self._reported.add(str(error))
                    _LOG.warning("skipped: %s", error)
        raise UserError(f"{_ATTEMPTS} training images in a row cannot be read; run `unildiff data check`")

    def _sample(self, source: PairSource, item: int, key: int) -> RestorationSample:
        pair = source.pairs[item]
        gt = source.read(item, "gt")
        degradation = pair.degradation
        place = self._augment.place(gt.shape[0], gt.shape[1], key)
        if pair.lq is None and self._degrader is not None:
            (gt,) = self._augment([gt], key)
            lq, degradation = self._degrader.train(gt, key)
        else:
            lq = source.read(item, "lq")
            check_sizes(pair, lq, gt)
            lq, gt = self._augment([lq, gt], key)
        return make_sample(lq, gt, _caption(pair, self._captions), degradation, pair.name, key, place)


class EvalSet:
    """Whole pairs, or their centres, in a fixed order; whatever is random in them depends on (seed, name, degradation)."""

    def __init__(
        self,
        source: PairSource,
        captions: Captions,
        seed: int,
        degrader: Degrader | None = None,
        crop: int | None = None,
    ) -> None:
        """Set what is evaluated; ``crop`` is the longest side in pixels, of larger images the centre is taken."""
        self.source = source
        self._captions = captions
        self._seed = seed
        self._degrader = degrader
        self._crop = crop

    @property
    def pairs(self) -> Sequence[Pair]:
        """The pairs, in order."""
        return self.source.pairs

    def __len__(self) -> int:
        return len(self.source)

    def caption(self, index: int) -> str:
        """Return the caption of pair ``index``."""
        return _caption(self.pairs[index], self._captions)

    def captions(self) -> list[str]:
        """Return the caption of each pair."""
        return [self.caption(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> RestorationSample:
        """Return pair ``index``.

        Raises:
            UserError: a file cannot be read, there is no ground truth, or the sizes differ.
        """
        pair = self.source.pairs[index]
        lq, gt = self._read(pair, index)
        if gt is None:
            raise UserError(f"{pair.lq} has no ground truth to score with; `unildiff predict` and `restore` need none")
        original_size = lq.shape[0], lq.shape[1]
        side = self._crop or max(original_size)
        top, left = (max(length - side, 0) // 2 for length in original_size)
        lq, gt = (image[top : top + side, left : left + side] for image in (lq, gt))
        place = None if lq.shape[:2] == original_size else (original_size, (top, left))
        key = image_key(self._seed, lq)
        return make_sample(lq, gt, _caption(pair, self._captions), pair.degradation, pair.name, key, place)

    def to_predict(self, index: int) -> tuple[Tensor, int]:
        """Return the whole degraded image of pair ``index``, (C, H, W) uint8, and its key; no ground truth is needed.

        Raises:
            UserError: a file cannot be read.
        """
        lq, _ = self._read(self.pairs[index], index)
        return image_tensor(lq), image_key(self._seed, lq)

    def _read(self, pair: Pair, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the degraded image and its ground truth if there is one."""
        if pair.lq is None and self._degrader is not None:
            key = sample_key(self._seed, pair.name, pair.degradation)
            return self._degrader.test(self.source.read(index, "gt"), pair, key)
        lq = self.source.read(index, "lq")
        if pair.gt is None and pair.lq is not None:
            return lq, None
        gt = self.source.read(index, "gt")
        check_sizes(pair, lq, gt)
        return lq, gt


class PredictSet:
    """The degraded images of an evaluation set; ``names[i]`` is the name of the restored image."""

    def __init__(self, images: EvalSet, names: Sequence[str] | None = None) -> None:
        """Args: the evaluation set; the names, by default ``<degradation>/<name>.png``."""
        self.pairs = images.pairs
        self.names = [f"{pair.degradation}/{pair.name}.png" for pair in images.pairs] if names is None else names
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def captions(self) -> list[str]:
        """Return the caption of each image."""
        return self._images.captions()

    def __getitem__(self, index: int) -> PredictSample:
        """Return image ``index``.

        Raises:
            UserError: the file cannot be read.
        """
        lq, key = self._images.to_predict(index)
        return {"lq": lq, "caption": self._images.caption(index), "name": self.names[index], "key": key}


def _caption(pair: Pair, captions: Captions) -> str:
    return pair.caption or captions.of(pair.lq, pair.gt)
