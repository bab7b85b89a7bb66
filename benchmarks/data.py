"""Reading training pairs and making CDD-11's degradations, against the peers' ways, on one core.

Run: python benchmarks/data.py [rounds]
Pictures are made here (1080x720, CDD-11's size and kinds of noise, PNG). The peers' ways are restated from their
description (reference/peers.md 1.4, 1.6 and 4), not run. Goals (issue 4): a random pair from a pack at least 50 times
faster than their decoding at crop 512 and 200 times at crop 128, while the pack fits in memory; degrading at least 3
times faster than theirs. Exits with 1 where a median ratio misses its goal.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image
from timing import LEAST_ROUNDS, alternate, one_thread, ratios, upper_bound

from unildiff.data.augment import Augment
from unildiff.data.captions import Captions
from unildiff.data.datasets import EpochOrder, FilePairs, TrainSet
from unildiff.data.deadleaves import render
from unildiff.data.pack_writer import PackWriter
from unildiff.data.pairs import Pair
from unildiff.data.synthesize import Scene, make_scene, read_map, write_picture
from unildiff.degradations.cdd11 import DEGRADATIONS, degrade
from unildiff.degradations.maps import estimate_depth, estimate_illumination
from unildiff.degradations.masks import rain_streaks, snow_flakes

WIDTH, HEIGHT = 1080, 720
PAIRS = 48  # 224 MB unpacked: more than the processor's caches
DECODED, PACKED = 8, 128  # pairs a timed call: a loader does nothing else, so its code and maps are warm
ALONE = "ours, packed: the pair alone"
GOALS = {128: 200, 256: None, 512: 50}
GOAL_SYNTHESIS = 3


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else LEAST_ROUNDS
    one_thread()
    print(f"{machine()}\n{rounds} alternating rounds; medians of processor time, and of ratios within a round.\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pairs = write_pairs(root)
        missed = reading(root, pairs, rounds)
        cold(root, pairs, rounds)
        missed += synthesis(root, rounds)
    print(f"goals: {'all met' if not missed else f'{missed} missed'}")
    return 1 if missed else 0


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next(
            (line.partition(":")[2].strip() for line in file if line.startswith("model name")), platform.machine()
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = f"Python {platform.python_version()}, OpenCV {cv2.__version__}, Pillow {Image.__version__}, torch {torch.__version__}"
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, one thread; {versions}; load {os.getloadavg()[0]:.1f}"


def write_pairs(root: Path) -> list[Pair]:
    """Write the pairs: a few scenes, shifted, under each of the degradations in turn."""
    scenes = [cv2.resize(render(key, WIDTH).image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for key in range(6)]
    scenes = [
        np.clip(np.rint(scene * 255 if scene.dtype != np.uint8 else scene), 0, 255).astype(np.uint8) for scene in scenes
    ]
    pairs = []
    for number in range(PAIRS):
        clear = np.roll(scenes[number % len(scenes)], 97 * number, axis=1)
        degradation = DEGRADATIONS[number % len(DEGRADATIONS)]
        lq, gt = root / f"{number}_lq.png", root / f"{number}_gt.png"
        for path, picture in ((gt, clear), (lq, degrade(clear, degradation, number).image)):
            cv2.imwrite(str(path), picture[..., ::-1])  # as OneRestore's script writes them
        pairs.append(Pair(degradation, degradation, str(number), lq, gt))
    return pairs


# Reading.


def their_pair(pair: Pair, crop: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Restates MoCE-IR and PromptIR: decode both, cut to a multiple of 16, crop, turn one of eight ways, float32 in [0, 1]."""
    whole = []
    for path in (pair.lq, pair.gt):
        picture = np.array(Image.open(path).convert("RGB"))
        height, width = (side - side % 16 for side in picture.shape[:2])
        whole.append(picture[:height, :width])
    top, left = draw.integers(0, height - crop), draw.integers(0, width - crop)
    turns, flip = int(draw.integers(0, 4)), bool(draw.integers(0, 2))
    tensors = []
    for picture in whole:
        patch = np.rot90(picture[top : top + crop, left : left + crop], turns)
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
    """Random pairs, each drawn anew."""
    draw = np.random.default_rng(0)
    while True:
        yield from draw.integers(0, count, 1000).tolist()


