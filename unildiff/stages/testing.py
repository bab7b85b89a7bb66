"""One test run: 8-bit images saved and scored while the next one is restored, then scores, provenance and means.

Axis letters: H/W pixels.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unildiff.data.batch import RestorationBatch, image_array
from unildiff.data.images import write_png
from unildiff.metrics.names import metric_info, metric_settings
from unildiff.metrics.protocols import chosen_protocol
from unildiff.metrics.rows import Row, gather_rows, summarise, write_csv
from unildiff.results.blindness import told_degradations
from unildiff.results.evaluator import Evaluator
from unildiff.stages.settings import ComparisonRow, EvaluationSettings
from unildiff.utils.errors import UserError
from unildiff.utils.files import png_names

COMPARISON_LABELS: dict[ComparisonRow, str] = {
    "round_trip": "VAE round trip of the ground truth",
    "no_diffusion": "LQ latent, no diffusion",
    "after_joint": "after joint (plain decoder)",
}


class TestRun:
    """Collects the images of one test run and writes its folder.

    Args:
        folder: folder of the test run, for ``scores.csv``, ``run.json`` and images.
        settings: how to score.
        protocol: protocol of the dataset, used where the settings name none.
        device: device that restores; time and memory are measured on it.

    Attributes:
        notes: after ``finish``, the notes to print below the table.

    Raises:
        UserError: the protocol or a metric is unknown, or a metric describes a whole set instead of single images.
    """

    __test__ = False  # the name would make pytest collect it

    def __init__(
        self, folder: Path, settings: EvaluationSettings, protocol: str, device: torch.device | None = None
    ) -> None:
        self.folder, self.settings = folder, settings
        self._on_gpu = device is not None and device.type == "cuda"
        self.protocol = chosen_protocol(settings.protocol, protocol)
        main = Evaluator(self.protocol, settings.metrics, folder / "restored")
        self.evaluators: dict[str, Evaluator] = {"restored": main}
        for output in settings.stages:
            self.evaluators[output] = Evaluator(self.protocol, settings.metrics, folder / output)
        self.seconds: list[float] = []
        self.notes: list[str] = []
        self._captions: list[Row] = []
        self._writer = ThreadPoolExecutor(1)
        self._written: list[Future[None]] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the restoration of one image."""
        start = time.perf_counter()
        yield
        if self._on_gpu:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)

    def add(self, batch: RestorationBatch, images: dict[str, Tensor]) -> None:
        """Add one test batch.

        Args:
            batch: inputs, ground truth, names and captions.
            images: uint8 (B, 3, H, W) for ``restored`` and for each comparison row.
        """
        for index, (name, degradation) in enumerate(zip(batch["name"], batch["degradation"], strict=True)):
            gt, lq = batch["gt"][index], batch["lq"][index]
            self._captions.append({"degradation": degradation, "name": name, "caption": batch["caption"][index]})
            for output, evaluator in self.evaluators.items():
                evaluator.add(name, degradation, images[output][index], gt, lq)
            if self.settings.save_inputs:
                for kind, image in (("input", lq), ("truth", gt)):
                    path = self.folder / kind / degradation / f"{name}.png"
                    self._written.append(self._writer.submit(write_png, path, image_array(image)))

    def finish(self, about: dict[str, Any]) -> list[Row]:
        """Wait for all images, gather the rows of all ranks, write the folder.

        Args:
            about: provenance for run.json; ``count`` holds the number of images per degradation in the dataset, ``blind``
                whether the dataset does not tell the model the degradation.

        Returns:
            one row per image, on every rank.

        Raises:
            UserError: the number of scored images is not that of the dataset.
        """
        for written in self._written:
            written.result()
        rows = {output: gather_rows(evaluator.rows()) for output, evaluator in self.evaluators.items()}
        scored = {
            name: int(values["count"] or 0) for name, values in summarise(rows["restored"]).items() if name != "avg"
        }
        if scored != about["count"]:
            raise UserError(f"test: scored {scored}, but the dataset has {about['count']}; no table is written")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        if self._on_gpu:
            peak = torch.cuda.max_memory_allocated() / 2**20
        self.notes, told = self._notes()
        captions = [str(row["caption"]) for row in gather_rows(self._captions)]
        share = sum(map(bool, captions)) / max(1, len(captions))
        guidance = about.get("guidance_scale", 1.0)
        if share < 1 and guidance != 1:
            self.notes.append(
                f"{share:.0%} of the images have a caption; guidance {guidance:g} had an effect on these only."
                if share
                else f"No image has a caption, so guidance {guidance:g} had no effect (effective guidance 1)."
            )
        about |= {
            "protocol": self.protocol,
            "blind": about["blind"] and not told,
            "notes": self.notes,
            "metric_settings": metric_settings(self.settings.metrics),
            "captioned_share": share,
            "effective_guidance": guidance if share and about.get("uses_text", True) else 1.0,
            "time_per_picture_s": sum(self.seconds) / max(1, len(self.seconds)),
            "peak_memory_mib": peak,
            "stages": [
                {"label": COMPARISON_LABELS[output], "scores": f"scores_{output}.csv"}
                | ({"reference": True} if output == "round_trip" else {})
                for output in self.settings.stages
            ],
        }
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            for output, values in rows.items():
                write_csv(values, self.folder / ("scores.csv" if output == "restored" else f"scores_{output}.csv"))
            (self.folder / "run.json").write_text(json.dumps(about, indent=2) + "\n")
        return rows["restored"]

    def _notes(self) -> tuple[list[str], bool]:
        """Return the notes for the table, and whether the model was told the degradation; every rank must call this."""
        unavailable = self.evaluators["restored"].unavailable
        notes = [f"{metric_info(name).title} is left empty: {reason}." for name, reason in unavailable.items()]
        if self.settings.told:
            notes.append("The model was told the degradation (--model.evaluation.told).")
        captions = [(str(row["degradation"]), str(row["caption"])) for row in gather_rows(self._captions)]
        found = told_degradations(captions)
        if found:
            listed = ", ".join(f"{name} (in {told} of {total})" for name, (told, total) in found.items())
            notes.append(f"The model was told the degradation: captions name it, {listed}.")
        return notes, self.settings.told or bool(found)


