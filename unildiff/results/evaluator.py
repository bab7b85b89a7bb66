"""Saving restored pictures as 8-bit PNGs and scoring them while the next one is being restored.

Axis letters: H W pixels.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from unildiff.data.batch import image_array
from unildiff.data.images import write_png
from unildiff.metrics.protocols import Protocol, get_protocol
from unildiff.metrics.registry import Scorer, load_scorers
from unildiff.metrics.rows import Row, write_csv

_WAITING = 8  # pictures a worker may lag behind before `add` waits: bounds memory


def score_picture(
    restored: Tensor, gt: Tensor, scorers: Mapping[str, Scorer], names: Sequence[str], prefix: str = ""
) -> Row:
    """The metrics of one picture.

    Args:
        restored: (3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        scorers: The metrics that are available.
        names: Those that were asked for; the others among them get None.
        prefix: Put before each name.

    Returns:
        A value or None for each name.

    Raises:
        ValueError: Wrong shape, dtype or range, or a picture too small for a metric.
    """
    return {
        prefix + name: scorers[name](restored[None], gt[None]).item() if name in scorers else None for name in names
    }


class Evaluator:
    """Scores pictures one by one in background threads; the numbers are those of `unildiff score` on the saved files.

    Attributes:
        protocol: What the numbers are measured under.
        unavailable: Metrics that were asked for and cannot be computed here, and why; their columns are empty.
    """

    def __init__(
        self,
        protocol: str | Protocol = "unildiff",
        metrics: Sequence[str] = ("psnr", "ssim"),
        out_dir: Path | None = None,
        workers: int = 1,
    ) -> None:
        """Prepare the metrics.

        Args:
            protocol: Protocol or its name.
            metrics: Names of per-picture metrics (registry.METRICS).
            out_dir: Where the restored pictures go, as `DEGRADATION/NAME.png`; None: they are not saved.
            workers: Threads.

        Raises:
            UserError: No such protocol or metric.
            ValueError: A metric of a whole set (FID) was asked for: that needs `unildiff score` on the saved files.
        """
        self.protocol = get_protocol(protocol)
        self._scorers, self.unavailable = load_scorers(metrics, self.protocol)
        self._names = list(metrics)
        self._out_dir = out_dir
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="evaluator")
        self._limit = _WAITING * workers
        self._futures: dict[tuple[str, str], Future[Row]] = {}
        self._pending: deque[Future[Row]] = deque()

    def add(self, name: str, degradation: str, restored: Tensor, gt: Tensor, lq: Tensor | None = None) -> None:
        """Hand over a picture; returns at once unless the threads lag far behind.

        Args:
            name: File stem, unique within the degradation.
            degradation: Its degradation (the folder it is saved in).
            restored: uint8 (3, H, W), 0..255. It must not be changed afterwards; nor must the others.
            gt: uint8, the same shape: the truth.
            lq: uint8, the same shape: the input, scored into the columns `input_...`; None: not scored.

        Raises:
            ValueError: A picture of that name and degradation is already there, or a picture is not uint8 (3, H, W).
            UserError: An earlier picture could not be saved.
        """
        if (degradation, name) in self._futures:
            raise ValueError(f"{degradation}/{name} was added before: names must be unique within a degradation")
        pictures = [picture for picture in (restored, gt, lq) if picture is not None]
        for picture in pictures:
            if picture.dtype != torch.uint8 or picture.shape != gt.shape or picture.dim() != 3 or len(picture) != 3:
                raise ValueError(
                    f"{degradation}/{name}: expected uint8 (3, H, W) of one size, got {picture.dtype} "
                    f"{tuple(picture.shape)} beside {tuple(gt.shape)}"
                )
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._limit):
            self._pending.popleft().result()  # a full disk is told now, not after the last picture
        on_cpu = [picture.cpu() for picture in pictures]
        future = self._pool.submit(self._save_and_score, name, degradation, on_cpu)
        self._futures[degradation, name] = future
        self._pending.append(future)

    def _save_and_score(self, name: str, degradation: str, pictures: Sequence[Tensor]) -> Row:
        restored, gt = pictures[:2]
        if self._out_dir is not None:
            write_png(self._out_dir / degradation / f"{name}.png", image_array(restored))
        row: Row = {"degradation": degradation, "name": name}
        row |= score_picture(restored, gt, self._scorers, self._names)
        for lq in pictures[2:]:
            row |= score_picture(lq, gt, self._scorers, self._names, prefix="input_")
        return row

    def rows(self) -> list[Row]:
        """One row a picture, in the order they were added: degradation, name, metrics, `input_` metrics.

        Waits for all pictures; raises what scoring or saving one of them raised.
        """
        return [future.result() for future in self._futures.values()]

    def write_csv(self, path: Path) -> None:
        """Write the rows to a CSV file (see :func:`unildiff.metrics.rows.write_csv`)."""
        write_csv(self.rows(), path)
