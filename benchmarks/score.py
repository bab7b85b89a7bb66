"""`unildiff score` on 200 images of 512x512: memory of all its processes together, cores in use.

Goal: both cores, under 2 GiB.
"""

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.evaluation import write_images
from benchmarks.memory import watch
from benchmarks.table import Goal, Row
from benchmarks.timing import Effort

LIMIT_MIB = 2048.0


def rows(effort: Effort) -> list[Row]:
    count, side = (2, 64) if effort.small else (200, 512)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), count, side)
        start = time.perf_counter()
        peak, used = watch(
            [sys.executable, "-m", "unildiff", "score", f"{folder}/lq", f"{folder}/gt", "--workers", "0"]
        )
        wall = time.perf_counter() - start
    return [
        Row(
            f"unildiff score, {count} images of {side}x{side}: peak memory", [peak], limit=[LIMIT_MIB],
            limit_is="2 GiB", goal=Goal(1.0, "limit"), unit="MiB",
            remark=f"{wall:.1f} s, {used / wall:.2f} cores in use",
        )
    ]  # fmt: skip
