"""Save restored images as 8-bit PNGs and score them in background threads while the next one is restored.

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
from unildiff.utils.errors import UserError

_WAITING = 8  # images that a worker may lag behind before `add` waits: bounds memory


def score_image(
    restored: Tensor, gt: Tensor, scorers: Mapping[str, Scorer], names: Sequence[str], lq: Tensor | None = None
) -> Row:
    """Return the metrics of one image by name, None for those that are not among `scorers`.

    Args:
        restored: (3, H, W), uint8 in 0..255 or floats in [0, 1].
        gt: The same shape.
        scorers: The available metrics.
        names: The requested metrics.
        lq: The input, scored into the columns `input_...`; None: it is not scored.

    Raises:
        ValueError: Wrong shape, dtype or range, or an image too small for a metric.
    """
    row: Row = {}
    for prefix, image in (("", restored), ("input_", lq)):
        if image is not None:
            values = {name: scorers[name](image[None], gt[None]).item() if name in scorers else None for name in names}
            row |= {prefix + name: value for name, value in values.items()}
    return row


class Evaluator:
    """Scores images one by one in background threads, as `unildiff score` scores the saved files.

    Args:
        protocol: Protocol or its name.
        metrics: Names of per-image metrics.
        out_dir: Folder of the restored images, saved as `DEGRADATION/NAME.png`; None: they are not saved.
        workers: Number of threads.

    Attributes:
        protocol: The protocol of the scores.
        unavailable: By name, why a requested metric cannot be computed here; its column is empty.

    Raises:
        UserError: There is no such protocol or metric, or the metric is one of a whole set (FID).
    """

    def __init__(
        self,
        protocol: str | Protocol = "unildiff",
        metrics: Sequence[str] = ("psnr", "ssim"),
        out_dir: Path | None = None,
        workers: int = 1,
    ) -> None:
        self.protocol = get_protocol(protocol)
        self._scorers, self.unavailable = load_scorers(metrics, self.protocol)
        self._names = list(metrics)
        self._out_dir = out_dir
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="evaluator")
        self._limit = _WAITING * workers
        self._futures: dict[tuple[str, str], Future[Row]] = {}
        self._pending: deque[Future[Row]] = deque()

    def add(self, name: str, degradation: str, restored: Tensor, gt: Tensor, lq: Tensor | None = None) -> None:
        """Score an image in the background; returns at once unless the threads lag far behind.

        Args:
            name: File stem, unique within the degradation.
            degradation: Its degradation (the folder it is saved in).
            restored: uint8 (3, H, W), 0..255. The images must not be changed afterwards.
            gt: The ground truth, like `restored`.
            lq: The input, like `restored`; None: it is not scored.

        Raises:
            ValueError: An image of that name and degradation was added before, or one is not uint8 (3, H, W).
            UserError: An earlier image could not be saved, or is too small to be scored.
        """
        if (degradation, name) in self._futures:
            raise ValueError(f"{degradation}/{name} was added before: names must be unique within a degradation")
        images = [image for image in (restored, gt, lq) if image is not None]
        for image in images:
            if image.dtype != torch.uint8 or image.shape != gt.shape or image.dim() != 3 or len(image) != 3:
                raise ValueError(
                    f"{degradation}/{name}: expected uint8 (3, H, W) of one size, got {image.dtype} "
                    f"{tuple(image.shape)} beside {tuple(gt.shape)}"
                )
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._limit):
            self._pending.popleft().result()  # report a full disk now, not after the last image
        future = self._pool.submit(self._save_and_score, name, degradation, *(image.cpu() for image in images))
        self._futures[degradation, name] = future
        self._pending.append(future)

    def _save_and_score(
        self, name: str, degradation: str, restored: Tensor, gt: Tensor, lq: Tensor | None = None
    ) -> Row:
        if self._out_dir is not None:
            write_png(self._out_dir / degradation / f"{name}.png", image_array(restored))
        row: Row = {"degradation": degradation, "name": name}
        try:
            return row | score_image(restored, gt, self._scorers, self._names, lq)
        except ValueError as error:
            raise UserError(f"cannot score {degradation}/{name}: {error}; choose another protocol") from None

    def rows(self) -> list[Row]:
        """Wait for all images and return one row per image in the order they were added; raises what a thread raised."""
        return [future.result() for future in self._futures.values()]

    def write_csv(self, path: Path) -> None:
        """Write the rows to a CSV file (see :func:`unildiff.metrics.rows.write_csv`)."""
        write_csv(self.rows(), path)
