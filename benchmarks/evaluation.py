"""A test of a data set against the model's own time, and against restoring, saving and scoring one after the other.

Axis letters: H/W pixels.
"""

import logging
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.models import photograph
from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from datamodules.folder import FolderDataModule
from unildiff.core.pixels import to_uint8
from unildiff.data.batch import image_array
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.settings import EvaluationSettings


def write_images(root: Path, count: int, side: int) -> None:
    """Clear and noisy PNGs, as a test set has them on disk."""
    draw, clear = np.random.default_rng(0), photograph(side)
    for number in range(count):
        gt = np.roll(clear, 11 * number, axis=1)
        noisy = np.clip(gt + draw.normal(0, 25, gt.shape), 0, 255).astype(np.uint8)
        for kind, image in (("gt", gt), ("lq", noisy)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / kind / f"{number:03}.png"), image[..., ::-1])


def one_after_the_other(stage: DecoderFinetuneModule, data: FolderDataModule, folder: Path) -> None:
    """As MoCE-IR's test script does it: restore, score with scikit-image, save with Pillow."""
    folder.mkdir(exist_ok=True)
    for batch in data.test_dataloader():
        batch = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        restored = image_array(to_uint8(stage._restore(batch))[0])
        clean, result = image_array(batch["gt"][0]) / 255, restored / 255
        peak_signal_noise_ratio(clean, result, data_range=1.0)
        structural_similarity(clean, result, channel_axis=2, gaussian_weights=True, data_range=1.0)
        Image.fromarray(restored).save(folder / f"{batch['name'][0]}.png")


def rows(effort: Effort) -> list[Row]:
    count, side, steps = (2, 48, 1) if effort.small else (10, 256, 4)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silent:
        root = Path(folder)
        write_images(root, count, side)
        data = FolderDataModule(str(root), num_workers=0)
        settings = SamplingSettings(steps, guidance_scale=1.0)
        stage = DecoderFinetuneModule(
            init_from="tiny", sampling=settings, evaluation=EvaluationSettings(protocol="moceir", save_inputs=False)
        ).eval()
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **options)
        data.setup("test")
        batches = [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in data.test_dataloader()]

        def test() -> None:
            with redirect_stdout(silent), redirect_stderr(silent):
                trainer.test(stage, datamodule=data, verbose=False)

        def model_alone() -> None:
            for batch in batches:
                to_uint8(stage._restore(batch))

        with torch.inference_mode():
            seconds = alternate(
                {
                    "ours": test,
                    "peer": lambda: one_after_the_other(stage, data, root / "theirs"),
                    "limit": model_alone,
                },
                effort.rounds,
            )
    return [
        seconds_row(
            f"test of {count} images of {side}x{side}, {steps} steps: read, restored, saved, scored (PSNR, SSIM)", seconds,
            peer_way="one after the other, scikit-image's scores (MoCE-IR, restated)",
            limit_is="the model's own time, images in memory", goal=Goal(1.10, "limit"),
            remark="wall time, two cores: one for the model, one for the rest",
        )
    ]  # fmt: skip
