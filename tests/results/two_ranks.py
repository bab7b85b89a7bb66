"""What each of the two processes of test_metrics.py runs, and the one process they are compared with."""

import pickle

import cv2
import torch

from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.metrics.rows import gather_rows

IMAGES = 5
DEGRADATIONS = ["low", "low", "low", "haze", "low"]  # with two ranks, one has "haze" and the other has not


def image(index):
    generator = torch.Generator().manual_seed(index)
    gt = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=generator)
    noise = torch.randint(-index * 5, index * 5 + 1, gt.shape, generator=generator)  # image 0 is identical
    return (gt + noise).clamp(0, 255).to(torch.uint8), gt


def results(indices):
    """Return what one rank computes from its share of the images."""
    parts = DegradationMetrics("onerestore")
    rows = []
    for index in indices:
        restored, gt = image(index)
        parts.update(restored, gt, [DEGRADATIONS[index]])
        value = psnr(restored, gt, PROTOCOLS["onerestore"]).item()
        rows.append({"degradation": DEGRADATIONS[index], "name": str(index), "psnr": value})
    return {"parts": parts.compute(), "rows": gather_rows(rows)}


def run(rank, folder):
    """One of two processes: takes every second image, leaves what it found in `folder`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results(range(rank, IMAGES, 2))))
    torch.distributed.destroy_process_group()
