"""Restoring on a Ray cluster: actors keep the model and take small blocks of images; any actor can repeat a block.

Every actor writes a manifest of its own beside the results. Ray Data keeps a pool of actors, restarts one that died and gives it
its block again, and adds actors as the cluster grows. Which actor restores an image does not change the result.
"""

import logging
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from unildiff.restoring.jobs import Job
from unildiff.restoring.load import load, recipe
from unildiff.restoring.manifest import Done, Manifest, read_entries
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.progress import BatchProgress
from unildiff.restoring.recipe import Recipe
from unildiff.restoring.run import Outcome, Restorer, run
from unildiff.utils.errors import UserError

_BLOCK = 4  # images that are lost and repeated when an actor dies (our choice)
_MOST = 1000  # actors at once (our choice)
_TASKS = 10_000  # of Ray Data; a million images are 25 blocks a task (our choice)
_MAX_PIXELS = "UNILDIFF_MAX_PIXELS"


class RestoringActor:
    """One process with a model.

    Args:
        options: settings of the run.
        caption_of: content caption of a file.
        folder: folder of the results.
        skip: whether images that the manifests call done when the actor starts, or starts again, are left out.
        max_pixels: largest image, None for the default.
    """

    def __init__(
        self,
        options: RestoreOptions,
        caption_of: Callable[[Path], str],
        folder: Path,
        skip: bool,
        max_pixels: str | None = None,
    ) -> None:
        if max_pixels is not None:
            os.environ[_MAX_PIXELS] = max_pixels
        self._options, self._caption_of = options, caption_of
        self._done = Done(folder) if skip else None
        self._manifest = Manifest(folder, f"ray-{os.getpid()}-{uuid4().hex[:8]}")
        self._recipe: Recipe | None = None  # made by the first block, whose errors reach the driver whole
        self._restorer: Restorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Restore the block of a batch of one row, as Ray Data passes it."""
        return {"made": [pickle.dumps(self.restore(pickle.loads(block))) for block in batch["jobs"]]}

    def restore(self, jobs: list[Job]) -> tuple[int, int, list[str]]:
        """Restore a block; return its number of images, how many were done before, and what failed, one line each."""
        made = self._recipe = self._recipe or recipe(self._options, self._caption_of)
        done = self._done
        waiting = [job for job in jobs if done is None or not done.is_done(job, made.settings(job))]
        if not waiting:
            return len(jobs), len(jobs), []
        self._restorer = self._restorer or load(made)
        return len(jobs), len(jobs) - len(waiting), run(waiting, self._restorer, self._manifest).failed


def worker_device(device: str) -> str:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one here; return the device of its workers.

    Raises:
        UserError: the device is cuda and the cluster has no GPU.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # an actor that restarts is not the user's concern
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise UserError("device: the Ray cluster has no GPU; leave --device out, or start Ray with GPUs")
    return "cuda" if device == "auto" and gpus else device


def run_with_ray(
    jobs: Sequence[Job], options: RestoreOptions, caption_of: Callable[[Path], str], folder: Path, skip: bool
) -> tuple[Outcome, int]:
    """Restore images on the cluster of ``worker_device``; return what became of them and how many were done before.

    Images, results and the model must be on a disk that every node sees. This process needs no GPU: what is done is decided by
    the workers, whose device chooses the type of the weights.

    Args:
        jobs: what to restore.
        options: settings of the run, with the workers' device.
        caption_of: content caption of a file.
        folder: folder of the results.
        skip: whether what the manifests call done is left out.

    Raises:
        UserError: a worker failed, e.g. because a result cannot be written.
    """
    folder = folder.absolute()
    if options.model != "tiny":
        options = replace(options, model=str(Path(options.model).absolute()))
    there = [replace(job, source=job.source.absolute(), target=job.target.absolute()) for job in jobs]
    blocks = [there[first : first + _BLOCK] for first in range(0, len(there), _BLOCK)]
    settings = (options, caption_of, folder, skip, os.environ.get(_MAX_PIXELS))
    quiet_data()
    rows = [{"jobs": pickle.dumps(block)} for block in blocks]
    made = ray.data.from_items(rows, override_num_blocks=max(1, min(len(rows), _TASKS))).map_batches(
        RestoringActor,
        fn_constructor_args=settings,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=max(1, min(len(rows), _MOST)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=1,
        num_gpus=int(options.device == "cuda"),
        max_restarts=-1,
        max_task_retries=-1,
    )
    failed: list[str] = []
    skipped = 0
    with BatchProgress(len(there), "Restoring with Ray") as progress:
        try:
            for row in made.iter_rows():
                finished, before, lines = pickle.loads(row["made"])
                failed += lines
                skipped += before
                progress.finished(finished)
        except RayError as error:
            raise _in_one_line(error) from None
    names = {job.target.relative_to(folder).as_posix() for job in there}
    entries = [entry for name, entry in read_entries(folder).items() if name in names]
    warnings = [f"{entry['input']}: {line}" for entry in entries for line in entry.get("warnings", [])]
    return Outcome(len(there) - skipped - len(failed), failed, warnings), skipped


def quiet_data() -> None:
    """Keep Ray Data's bars and logs from the terminal; the progress of the run is shown instead."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _in_one_line(error: RayError) -> UserError:
    """Return a worker's error without the traceback that Ray puts into its text."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, UserError):
        return cause
    lines = str(cause).strip().splitlines() or [""]
    return UserError(f"engine: a Ray worker failed: {type(cause).__name__}: {lines[0]}")
