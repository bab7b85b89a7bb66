"""How time and memory grow: with the image's size, the number of names, the number of experts, of processes.

Sizes and counts are measured in a process each, so that the peaks are their own: `python -m benchmarks.growth KIND N`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.memory import peak_growth, watch
from benchmarks.table import Goal, Row
from benchmarks.timing import Effort, alternate, one_thread

SIZES = (256, 512, 1024, 2048, 4096)
TILE = 512
NAMES = (1_000, 10_000, 100_000)
EXPERTS = (2, 4, 8, 16)


def rows(effort: Effort) -> list[Row]:
    sizes, names, experts = (32, 64), (10, 100), (2, 4)
    if not effort.small:
        sizes, names, experts = SIZES, NAMES, EXPERTS
    return [*restoring(sizes), listing(names), routed(experts, effort), processes(effort)]


def apart(kind: str, number: int) -> tuple[float, float]:
    """Seconds and MiB that a process of its own measured."""
    command = [sys.executable, "-m", "benchmarks.growth", kind, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)


# Size of the image.


def restoring(sizes: tuple[int, ...]) -> list[Row]:
    """One image in tiles, one step: memory is flat beyond one tile but for the image itself, time linear in pixels."""
    found = [apart("image", side) for side in sizes]
    seconds, memory = [list(map(float, values)) for values in zip(*found, strict=True)]
    curve = {"x": [float(side) for side in sizes], "seconds": seconds, "MiB": memory}
    tiled = max(2, sizes.index(1024) if 1024 in sizes else 0) if len(sizes) > 2 else 0
    per_pixel = [value / side**2 for value, side in zip(seconds, sizes, strict=True)]
    bytes_a_pixel = (memory[-1] - memory[tiled]) * 2**20 / max(1, sizes[-1] ** 2 - sizes[tiled] ** 2)
    last, first = sizes[-1], sizes[tiled]
    return [
        Row(
            f"restoring {last}x{last} in tiles of {TILE}: time per pixel", [per_pixel[-1]], limit=[per_pixel[tiled]],
            limit_is=f"that of {first}x{first}, tiled too", curve=curve, remark="seconds per pixel; one step",
        ),
        Row(
            f"restoring {last}x{last} in tiles of {TILE}: peak memory", [memory[-1]], limit=[memory[tiled]], unit="MiB",
            limit_is=f"that of {first}x{first}, {(last / first) ** 2:g} times smaller",
            remark=f"{bytes_a_pixel:.0f} bytes more per pixel: image, latents and sums of tiles",
        ),
    ]  # fmt: skip


def measure_image(side: int) -> tuple[float, float]:
    from benchmarks.models import lq_image, tiny_model
    from unildiff.diffusion.sampler import SamplingSettings

    model, lq = tiny_model(), lq_image(side)
    settings = SamplingSettings(1, guidance_scale=1.0, tile_size=TILE)
    times: list[float] = []

    def restore() -> None:
        start = time.process_time()
        with torch.inference_mode():
            model.restore(lq, [""], [0], settings)
        times.append(time.process_time() - start)

    model.restore(lq[..., :64, :64], [""], [0], settings)
    memory = peak_growth(restore)
    return times[-1], memory


# Number of names.


def listing(names: tuple[int, ...]) -> Row:
    """Listing and pairing that many files by name, each header read: time and memory a name stay what they are."""
    found = [apart("names", count) for count in names]
    seconds, memory = [list(map(float, values)) for values in zip(*found, strict=True)]
    first, last = names[0], names[-1]
    return Row(
        f"listing, pairing and checking {last:,} names: time per name", [seconds[-1] / last], limit=[seconds[-2] / names[-2]],
        limit_is=f"that of {names[-2]:,} names", goal=Goal(1.5, "limit"),
        curve={"x": [float(count) for count in names], "seconds": seconds, "MiB": memory},
        remark=f"{seconds[-1]:.2f} s and {memory[-1]:.0f} MiB in all (from {seconds[0]:.3f} s for {first:,})",
    )  # fmt: skip


def measure_names(count: int) -> tuple[float, float]:
    import cv2
    import numpy as np

    from datamodules.folder import FolderDataModule

    png = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("lq", "gt"):
            (Path(folder) / kind).mkdir()
            for number in range(count):
                (Path(folder) / kind / f"{number:06}.png").write_bytes(png)
        data = FolderDataModule(folder, num_workers=0)
        times: list[float] = []

        def pair() -> None:
            start = time.process_time()
            assert len(data.find("test")) == count
            times.append(time.process_time() - start)

        memory = peak_growth(pair)
        return times[-1], memory


# Number of experts.


def routed(experts: tuple[int, ...], effort: Effort) -> Row:
    """Top-1 routing of the same images by more experts: the same work, dealt out to more."""
    from benchmarks import routing

    gradient = torch.randn(routing.IMAGES, routing.CHANNELS, *[16 if effort.small else routing.SIDE] * 2)

    def step(count: int) -> object:
        images, features, router, modules = routing.setting(gradient.shape[2], count)
        images.requires_grad_()

        def call() -> None:
            routing.ours(images, features, router, modules).backward(gradient)  # type: ignore[no-untyped-call]

        return call

    seconds = alternate({str(count): step(count) for count in experts}, effort.rounds, time.process_time)  # type: ignore[dict-item, misc]
    middle = [sorted(values)[len(values) // 2] for values in seconds.values()]
    first, last = str(experts[0]), str(experts[-1])
    return Row(
        f"routing, forward and backward, top-1 of {last} experts", seconds[last], limit=seconds[first],
        limit_is=f"top-1 of {first} experts", goal=Goal(1.15, "limit"),
        curve={"x": [float(count) for count in experts], "seconds": middle},
    )  # fmt: skip


# Number of processes.


def processes(effort: Effort) -> Row:
    """Scoring the same images with one worker and with two: at best half the time."""
    from benchmarks.evaluation import write_images

    count, side = (2, 64) if effort.small else (120, 512)
    wall = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), count, side)
        for workers in (1, 2):
            start = time.perf_counter()
            command = [sys.executable, "-m", "unildiff", "score", f"{folder}/lq", f"{folder}/gt"]
            peak, _ = watch([*command, "--workers", str(workers)])
            wall.append((time.perf_counter() - start, peak))
    (one, memory), (two, more) = wall
    return Row(
        f"unildiff score, {count} images of {side}x{side}, two workers", [two], limit=[one / 2],
        limit_is="half of one worker's time", remark=f"start included; {memory:.0f} MiB with one, {more:.0f} with two",
        curve={"x": [1.0, 2.0], "seconds": [one, two], "MiB": [memory, more]},
    )  # fmt: skip


if __name__ == "__main__":
    one_thread()
    kind, number = sys.argv[1], int(sys.argv[2])
    seconds, memory = {"image": measure_image, "names": measure_names}[kind](number)
    print(seconds, memory)
