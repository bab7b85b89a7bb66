"""Reading training pairs against what the peers' loaders do, on one core.

The images are generated (1080x720, CDD-11's size and kinds of noise, PNG). The peers' loading is written after its
description; their own code is not run. Goals: a random pair from a pack at least 50 times faster than their decoding at
crop 512 and 200 times at crop 128, while the pack fits in memory.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from unildiff.data.augment import Augment
from unildiff.data.captions import Captions
from unildiff.data.datasets import EpochOrder, TrainSet
from unildiff.data.pack import PackedPairs
from unildiff.data.pair import Pair
from unildiff.data.sources import FilePairs
from unildiff.data.tools.pack_writer import write_pack
from unildiff.deadleaves.renderer import render
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.store import DATABASE, prefetch

WIDTH, HEIGHT = 1080, 720
PAIRS = 48  # 224 MB unpacked: more than the processor's caches
DECODED, PACKED = 8, 128  # pairs a timed call: a loader does nothing else, so its code and maps are warm
GOALS = {128: 200, 256: None, 512: 50}
THEIRS = "decode both PNGs, crop, turn, float32 (MoCE-IR and PromptIR, restated)"


def rows(effort: Effort) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pairs = write_pairs(root, 3 if effort.small else PAIRS)
        crops = (128,) if effort.small else tuple(GOALS)
        packed = [row for crop in crops for row in reading(root, pairs, crop, effort)]
        return packed + [cold(root, pairs, crop, effort) for crop in (crops[0], crops[-1])][: len(crops)]


def write_pairs(root: Path, count: int) -> list[Pair]:
    """Write the pairs: a few scenes, shifted, under each of the degradations in turn."""
    scenes = [
        cv2.resize(render(key, WIDTH).image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        for key in range(min(6, count))
    ]
    scenes = [
        np.clip(np.rint(scene * 255 if scene.dtype != np.uint8 else scene), 0, 255).astype(np.uint8) for scene in scenes
    ]
    pairs = []
    for number in range(count):
        clear = np.roll(scenes[number % len(scenes)], 97 * number, axis=1)
        degradation = DEGRADATIONS[number % len(DEGRADATIONS)]
        lq, gt = root / f"{number}_lq.png", root / f"{number}_gt.png"
        for path, image in ((gt, clear), (lq, degrade(clear, degradation, number).image)):
            cv2.imwrite(str(path), image[..., ::-1])  # as OneRestore's script writes them
        pairs.append(Pair(degradation, degradation, str(number), lq, gt))
    return pairs


def their_pair(pair: Pair, crop: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Restates MoCE-IR and PromptIR: decode both, cut to a multiple of 16, crop, turn one of eight ways, float32 in [0, 1]."""
    whole = []
    for path in (pair.lq, pair.gt):
        image = np.array(Image.open(path).convert("RGB"))
        height, width = (side - side % 16 for side in image.shape[:2])
        whole.append(image[:height, :width])
    top, left = draw.integers(0, height - crop), draw.integers(0, width - crop)
    turns, flip = int(draw.integers(0, 4)), bool(draw.integers(0, 2))
    tensors = []
    for image in whole:
        patch = np.rot90(image[top : top + crop, left : left + crop], turns)
        patch = np.ascontiguousarray(np.flipud(patch) if flip else patch)
        tensors.append(torch.from_numpy(patch).permute(2, 0, 1).contiguous().to(torch.float32).div(255))
    return tensors[0], tensors[1]


def pillow_pair(pair: Pair, crop: int, draw: np.random.Generator) -> list[np.ndarray]:
    """The least that can be done with Pillow: decode and crop."""
    top, left = int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop))
    return [
        np.array(Image.open(path).convert("RGB").crop((left, top, left + crop, top + crop)))
        for path in (pair.lq, pair.gt)
    ]


def endless(count: int) -> Iterator[int]:
    """Random pairs, each drawn again."""
    draw = np.random.default_rng(0)
    while True:
        yield from draw.integers(0, count, 1000).tolist()


def repeated(pairs: int, read: Callable[[int], object], count: int = DECODED) -> Callable[[], None]:
    numbers = endless(pairs)

    def call() -> None:
        for _ in range(count):
            read(next(numbers))

    return call


