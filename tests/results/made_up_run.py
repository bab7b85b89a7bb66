"""A made-up scored run in a folder, with images and curves, for the tests of tables, figures and the report."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

CDD11 = ("low", "haze", "rain", "snow", "low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow", "low_haze_rain", "low_haze_snow")  # fmt: skip
NAMES = ("astronaut", "coffee", "rocket")
COLUMNS = ("degradation", "name", "psnr", "ssim", "input_psnr", "input_ssim")


def made_up_rows(degradations=CDD11, names=NAMES, gain=4.0, seed=0):
    """Rows whose input PSNR is 14 + index of the degradation and whose result is ``gain`` dB above it on average."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, degradation in enumerate(degradations):
        for name in names:
            noise = float(rng.normal(0, 0.3))
            rows.append(
                {
                    "degradation": degradation,
                    "name": name,
                    "psnr": 14.0 + index + gain + noise,
                    "ssim": 0.7 + 0.02 * index + 0.01 * noise,
                    "input_psnr": 14.0 + index,
                    "input_ssim": 0.5 + 0.02 * index,
                }
            )
    return rows


def made_up_info(rows, **changes):
    """A run.json for ``rows``."""
    info = {
        "model": "made-up",
        "data": "cdd11",
        "data_kind": "sample",
        "count": len(rows),
        "protocol": "onerestore",
        "seed": 1,
        "steps": 20,
        "guidance_scale": 5.0,
        "time_per_picture_s": 1.25,
        "peak_memory_mib": 812.4,
        "blind": True,
        "command": "unildiff test --data cdd11",
        "commit": "0123abc",
        "versions": {"torch": "2.14.1", "python": "3.11"},
    }
    return info | changes


def write_scores(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_run(folder: Path, rows=None, stages=(), **changes):
    """Write ``scores.csv``, ``run.json`` and one CSV a stage ((label, rows, reference))."""
    rows = rows or made_up_rows()
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / "scores.csv", rows)
    entries = []
    for index, (label, stage_rows, reference) in enumerate(stages):
        write_scores(folder / f"stage{index}.csv", stage_rows)
        entries.append({"label": label, "scores": f"stage{index}.csv", "reference": reference})
    (folder / "run.json").write_text(json.dumps(made_up_info(rows, stages=entries, **changes)))
    return folder


def write_images(folder: Path, rows, size=(48, 64)):
    """Write input, restored and truth of each row: a ramp with a bright square, the input darker, the result between."""
    height, width = size
    for index, row in enumerate(rows):
        truth = np.zeros((height, width, 3), np.uint8)
        truth[..., 0] = np.linspace(30, 220, width, dtype=np.uint8)
        truth[..., 1] = np.linspace(40, 200, height, dtype=np.uint8)[:, None]
        left = 8 + 3 * (index % 10)
        truth[12:28, left : left + 16] = (240, 200, 60)
        for kind, strength in (("input", 0.35), ("restored", 0.85)):
            path = folder / kind / row["degradation"] / f"{row['name']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((truth * strength).astype(np.uint8)).save(path)
        path = folder / "truth" / row["degradation"] / f"{row['name']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth).save(path)
