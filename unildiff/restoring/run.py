"""Restore the images of a job list: reading, the model and writing side by side, every result in the manifest.

Axis letters: B images of one pass, H/W pixels.
"""

import contextlib
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from unildiff import __version__
from unildiff.core.model import UniLDiff
from unildiff.core.tiling import make_grid
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
from unildiff.utils.files import write_failure
from unildiff.utils.parallel import ordered

_AHEAD = 4  # images that are read before the model wants them, and that wait to be written


@dataclass
class Loaded:
    """An image that was read for the model, or the reason why it was not."""

    job: Job
    image: LoadedImage | None
    digest: str
    error: str = ""


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

    def encode(self, loaded: Loaded, result: CheckedImage) -> tuple[bytes, list[str]]:
        """Return the file of a restored image, and everything worth a warning, one line each."""
        assert loaded.image is not None
        data, lost = encode_restored(result.levels, loaded.image, loaded.job.format, self.note())
        return data, [*loaded.image.source.warnings, *lost, *result.warnings]

    def restore(self, loaded: Sequence[Loaded], progress: Callable[[float], None]) -> list[CheckedImage]:
        """Return the restored images of one pass, with what was found in checking them.

        Raises:
            UserError: a result is not finite.
        """
        images = [each.image.rgb for each in loaded if each.image is not None]
        captions = [self.recipe.caption_of(each.job.source) for each in loaded]
        names = [shown(each.job.source) for each in loaded]
        with _counted(self.model, images[0].shape[:2], self.sampling, len(images), any(captions), progress):
            try:
                return check_and_correct(self.model, images, captions, names, self.sampling, self.options, self.device)
            finally:
                if self.back is not None:
                    self.back()


def run(jobs: Sequence[Job], restorer: Restorer, manifest: Manifest | None, label: str = "Restoring") -> Outcome:
    """Restore images; a broken file or result is noted and does not end the run.

    Raises:
        UserError: a result cannot be written; the next one could not be written either.
    """
    outcome = Outcome()
    ahead = _AHEAD if restorer.options.memory is None else 1
    with (
        BatchProgress(len(jobs), label) as progress,
        ThreadPoolExecutor(2) as readers,
        _Writer(restorer, manifest, outcome, ahead) as writer,
    ):
        read = ordered(readers, load_job, jobs, ahead=ahead + restorer.options.batch_size)
        for group in _groups((loaded for _, loaded in read), restorer.options.batch_size):
            started = time.monotonic()
            if group[0].image is None:
                writer.failed(group[0], group[0].error)
            else:
                try:
                    results = restorer.restore(group, progress.within)
                except UserError as error:
                    _each_alone(group, restorer, writer, error)
                else:
                    seconds = (time.monotonic() - started) / len(group)
                    for loaded, result in zip(group, results, strict=True):
                        writer.write(loaded, result, seconds, peak_memory(restorer.device))
            progress.finished(len(group))
    return outcome


def _each_alone(group: Sequence[Loaded], restorer: Restorer, writer: "_Writer", error: UserError) -> None:
    """Restore the images of a failed pass one by one, so that a single one does not take the others with it."""
    for loaded in group:
        try:
            if len(group) == 1:
                raise error
            started = time.monotonic()
            result = restorer.restore([loaded], lambda share: None)[0]
            writer.write(loaded, result, time.monotonic() - started, peak_memory(restorer.device))
        except UserError as fault:
            writer.failed(loaded, str(fault))


def load_job(job: Job) -> Loaded:
    """Return the image of a job, or the reason why it cannot be read."""
    try:
        image = load_image(job.source)
        return Loaded(job, image, content_hash(job.source.read_bytes()))
    except (UserError, OSError) as error:
        return Loaded(job, None, "", str(error))


def _groups(items: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Yield images that go through the model together: consecutive ones of equal size; a broken file stands alone."""
    group: list[Loaded] = []
    for item in items:
        fits = item.image is not None and (not group or _size(group[0]) == _size(item))
        if group and (not fits or len(group) >= size):
            yield group
            group = []
        group.append(item)
        if item.image is None:
            yield group
            group = []
    if group:
        yield group


def _size(item: Loaded) -> tuple[int, ...] | None:
    return None if item.image is None else item.image.rgb.shape[:2]


class _Writer:
    """Encodes and writes beside the model, a few images behind it; the first failure to write ends the run."""

    def __init__(self, restorer: Restorer, manifest: Manifest | None, outcome: Outcome, ahead: int) -> None:
        self._restorer, self._manifest, self._outcome, self._ahead = restorer, manifest, outcome, ahead
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            while self._waiting and (kind is None or not issubclass(kind, UserError)):
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write(self, loaded: Loaded, result: CheckedImage, seconds: float, peak: int) -> None:
        self._waiting.append(self._pool.submit(self._write, loaded, result, seconds, peak))
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def failed(self, loaded: Loaded, reason: str) -> None:
        self._outcome.failed.append(reason)
        if self._manifest is not None:
            name = output_name(loaded.job.target, self._manifest.folder)
            self._manifest.append({"input": loaded.job.name, "output": name, "error": reason})

    def _write(self, loaded: Loaded, result: CheckedImage, seconds: float, peak: int) -> None:
        job, image = loaded.job, loaded.image
        assert image is not None
        data, warnings = self._restorer.encode(loaded, result)
        files = [(job.target, data)]
        if result.spread is not None:
            place = job.target.with_name(f"{job.target.stem}.uncertainty.png")
            files.append((place, encode_restored(result.spread, image, "PNG")[0]))
        for path, content in files[1:]:
            with written_beside(path, content):
                pass
        with written_beside(job.target, data) as partial:
            if self._manifest is not None:
                entry = {
                    "input": job.name,
                    "output": output_name(job.target, self._manifest.folder),
                    **described(job.source, "input", loaded.digest),
                    **described(partial, "output", content_hash(data)),
                    "settings": self._restorer.recipe.settings(job),
                    "seconds": round(seconds, 3),
                    "peak_memory_mb": round(peak / 2**20),
                    **result.measured,
                    "warnings": warnings,
                }
                self._manifest.append(entry)
        self._outcome.restored += 1
        self._outcome.warnings += [f"{shown(job.source)}: {warning}" for warning in warnings]


@contextlib.contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """Write a file under a temporary name for the block, and give it its own name afterwards.

    Raises:
        UserError: it cannot be written (no permission, disk full).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield partial
            os.replace(partial, path)
        except OSError as error:
            raise write_failure(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def _counted(
    model: UniLDiff,
    size: tuple[int, ...],
    sampling: SamplingSettings,
    batch: int,
    captioned: bool,
    progress: Callable[[float], None],
) -> Iterator[None]:
    """Report the share of the U-Net's passes, over all steps and tiles, for a block."""
    tile = sampling.tile_size or model.default_tile_size(size[0], size[1])
    factor = 2 * model.downscale_factor
    height, width = (-(-side // factor) * 2 for side in size[:2])  # of the padded image, in latents
    grid = make_grid(height, width, tile // model.downscale_factor) if tile else None
    guided = captioned and sampling.guidance_scale != 1.0
    tiles = len(list(grid.tiles())) if grid else 1
    total = sampling.num_inference_steps * batch * tiles * (2 if guided else 1)
    done = 0

    def count(module: object, inputs: object, output: tuple[Tensor, ...]) -> None:
        nonlocal done
        done += output[0].shape[0]
        progress(batch * min(0.95, done / total))

    handle = model.unet.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


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
