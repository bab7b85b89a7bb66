"""Making CDD-11's degradations against OneRestore's script, on one core.

The peer's method is restated from its description, not run. Goal: at least 3 times faster.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.data import HEIGHT, WIDTH, write_pairs
from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from unildiff.data.png import encode_png
from unildiff.data.tools.synthesize import Scene, make_scene, read_map
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.maps import estimate_depth, estimate_illumination
from unildiff.degradations.masks import rain_streaks, snow_flakes
from unildiff.degradations.names import DEGRADATIONS

FASTER = 3
EXAMPLE = "low_haze_rain"


def their_arithmetic(name: str, maps: dict[str, np.ndarray], rng: np.random.RandomState) -> np.ndarray:
    """Restates OneRestore's synthesis in float64, as its formulas and its way of reading have it.

    Args:
        name: degradation.
        maps: clear, depth, rain and snow (H, W, 3) and light (H, W), all float64 in [0, 1].
        rng: numpy's old generator, which they draw from.
    """
    image = maps["clear"]
    if "low" in name:
        light = their_guided(maps["light"], cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2GRAY).astype(float))
        light = np.repeat(light[:, :, None], 3, axis=2) + 1e-7
        noise, gamma = rng.uniform(0.03, 0.08), rng.uniform(2, 3)
        image = np.clip(image / light * np.abs(light) ** gamma + rng.normal(0, noise, image.shape), 0, 1)
    if "rain" in name:
        image = image + maps["rain"]
    if "snow" in name:
        image = image * (1 - maps["snow"]) + maps["snow"]
    if "haze" in name:
        distance = np.minimum(1 - cv2.blur(maps["depth"], (22, 22)), 0.7)
        transmission = np.exp(-distance * rng.uniform(1, 2))
        image = np.clip(image * transmission + rng.uniform(0.6, 0.9) * (1 - transmission), 0, 1)
    return image


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
    sized = {kind: cv2.resize(image, (WIDTH, HEIGHT)) / 255.0 for kind, image in read.items()}
    return {**sized, "light": light}


def rows(effort: Effort) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return synthesis(Path(folder), effort)


def synthesis(root: Path, effort: Effort) -> list[Row]:
    write_pairs(root, 1)
    files = write_sources(root)
    theirs = their_read(files)
    clear = np.ascontiguousarray(cv2.imread(str(files["clear"]))[..., ::-1])
    size = clear.shape[0], clear.shape[1]
    ours = {kind: read_map(files[kind], size) for kind in ("depth", "light", "rain", "snow")}
    rng = np.random.RandomState(0)
    made = root / "made"
    for degradation in ("clear", *DEGRADATIONS):
        (made / degradation).mkdir(parents=True)
    rain, snow = (files["rain"],) * 11, (files["snow"],) * 11
    scene = Scene("x", files["clear"], 0, made, files["depth"], files["light"], rain, snow, "onerestore")
    results = [
        degrade(clear, name, 0, ours["depth"], ours["light"], ours["rain"], ours["snow"]).image for name in DEGRADATIONS
    ]

    def their_image(name: str) -> None:
        cv2.imwrite(str(root / "their.png"), their_arithmetic(name, their_read(files), rng) * 255)

    def files_alone() -> None:
        cv2.imread(str(files["clear"]))
        for kind in ("depth", "light", "rain", "snow"):
            read_map(files[kind], size)
        for image in results:
            (root / "our.png").write_bytes(encode_png(image))

    def passes() -> None:
        for _ in range(2 * len(EXAMPLE.split("_"))):  # each operator reads an image and writes one
            np.copyto(np.empty_like(ours_float), ours_float)

    ours_float = clear.astype(np.float32)
    work: dict[str, tuple[dict[str, Callable[[], object]], str]] = {
        f"{EXAMPLE}, arithmetic": (
            {
                "ours": lambda: degrade(clear, EXAMPLE, 0, ours["depth"], ours["light"], ours["rain"], ours["snow"]),
                "peer": lambda: their_arithmetic(EXAMPLE, theirs, rng),
                "limit": passes,
            },
            "six float32 images copied in memory",
        ),
        "a scene's eleven, with reading and writing": (
            {
                "ours": lambda: make_scene(scene),
                "peer": lambda: [their_image(name) for name in DEGRADATIONS],
                "limit": files_alone,
            },
            "the files read and written, nothing degraded",
        ),
    }
    return [
        seconds_row(
            f"degrading {WIDTH}x{HEIGHT}: {what}", alternate(ways, effort.rounds, time.process_time),
            peer_way="OneRestore's script, restated", limit_is=limit, goal=Goal(1 / FASTER, "peer"),
        )
        for what, (ways, limit) in work.items()
    ]  # fmt: skip


def write_sources(root: Path) -> dict[str, Path]:
    """Write a clear image, its maps and masks as OneRestore keeps them (JPEG maps and masks of three channels)."""
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
