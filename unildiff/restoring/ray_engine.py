"""Restoring on a Ray cluster: actors that keep the model, and small blocks of images that any of them can repeat.

Every actor writes a manifest of its own beside the results. Ray restarts an actor that died and gives it its block again;
it skips what the manifests already have. Results do not depend on who made them.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import ray
import torch
from ray.util import ActorPool

from unildiff.restoring.jobs import Job
from unildiff.restoring.load import load
from unildiff.restoring.manifest import Done, Manifest, read_entries
from unildiff.restoring.progress import BatchProgress
from unildiff.restoring.recipe import Recipe
from unildiff.restoring.run import Outcome, run

_BLOCK = 4  # images that are lost and repeated when an actor dies (our choice)


class RestoringActor:
    """One process with a model.

    Args:
        recipe: settings of the run.
        folder: folder of the results.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._restorer, self._folder = load(recipe), folder
        self._manifest = Manifest(folder, f"ray-{os.getpid()}-{uuid4().hex[:8]}")

    def restore(self, jobs: list[Job]) -> list[str]:
        """Restore a block and return what failed, one line each."""
        done, recipe = Done(self._folder), self._restorer.recipe
        waiting = [job for job in jobs if not done.is_done(job, recipe.settings(job))]
        return run(waiting, self._restorer, self._manifest).failed


def run_with_ray(jobs: Sequence[Job], recipe: Recipe, folder: Path) -> Outcome:
    """Restore images on the cluster that ``RAY_ADDRESS`` names, or on this machine.

    Images and results must be on a disk that every node sees.

    Raises:
        UserError: a result cannot be written.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if torch.cuda.is_available() else 0
    folder = folder.absolute()
    there = [replace(job, source=job.source.absolute(), target=job.target.absolute()) for job in jobs]
    blocks = [there[first : first + _BLOCK] for first in range(0, len(there), _BLOCK)]
    count = min(len(blocks), gpus or int(resources.get("CPU", 1)))
    made = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1, num_gpus=1 if gpus else 0)(RestoringActor)
    pool = ActorPool([made.remote(recipe, folder) for _ in range(count)])
    failed: list[str] = []
    with BatchProgress(len(there), "Restoring with Ray") as progress:
        for lines in pool.map_unordered(lambda actor, block: actor.restore.remote(block), blocks):
            failed += lines
            progress.finished(_BLOCK)
    names = {job.target.relative_to(folder).as_posix() for job in there}
    entries = [entry for name, entry in read_entries(folder).items() if name in names]
    warnings = [f"{entry['input']}: {line}" for entry in entries for line in entry.get("warnings", [])]
    return Outcome(len(there) - len(failed), failed, warnings)
