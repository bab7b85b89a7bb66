"""The images on which models are compared, and their scores; shared by the studies.

Axis letters: C latent channels, h/w latent height and width, H/W pixels.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from benchmarks.timing import one_thread
from datamodules.cdd11 import CDD11DataModule
from datamodules.deadleaves import DeadLeavesDataModule
from datamodules.photographs import PhotographsDataModule
from unildiff.core.model import UniLDiff
from unildiff.core.network import LQFeatures
from unildiff.core.pixels import to_unit
from unildiff.data.batch import RestorationSample
from unildiff.data.tools.samples import LONGEST, write_sample
from unildiff.degradations.cdd11 import DEGRADATIONS
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.rows import Row, Summary, summarise
from unildiff.results.evaluator import Evaluator
from unildiff.utils.parallel import progress
from unildiff.weights.load import check_sampling, load_restorer

Images = Literal["validation", "test"]
METRICS = ("psnr", "ssim", "gmsd")
Restored = dict[str, Tensor]
"""By row (``restored``, ``no_diffusion``, ...), one image (3, H, W) uint8."""


def held_out(which: Images, size: int = LONGEST, photographs: Path | None = None) -> list[RestorationSample]:
    """Return photographs under CDD-11's 11 degradations, with captions; the same in every call.

    Args:
        which: ``validation`` for those that choices may rest on, ``test`` for the five of `unildiff data sample
            cdd11`, written again and read back from their files.
        size: long side of the validation photographs in pixels, by default that of the test photographs.
        photographs: folder of further validation photographs beside the three that packages ship.
    """
    if which == "validation" and photographs is not None:
        more = PhotographsDataModule(
            val_root=str(photographs),
            val_size=size,
            val_degradations=list(DEGRADATIONS),
            captions_from_names=True,
            num_workers=0,
        ).test_set()
        return [cast(RestorationSample, more[index]) for index in range(len(more))]
    if which == "validation":
        data = DeadLeavesDataModule(val_size=size).val_set()
        return [cast(RestorationSample, data[index]) for index in range(len(data))]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cdd11"
        write_sample("cdd11", root)
        data = CDD11DataModule(str(root), num_workers=0).test_set()
        return [cast(RestorationSample, data[index]) for index in range(len(data))]


def score(
    samples: Sequence[RestorationSample],
    restore: Callable[[RestorationSample], Restored],
    what: str = "restoring",
    protocol: str = "onerestore",
) -> dict[str, Summary]:
    """Return the summaries of :func:`score_images`, by row the means by degradation and ``avg``."""
    return {row: summarise(rows) for row, rows in score_images(samples, restore, what, protocol).items()}


def score_images(
    samples: Sequence[RestorationSample],
    restore: Callable[[RestorationSample], Restored],
    what: str = "restoring",
    protocol: str = "onerestore",
) -> dict[str, list[Row]]:
    """Restore and score with the project's own scorer.

    Args:
        samples: from ``held_out``.
        restore: returns the same rows for each sample.
        what: shown beside the progress bar.
        protocol: of ``unildiff.metrics.protocols``.

    Returns:
        by row, ``input`` (the degraded image) first, the scores of every image.
    """
    evaluators: dict[str, Evaluator] = {}
    for sample in progress(samples, len(samples), what):
        for row, image in {"input": sample["lq"], **restore(sample)}.items():
            evaluator = evaluators.setdefault(row, Evaluator(protocol, METRICS))
            evaluator.add(sample["name"], sample["degradation"], image, sample["gt"])
    return {row: evaluator.rows() for row, evaluator in evaluators.items()}


def positive(text: str) -> int:
    """Return an option's value as an integer of at least 1; argparse reports other values."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}; give at least 1")
    return number


def add_options(made: argparse.ArgumentParser, steps: int | Sequence[int]) -> None:
    """Add the options of every study that restores these images; by default so many steps, or each of several."""
    made.add_argument("--model", default="tiny", help="tiny, an exported folder, or a checkpoint")
    made.add_argument("--steps", type=positive, default=steps, nargs=None if isinstance(steps, int) else "+")
    made.add_argument("--threads", type=positive, default=1)
    made.add_argument("--every", type=positive, default=1, help="only every n-th image, for a quick trial")


def add_images(made: argparse.ArgumentParser) -> None:
    """Add the choice between the sets of ``held_out``."""
    made.add_argument("--images", choices=get_args(Images), default="validation")


def opened(options: argparse.Namespace) -> UniLDiff:
    """Return the model that the options name, on as many threads as they give.

    Raises:
        UserError: it cannot be loaded, or has no so many steps.
    """
    one_thread()
    torch.set_num_threads(options.threads)
    model = load_restorer(options.model)
    for steps in [options.steps] if isinstance(options.steps, int) else options.steps:
        check_sampling(model, SamplingSettings(steps), "steps")
    return model


def latents_of(
    model: UniLDiff,
    sample: RestorationSample,
    settings: SamplingSettings,
    caption: str | None = None,
    diffusion: bool = True,
) -> tuple[LQFeatures, Tensor]:
    """Return a sample's features and its restored latents (1, C, h, w), under its own caption or another.

    Without ``diffusion`` the latents are the LQ image's.
    """
    features = model.encode_lq(model.pad(degraded(sample)))
    if not diffusion:
        return features, features.latents
    captions = [sample["caption"] if caption is None else caption]
    return features, model.sample_latents(features, captions, [sample["key"]], settings)


def degraded(sample: RestorationSample) -> Tensor:
    """Return the sample's input as (1, 3, H, W) in [-1, 1]."""
    return to_unit(sample["lq"][None])


def number(summary: Summary, metric: str, degradation: str = "avg") -> float:
    """Return a mean of a summary; nan if it is missing."""
    value = summary[degradation][metric]
    return float("nan") if value is None else value


def table_line(name: str, cells: Sequence[str]) -> str:
    """Return a line of a table with a column a degradation."""
    return f"{name:26}" + "".join(f"{cell[:13]:>14}" for cell in cells)