def repeated(read: Callable[[int], object], count: int = DECODED) -> Callable[[], None]:
    numbers = endless(PAIRS)

    def call() -> None:
        for _ in range(count):
            read(next(numbers))

    return call


def reading(root: Path, pairs: list[Pair], rounds: int) -> int:
    pack = PackWriter({"train": FilePairs(pairs)}, root / "pack", "bench", root).run()
    packed = pack.source("train")
    for index in range(PAIRS):
        for which in ("lq", "gt"):
            assert (packed.read(index, which) == FilePairs(pairs).read(index, which)).all()  # type: ignore[arg-type]
    print(f"{PAIRS} pairs, {pack.bytes / 1e6:.0f} MB packed, pixels equal to the decoded ones; warm page cache.\n")
    print("| crop | way | pairs/s | time against theirs (upper 90%) | times as fast |\n|---|---|---|---|---|")
    missed = 0
    for crop, goal in GOALS.items():
        draw = np.random.default_rng(1)
        resident = np.ascontiguousarray(packed.read(0, "lq"))

        def sample(source: object, rotate: bool, crop: int = crop) -> Callable[[int], object]:
            order = EpochOrder({"all": PAIRS}, None, 10**6, 0)
            augment = Augment(crop, rotate=rotate, vflip=rotate)
            return TrainSet({"all": source}, order, augment, Captions({})).__getitem__  # type: ignore[dict-item]

        window = lambda number, crop=crop, draw=draw: [
            packed.crop(
                number, which, int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop)), crop, crop
            )
            for which in ("lq", "gt")
        ]
        base = "their way: decode, crop, turn, float32"
        methods = {
            base: repeated(lambda n, crop=crop, draw=draw: their_pair(pairs[n], crop, draw)),
            "Pillow: decode and crop": repeated(lambda n, crop=crop, draw=draw: pillow_pair(pairs[n], crop, draw)),
            "ours, from files: a whole sample, turned": repeated(sample(FilePairs(pairs), True)),
            "ours, packed: a whole sample, turned": repeated(sample(packed, True), PACKED),
            "ours, packed: a whole sample, flipped at most": repeated(sample(packed, False), PACKED),
            ALONE: repeated(window, PACKED),
            "bound: copy two crops of a picture in memory": repeated(
                lambda n, crop=crop, whole=resident: [whole[n : n + crop, n : n + crop].copy() for _ in range(2)],
                PACKED,
            ),
        }
        calls = alternate(methods, rounds, time.process_time)
        pairs_a_call = {name: PACKED if "packed" in name or "bound" in name else DECODED for name in calls}
        seconds = {name: [value / pairs_a_call[name] for value in values] for name, values in calls.items()}
        for name, values in seconds.items():
            relative = ratios(seconds, name, base)
            ratio, bound = median(relative), upper_bound(relative)
            print(f"| {crop} | {name} | {1 / median(values):,.0f} | {ratio:.5f} ({bound:.5f}) | {1 / ratio:,.1f} |")
            missed += goal is not None and name == ALONE and 1 / ratio < goal
    print()
    return missed


# Reading what is not in memory.