class Predictions:
    """Restored images without ground truth, written while the next one is restored.

    Args:
        folder: folder to write them to.
        names: names of all images to restore, including those of other ranks; they decide the name of each PNG. An image
            that is not among them is named as if it were alone.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._targets = dict(zip(names, png_names(names), strict=True))
        self._writer = ThreadPoolExecutor(1)
        self._written: list[Future[None]] = []

    def write(self, name: str, image: Tensor) -> None:
        """Write an image (3, H, W) uint8 under the name that `unildiff restore` would use."""
        path = self.folder / (self._targets.get(name) or png_names([name])[0])
        self._written.append(self._writer.submit(write_png, path, image_array(image)))

    def finish(self) -> int:
        """Wait for all files and return their number."""
        for written in self._written:
            written.result()
        return len(self._written)


def free_folder(folder: Path) -> Path:
    """Return ``folder``, or ``folder-2``, ``folder-3``, ... if it exists: a test never overwrites another one."""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def means_text(rows: Sequence[Row]) -> str:
    """Return a small table with one line per degradation: PSNR and SSIM of input and output, and the number of images."""
    lines = [f"{'':16}{'input PSNR':>11}{'PSNR':>8}{'input SSIM':>12}{'SSIM':>8}{'images':>10}"]
    for name, values in summarise(rows).items():
        cells = [values.get(key) for key in ("input_psnr", "psnr", "input_ssim", "ssim")]
        numbers = [float("nan") if cell is None else cell for cell in cells]
        lines.append(
            f"{name:16}{numbers[0]:11.2f}{numbers[1]:8.2f}{numbers[2]:12.4f}{numbers[3]:8.4f}{int(values['count'] or 0):10d}"
        )
    return "\n".join(lines)