def reading(root: Path, pairs: list[Pair], crop: int, effort: Effort) -> list[Row]:
    """The pair alone and whole samples, from a pack and from files; pixels equal to the decoded ones, warm page cache."""
    count = len(pairs)
    pack = write_pack({"train": FilePairs(pairs)}, root / "pack", "bench", root)
    packed = pack.source("train")
    for index in range(count):
        for which in ("lq", "gt"):
            assert (packed.read(index, which) == FilePairs(pairs).read(index, which)).all()  # type: ignore[arg-type]
    draw = np.random.default_rng(1)
    resident = np.ascontiguousarray(packed.read(0, "lq"))

    def sample(source: object) -> Callable[[int], object]:
        order = EpochOrder({"all": count}, None, 10**6, 0)
        augment = Augment(crop, rotate=True, vflip=True)
        return TrainSet({"all": source}, order, augment, Captions({})).__getitem__  # type: ignore[dict-item]

    def window(number: int) -> list[np.ndarray]:
        top, left = int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop))
        return [cut(packed, number, which, top, left, crop) for which in ("lq", "gt")]

    def copied(number: int) -> list[np.ndarray]:
        return [resident[number : number + crop, number : number + crop].copy() for _ in range(2)]

    calls = alternate(
        {
            "peer": repeated(count, lambda number: their_pair(pairs[number], crop, draw)),
            "pillow": repeated(count, lambda number: pillow_pair(pairs[number], crop, draw)),
            "files": repeated(count, sample(FilePairs(pairs))),
            "whole": repeated(count, sample(packed), PACKED),
            "alone": repeated(count, window, PACKED),
            "limit": repeated(count, copied, PACKED),
        },
        effort.rounds,
        time.process_time,
    )
    per_call = {name: DECODED if name in ("peer", "pillow", "files") else PACKED for name in calls}
    seconds = {name: [value / per_call[name] for value in values] for name, values in calls.items()}
    goal, memory = GOALS[crop], "two crops copied from an image in memory"
    made = []
    for what, name, limit, limit_is in (
        ("the pair alone, packed", "alone", "limit", memory),
        ("a whole sample, turned, packed", "whole", "limit", memory),
        ("a whole sample, turned, from files", "files", "pillow", "Pillow: decode and crop"),
    ):
        found = {"ours": seconds[name], "peer": seconds["peer"], "limit": seconds[limit]}
        aim = Goal(1 / goal, "peer") if goal and name == "alone" else None
        made.append(seconds_row(f"data, crop {crop}: {what}", found, peer_way=THEIRS, limit_is=limit_is, goal=aim))
    return made


def cut(packed: PackedPairs, number: int, which: Any, top: int, left: int, crop: int) -> np.ndarray:
    """Return a copy of a window of a packed image."""
    view = packed.read(number, which)[top : top + crop, left : left + crop]
    prefetch([view])
    return view.copy()


# Reading what is not in memory.


def forget(paths: list[Path]) -> None:
    """Have the system drop the files' pages."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(root: Path, pairs: list[Pair], crop: int, effort: Effort) -> Row:
    """Single pairs whose pages have been dropped; every read then goes to the disk, and what its host keeps of it."""
    packed = write_pack({"train": FilePairs(pairs)}, root / "pack", "bench", root).source("train")
    os.sync()  # dirty pages cannot be dropped
    shards = [root / "pack" / DATABASE]
    draw = np.random.default_rng(2)

    def ours(number: int) -> None:
        top, left = int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop))
        for which in ("lq", "gt"):
            cut(packed, number, which, top, left, crop)

    ways: dict[str, tuple[Callable[[int], object], Callable[[int], list[Path]]]] = {
        "peer": (
            lambda number: their_pair(pairs[number], crop, draw),
            lambda number: [path for path in (pairs[number].lq, pairs[number].gt) if path is not None],
        ),
        "ours": (ours, lambda number: shards),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    read: dict[str, list[float]] = {name: [] for name in ways}
    numbers = endless(len(pairs))
    for turn in range(effort.rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            number = next(numbers)
            call, files = ways[name]
            packed.pack._store.close()  # mapped pages are not dropped; the next read opens it again
            forget(files(number))
            before, start = from_disk(), time.perf_counter()
            call(number)
            times[name].append(time.perf_counter() - start)
            read[name].append((from_disk() - before) / 1e6)
    amount = ", ".join(f"{np.median(read[name]):.2f} MB" for name in ("ours", "peer"))
    return seconds_row(
        f"data, crop {crop}: the pair alone, not in memory", times, peer_way=THEIRS, remark=f"read from disk: {amount}"
    )


def from_disk() -> int:
    """Bytes that this process has caused to be read from storage."""
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