def forget(paths: list[Path]) -> None:
    """Have the system drop the files' pages."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(root: Path, pairs: list[Pair], rounds: int) -> None:
    """Time single pairs whose pages have been dropped; every read then goes to the disk."""
    packed = PackWriter({"train": FilePairs(pairs)}, root / "pack", "bench", root).run().source("train")
    os.sync()  # dirty pages cannot be dropped
    shards = sorted((root / "pack").glob("shard-*"))
    print("Not in memory (pages dropped before each read; this machine's disk, and what its host keeps of it):\n")
    print("| crop | way | ms a pair | read from disk, MB | times as fast as theirs |\n|---|---|---|---|---|")
    for crop in (128, 512):
        draw = np.random.default_rng(2)

        def slices(number: int, crop: int = crop, draw: np.random.Generator = draw) -> None:
            top, left = int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop))
            for which in ("lq", "gt"):
                packed.read(number, which)[top : top + crop, left : left + crop].copy()  # type: ignore[arg-type]

        def crops(number: int, crop: int = crop, draw: np.random.Generator = draw) -> None:
            top, left = int(draw.integers(0, HEIGHT - crop)), int(draw.integers(0, WIDTH - crop))
            for which in ("lq", "gt"):
                packed.crop(number, which, top, left, crop, crop)  # type: ignore[arg-type]

        ways: dict[str, tuple[Callable[[int], object], Callable[[int], list[Path]]]] = {
            "their way": (
                lambda n, crop=crop, draw=draw: their_pair(pairs[n], crop, draw),
                lambda n: [path for path in (pairs[n].lq, pairs[n].gt) if path is not None],
            ),
            "packed, a view cut": (slices, lambda n: shards),
            "packed, the crop asked for": (crops, lambda n: shards),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        read: dict[str, list[float]] = {name: [] for name in ways}
        numbers = endless(PAIRS)
        for turn in range(rounds):
            names = list(ways)
            for name in names[turn % 3 :] + names[: turn % 3]:
                number = next(numbers)
                call, files = ways[name]
                packed.pack._maps.clear()  # mapped pages are not dropped
                forget(files(number))
                before, start = from_disk(), time.perf_counter()
                call(number)
                times[name].append(time.perf_counter() - start)
                read[name].append((from_disk() - before) / 1e6)
        for name, values in times.items():
            gain = median(b / a for a, b in zip(values, times["their way"], strict=True))
            print(f"| {crop} | {name} | {median(values) * 1e3:.2f} | {median(read[name]):.2f} | {gain:.1f} |")
    print()


def from_disk() -> int:
    """Bytes that this process has caused to be read from storage."""
    with open("/proc/self/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


# Degrading.


def their_arithmetic(name: str, maps: dict[str, np.ndarray], rng: np.random.RandomState) -> np.ndarray:
    """Restates OneRestore's synthesis (peers.md 4) in float64, as its formulas and its way of reading have it.

    Args:
        name: degradation.
        maps: clear, depth, rain and snow (H, W, 3) and light (H, W), all float64 in [0, 1].
        rng: numpy's old generator, which they draw from.
    """
    picture = maps["clear"]
    if "low" in name:
        light = their_guided(maps["light"], cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_BGR2GRAY).astype(float))
        light = np.repeat(light[:, :, None], 3, axis=2) + 1e-7
        noise, gamma = rng.uniform(0.03, 0.08), rng.uniform(2, 3)
        picture = np.clip(picture / light * np.abs(light) ** gamma + rng.normal(0, noise, picture.shape), 0, 1)
    if "rain" in name:
        picture = picture + maps["rain"]
    if "snow" in name:
        picture = picture * (1 - maps["snow"]) + maps["snow"]
    if "haze" in name:
        distance = np.minimum(1 - cv2.blur(maps["depth"], (22, 22)), 0.7)
        transmission = np.exp(-distance * rng.uniform(1, 2))
        picture = np.clip(picture * transmission + rng.uniform(0.6, 0.9) * (1 - transmission), 0, 1)
    return picture


def their_guided(guide: np.ndarray, target: np.ndarray) -> np.ndarray:
    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (3, 3))

    mean_guide, mean_target = mean(guide), mean(target)
    slope = (mean(guide * target) - mean_guide * mean_target) / (mean(guide * guide) - mean_guide**2 + 0.01)
    return mean(slope) * guide + mean(mean_target - slope * mean_guide)


def their_read(files: dict[str, Path]) -> dict[str, np.ndarray]:
    """They read all five files whatever is to be made."""
    read = {kind: cv2.imread(str(path)) for kind, path in files.items()}
    light = cv2.cvtColor(read.pop("light"), cv2.COLOR_BGR2GRAY) / 255.0
    sized = {kind: cv2.resize(picture, (WIDTH, HEIGHT)) / 255.0 for kind, picture in read.items()}
    return {**sized, "light": light}


def synthesis(root: Path, rounds: int) -> int:
    files = write_sources(root)
    theirs = their_read(files)
    clear = np.ascontiguousarray(cv2.imread(str(files["clear"]))[..., ::-1])
    size = clear.shape[0], clear.shape[1]
    ours = {kind: read_map(files[kind], size) for kind in ("depth", "light", "rain", "snow")}
    rng = np.random.RandomState(0)
    made = root / "made"
    for degradation in ("clear", *DEGRADATIONS):
        (made / degradation).mkdir(parents=True)
    scene = Scene(
        "x", files["clear"], 0, made, files["depth"], files["light"], (files["rain"],) * 11, (files["snow"],) * 11
    )

    def their_picture(name: str) -> None:
        cv2.imwrite(str(root / "their.png"), their_arithmetic(name, their_read(files), rng) * 255)

    def our_picture(name: str) -> None:
        picture = np.ascontiguousarray(cv2.imread(str(files["clear"]))[..., ::-1])
        kinds = {
            "low": ("light", "illumination"),
            "rain": ("rain", "rain_mask"),
            "snow": ("snow", "snow_mask"),
            "haze": ("depth", "depth"),
        }
        needed = {key: read_map(files[kind], size) for part in name.split("_") for kind, key in (kinds[part],)}
        write_picture(root / "our.png", degrade(picture, name, 0, **needed).image)

    example = "low_haze_rain"
    comparisons = {
        f"{example}: arithmetic": (
            lambda: their_arithmetic(example, theirs, rng),
            lambda: degrade(clear, example, 0, ours["depth"], ours["light"], ours["rain"], ours["snow"]),
        ),
        f"{example}: with reading and writing": (lambda: their_picture(example), lambda: our_picture(example)),
        "a scene's eleven, with reading and writing": (
            lambda: [their_picture(name) for name in DEGRADATIONS],
            lambda: make_scene(scene),
        ),
    }
    goals = (f"{example}: arithmetic", "a scene's eleven, with reading and writing")  # the command makes scenes
    print(f"Degrading {WIDTH}x{HEIGHT}, maps and masks from files:\n")
    print("| what | theirs, ms | ours, ms | time against theirs (upper 90%) | times as fast |\n|---|---|---|---|---|")
    missed = 0
    for what, (their_way, our_way) in comparisons.items():
        seconds = alternate({"theirs": their_way, "ours": our_way}, rounds, time.process_time)
        relative = ratios(seconds, "ours", "theirs")
        ratio, bound = median(relative), upper_bound(relative)
        times = " | ".join(f"{median(seconds[name]) * 1e3:.0f}" for name in ("theirs", "ours"))
        print(f"| {what} | {times} | {ratio:.3f} ({bound:.3f}) | {1 / ratio:.1f} |")
        missed += what in goals and 1 / ratio < GOAL_SYNTHESIS
    print()
    return missed


def write_sources(root: Path) -> dict[str, Path]:
    """Write a clear picture, its maps and masks as OneRestore keeps them (JPEG maps and masks of three channels)."""
    clear = cv2.imread(str(root / "0_gt.png"))[..., ::-1]
    floats = clear.astype(np.float32) / 255
    maps = {
        "depth": estimate_depth(floats),
        "light": estimate_illumination(floats),
        "rain": rain_streaks(HEIGHT, WIDTH, np.random.default_rng(0)),
        "snow": snow_flakes(HEIGHT, WIDTH, np.random.default_rng(0)),
    }
    files = {"clear": root / "0_gt.png"}
    for kind, values in maps.items():
        files[kind] = root / f"{kind}.jpg"
        cv2.imwrite(str(files[kind]), np.repeat(np.rint(values * 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return files


if __name__ == "__main__":
    sys.exit(main())
