"""What each of the two processes of test_metrics.py runs, and the one process they are compared with."""

import pickle

import cv2
import torch

from unildiff.metrics.by_degradation import DegradationMetrics
from unildiff.metrics.torch_metrics import PSNR, SSIM
from unildiff.results.rows import gather_rows

PICTURES = 5
DEGRADATIONS = ["low", "low", "low", "haze", "low"]  # with two ranks, one has "haze" and the other has not


def picture(index):
    generator = torch.Generator().manual_seed(index)
    gt = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=generator)
    noise = torch.randint(-index * 5, index * 5 + 1, gt.shape, generator=generator)  # picture 0 is identical
    return (gt + noise).clamp(0, 255).to(torch.uint8), gt


def results(indices):
    """Everything that a rank can say after its share of the pictures."""
    psnr, ssim, parts = PSNR("onerestore"), SSIM("onerestore"), DegradationMetrics("onerestore")
    rows = []
    for index in indices:
        restored, gt = picture(index)
        psnr.update(restored, gt)
        ssim.update(restored, gt)
        parts.update(restored, gt, [DEGRADATIONS[index]])
        value = psnr.per_picture(restored, gt).item()
        rows.append({"degradation": DEGRADATIONS[index], "name": str(index), "psnr": value})
    found = {"psnr": psnr.compute().item(), "ssim": ssim.compute().item(), "parts": parts.compute()}
    with psnr.sync_context():
        found["counts"] = [psnr.count.item(), psnr.scored.item(), psnr.identical.item()]
    found["rows"] = gather_rows(rows)
    return found


def run(rank, folder):
    """One of two processes: takes every second picture, leaves what it found in `folder`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results(range(rank, PICTURES, 2))))
    torch.distributed.destroy_process_group()
