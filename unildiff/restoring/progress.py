"""Progress of a batch on standard error: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 30.0  # seconds between two lines of a log


class BatchProgress:
    """Counts images and the steps and tiles within them.

    Args:
        total: images to restore.
        label: what is said before the numbers, e.g. the shard.
    """

    def __init__(self, total: int, label: str = "Restoring") -> None:
        self.total, self.label, self.done = total, label, 0.0
        self._started = self._spoken = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.0f} images"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(label, total=total, rate="")
        self._whole = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def within(self, share: float) -> None:
        """Report that ``share`` (0 to 1) of the images at hand is done."""
        self._show(self._whole + share)

    def finished(self, images: int) -> None:
        """Report that images are done."""
        self._whole += images
        self._show(self._whole)

    def _show(self, done: float) -> None:
        self.done = done
        now = time.monotonic()
        rate = done / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=done, rate=f"{60 * rate:.1f} images/min")
        if self._bar.disable and now - self._spoken >= _EVERY:
            self._spoken = now
            left = (self.total - done) / rate if rate else 0
            print(
                f"{self.label}: {done:.1f}/{self.total} images, {60 * rate:.1f} images/min, about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
