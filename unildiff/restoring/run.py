"""Restore the images of a job list: reading, the model and writing side by side, every result in the manifest.

Axis letters: B images of one pass, H/W pixels.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, groupby, islice
from os import fstat
from pathlib import Path

import torch

from unildiff import __version__
from unildiff.core.model import UniLDiff
from unildiff.data.images import LoadedImage, load_image
from unildiff.data.images.writer import encode_restored
from unildiff.data.walk import shown
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.restoring.checks import CheckedImage, check_and_correct
from unildiff.restoring.jobs import Job
from unildiff.restoring.manifest import Manifest, content_hash, described, output_name
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.progress import BatchProgress
from unildiff.restoring.recipe import Recipe
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole, writing
from unildiff.utils.parallel import ordered

_AHEAD = 4  # images that are read before the model wants them


@dataclass(frozen=True)
class Loaded:
    """An image that was read for the model, or the reason why it was not, or was not restored."""

    job: Job
    image: LoadedImage | None
    digest: str
    error: str = ""


@dataclass(frozen=True)
class Made:
    """An image after its pass: restored in so many seconds, with this peak of memory, unless ``loaded.error`` says why not."""

    loaded: Loaded
    result: CheckedImage | None = None
    seconds: float = 0.0
    peak: int = 0


@dataclass
class Outcome:
    """What a run did."""

    restored: int = 0
    failed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Restorer:
    """A model with the settings of a run.

    Attributes:
        model: in evaluation mode, on its device.
        recipe: settings of the run.
        sampling: the sampler's part of them.
        device: where it computes.
        back: moves offloaded parts off the device after each pass; None where nothing is offloaded.
    """

    model: UniLDiff
    recipe: Recipe
    sampling: SamplingSettings
    device: torch.device
    back: Callable[[], None] | None = None

    @property
    def options(self) -> RestoreOptions:
        """The options of the command."""
        return self.recipe.options

    def note(self) -> dict[str, str] | None:
        """Return the provenance note of the results."""
        if not self.options.provenance:
            return None
        options, sampling = self.options, self.model.with_own(self.sampling)
        settings = {
            "steps": options.num_inference_steps,
            "guidance": f"{options.guidance_scale:g}",
            "start": options.start,
            "last timestep": sampling.last_timestep,
            "spacing": options.timestep_spacing,
            "tiles": options.tile_size,
            "coder tiles": options.vae_tile,
            "colour": None if options.colour == "none" else options.colour,
            "in doubt": options.in_doubt if options.uncertainty else None,
            "dtype": self.recipe.dtype,
        }
        return {
            "software": f"UniLDiff {__version__}",
            "model": self.recipe.model_hash,
            "seed": str(options.seed),
            "settings": ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None),
        }

    def encode(self, loaded: Loaded, result: CheckedImage) -> tuple[dict[Path, bytes], list[str]]:
        """Return the files of a restored image, itself the last, and everything worth a warning, one line each."""
        job, image = loaded.job, loaded.image
        assert image is not None
        files = {}
        if result.spread is not None:
            spread = encode_restored(result.spread, image, "PNG")[0]
            files[job.target.with_name(f"{job.target.stem}.uncertainty.png")] = spread
        files[job.target], lost = encode_restored(result.levels, image, job.format, self.note())
        return files, [*image.source.warnings, *lost, *result.warnings]

    def restore(self, loaded: Sequence[Loaded], progress: Callable[[float], None]) -> list[CheckedImage]:
        """Return the restored images of one pass, with what was found in checking them.

        Raises:
            UserError: a result is not finite.
        """
        images = [each.image.rgb for each in loaded if each.image is not None]
        captions = [self.recipe.caption_of(each.job.source) for each in loaded]
        names = [shown(each.job.source) for each in loaded]
        done = count(1)
        steps = self.options.num_inference_steps * (1 + self.options.uncertainty)

        def step(index: int, latents: torch.Tensor) -> None:
            progress(len(images) * min(0.95, next(done) / steps))  # tiles with visible seams take more steps

        try:
            return check_and_correct(
                self.model, images, captions, names, self.sampling, self.options, self.device, step
            )
        finally:
            if self.back is not None:
                self.back()


def run(jobs: Sequence[Job], restorer: Restorer, manifest: Manifest | None, label: str = "Restoring") -> Outcome:
    """Restore images; a broken file or result is noted and does not end the run.

    Raises:
        UserError: a result cannot be written; the next one could not be written either.
    """
    outcome = Outcome()
    size = restorer.options.batch_size
    ahead = (_AHEAD if restorer.options.memory is None else 1) + size
    with BatchProgress(len(jobs), label) as bar, ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as writers:
        read = ordered(readers, load_job, jobs, ahead)
        made = _made((loaded for _, loaded in read), size, restorer, bar)
        for each, warnings in ordered(writers, partial(_write, restorer, manifest), made, ahead=2):
            if each.loaded.error:
                outcome.failed.append(each.loaded.error)
            else:
                outcome.restored += 1
                outcome.warnings += [f"{shown(each.loaded.job.source)}: {warning}" for warning in warnings]
    return outcome


def load_job(job: Job) -> Loaded:
    """Return the image of a job, or the reason why it cannot be read."""
    try:
        image = load_image(job.source)
        return Loaded(job, image, content_hash(job.source.read_bytes()))
    except (UserError, OSError) as error:
        return Loaded(job, None, "", str(error))


def _made(loaded: Iterable[Loaded], size: int, restorer: Restorer, bar: BatchProgress) -> Iterator[Made]:
    """Restore images; consecutive ones of equal size go through the model together."""
    for shape, same in groupby(loaded, lambda each: None if each.image is None else each.image.rgb.shape):
        while group := list(islice(same, 1 if shape is None else size)):
            yield from _passed(group, restorer, bar)
            bar.finished(len(group))


def _passed(group: list[Loaded], restorer: Restorer, bar: BatchProgress) -> list[Made]:
    """Return the images of one pass; those of a failed one are repeated alone, so that each fails by itself."""
    if group[0].error:
        return [Made(group[0])]
    started = time.monotonic()
    try:
        results = restorer.restore(group, bar.within)
    except UserError as error:
        if len(group) == 1:
            return [Made(replace(group[0], error=str(error)))]
        return [made for loaded in group for made in _passed([loaded], restorer, bar)]
    spent = (time.monotonic() - started) / len(group), peak_memory(restorer.device)
    return [Made(loaded, result, *spent) for loaded, result in zip(group, results, strict=True)]


def _write(restorer: Restorer, manifest: Manifest | None, made: Made) -> list[str]:
    """Write the files of an image and its line of the manifest, in this order; return its warnings."""
    job = made.loaded.job
    if made.result is None:
        if manifest is not None:
            name = output_name(job.target, manifest.folder)
            manifest.append({"input": job.name, "output": name, "error": made.loaded.error})
        return []
    files, warnings = restorer.encode(made.loaded, made.result)
    data = files.pop(job.target)
    for path, content in files.items():
        write_whole(path, content)
    with writing(job.target) as file:
        file.write(data)
        file.flush()
        if manifest is not None:
            entry = {
                "input": job.name,
                "output": output_name(job.target, manifest.folder),
                **described(job.source.stat(), "input", made.loaded.digest),
                **described(fstat(file.fileno()), "output", content_hash(data)),
                "settings": restorer.recipe.settings(job),
                "seconds": round(made.seconds, 3),
                "peak_memory_mb": round(made.peak / 2**20),
                **made.result.measured,
                "warnings": warnings,
            }
            manifest.append(entry)
    return warnings


def peak_memory(device: torch.device) -> int:
    """Return the largest memory in bytes since the process started: of a GPU, else of this process.

    A manifest's ``peak_memory_mb`` is this number in MiB, so it never falls from one image to the next.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss would also hold what the process that started this one had taken
        lines = (line.split() for line in status.read_text().splitlines())
        return next(1024 * int(words[1]) for words in lines if words[0] == "VmHWM:")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
