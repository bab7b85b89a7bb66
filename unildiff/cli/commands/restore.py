"""``unildiff restore``: images in, images of the same names and formats out."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from unildiff.restoring.options import RestoreOptions, memory_bytes
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json
from unildiff.weights.source import check_source

if TYPE_CHECKING:
    from unildiff.restoring.jobs import Job, Work
    from unildiff.restoring.run import Outcome

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def restore(
    src: str,
    out: Path,
    model: str = "tiny",
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
    captions: Path | None = None,
    start: Literal["lq", "noise"] = "lq",
    last_timestep: int | None = None,
    tile_size: int | None = None,
    vae_tile: int | None = None,
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None,
    batch_size: int = 1,
    format: Literal["jpg", "png", "tif", "webp", "avif"] | None = None,
    colour: Literal["none", "input", "auto"] = "none",
    uncertainty: int = 0,
    in_doubt: Literal["restored", "input"] = "restored",
    provenance: bool = True,
    overwrite: bool = False,
    skip_existing: bool = True,
    shard: str | None = None,
    devices: str | None = None,
    engine: Literal["local", "ray"] = "local",
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    memory: str | None = None,
    offload: Literal["none", "model", "group"] | None = None,
    max_pixels: int | None = None,
) -> int:
    """Restore an image, or all images in a folder and below it, at any size.

    The results have the names, formats, depth, transparency and metadata of the images. The same command again skips what
    manifest.jsonl says is done and repeats what failed. An image that cannot be restored is listed and left out, and the exit
    code is then 3. The pixels depend on the image and the seed only, and equal those that `unildiff test` scores.

    Args:
        src: image, folder, list of images (.txt, .jsonl) or address of a store (s3://...)
        out: folder for the results, or a file name if src is one image
        model: tiny, a folder made by `unildiff export`, or a checkpoint
        num_inference_steps: sampling steps
        guidance_scale: strength of the caption; 1 turns guidance off
        seed: seed of the sampling noise
        captions: captions.jsonl, by default src's
        start: start from the noised image (lq) or noise
        last_timestep: timestep at which sampling ends, 0 for all; by default the model's own
        tile_size: side of the tiles of larger images in pixels; by default chosen by model and memory
        vae_tile: the same for encoders and decoder, if smaller
        timestep_spacing: by default the model's own; SDXL-Lightning needs trailing
        batch_size: images of equal size that go through the model together; results can differ by rounding
        format: format of the results, by default each image's
        colour: take colours from the image (input), only if the model judges it right (auto), or not (none)
        uncertainty: further seeds whose spread is written as NAME.uncertainty.png
        in_doubt: where these seeds disagree, keep the input (input) or not
        provenance: note model, seed and settings in EXIF
        overwrite: restore everything again and replace files of others
        skip_existing: skip images whose result is in the manifest with the same content and settings
        shard: part I/N of the work, by default from SLURM, torchrun
        devices: several devices at once, e.g. 0,1 or all
        engine: ray restores on a Ray cluster
        device: auto, cpu, cuda, cuda:1, mps, ...
        dtype: auto: bfloat16 on GPUs that have it, float32 on CPUs
        memory: memory to keep to, e.g. 8GB: of the GPU, or of this process on a CPU
        offload: keep idle parts of the model on the CPU, or (group) also the U-Net's layers: least memory, slow
        max_pixels: largest image, in pixels (268 million)

    Raises:
        UserError: there is nothing to restore, the model cannot be loaded, a setting is out of range, or the results cannot
            be written.
    """
    arguments: dict[str, Any] = dict(locals())
    given = arguments | {"memory": None if memory is None else memory_bytes(memory)}
    from unildiff.data.walk import shown
    from unildiff.restoring import jobs as planned
    from unildiff.restoring.inputs import local_source
    from unildiff.utils.validation import PositiveInt, build

    options = RestoreOptions(**{field.name: given[field.name] for field in fields(RestoreOptions)})
    if max_pixels is not None:
        os.environ["UNILDIFF_MAX_PIXELS"] = str(build(PositiveInt, max_pixels, "max_pixels"))
    source = local_source(str(src), out)
    work = planned.find_work(source, out, format)
    part, parts, origin = planned.shard(shard, os.environ)
    caption_of = _captions(source, captions, [job.source for job in work.jobs])
    check_model(options)
    if engine == "ray" and find_spec("ray") is None:
        raise UserError("engine: Ray is not installed; `pip install 'unildiff[ray]'`, or leave --engine out")
    if engine == "ray" and work.folder is None:
        raise UserError("engine: ray needs a folder for the results; give one, or leave --engine out")
    names = _device_names(devices)
    for name in names or [options.device]:
        if name.partition(":")[0] not in _DEVICES:
            raise UserError(f"device: {name!r} is not known; give auto, cpu, cuda, cuda:1 or mps")
    if engine == "ray" and (names or ":" in options.device):
        raise UserError("engine: Ray chooses the devices; leave --devices out, and give --device auto, cpu or cuda")
    if work.warning:
        print(f"unildiff: {work.warning}", file=sys.stderr)
    if parts > 1:
        print(f"part {part + 1} of {parts} (from {origin})", file=sys.stderr)
    with _ended_by_signals():
        if len(names) > 1:
            return _on_devices(names, part, parts, arguments)
        if names:
            options = replace(options, device=names[0])
        mine = work.jobs[part::parts]
        outcome, skipped = _restore(mine, work, options, caption_of, (part, parts), overwrite, skip_existing, engine)
    known = f", {skipped} done before" if skipped else ""
    print(f"{outcome.restored} of {len(mine)} images restored to {shown(out)}{known}")
    _print_warnings(outcome.warnings)
    for line in outcome.failed:
        print(f"unildiff: not restored: {line}", file=sys.stderr)
    return 3 if outcome.failed else 0


def _restore(
    mine: "list[Job]",
    work: "Work",
    options: RestoreOptions,
    caption_of: Callable[[Path], str],
    share: tuple[int, int],
    overwrite: bool,
    skip_existing: bool,
    engine: str,
) -> "tuple[Outcome, int]":
    """Restore what is not done yet; return what became of it and how many images were skipped."""
    from unildiff.data.walk import shown
    from unildiff.restoring.manifest import Done

    done = None if work.folder is None else Done(work.folder)
    if done is not None and not overwrite and (foreign := done.foreign(mine)):
        raise UserError(
            f"restore: {shown(foreign[0])} exists and was not written by restore ({len(foreign)} such files); give another "
            "folder, or --overwrite"
        )
    from unildiff.restoring.load import load, recipe
    from unildiff.restoring.manifest import Manifest
    from unildiff.restoring.run import Outcome, run

    if engine == "ray" and work.folder is not None:
        from unildiff.restoring.ray_engine import run_with_ray, worker_device

        options = replace(options, device=worker_device(options.device))
        if options.memory is not None:
            options = _within_memory(options, work.jobs, elsewhere=True)
        return run_with_ray(mine, options, caption_of, work.folder, skip_existing and not overwrite)
    if options.memory is not None:
        options = _within_memory(options, work.jobs)
    made = recipe(options, caption_of)
    waiting = mine
    if done is not None and skip_existing and not overwrite:
        waiting = [job for job in mine if not done.is_done(job, made.settings(job))]
    if not waiting:
        return Outcome(), len(mine)
    restorer = load(made)
    if work.folder is None:
        return run(waiting, restorer, None), 0
    manifest = Manifest(work.folder, f"{share[0] + 1}-of-{share[1]}" if share[1] > 1 else "")
    try:
        return run(waiting, restorer, manifest), len(mine) - len(waiting)
    finally:
        manifest.close()


def _within_memory(options: RestoreOptions, jobs: "list[Job]", elsewhere: bool = False) -> RestoreOptions:
    """Return the options with tiles, offload and dtype that keep to the memory; all shards choose the same."""
    from unildiff.data.images import image_size
    from unildiff.planning.restoring import within_memory

    sizes = []
    for job in jobs:
        with contextlib.suppress(UserError):  # it is reported in its turn
            sizes.append(image_size(job.source))
    if not sizes:
        return options
    options, plan = within_memory(options, sizes, elsewhere)
    print(f"memory: {plan}", file=sys.stderr, flush=True)
    return options


def _device_names(devices: str | None) -> list[str]:
    """Return the devices of ``--devices``: numbers are CUDA's; ``all`` is every GPU of this machine."""
    if devices is None:
        return []
    if devices == "all":
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    names = [f"cuda:{name}" if name.isdecimal() else name for name in devices.split(",") if name]
    if not names:
        raise UserError(f"devices: {devices!r} names no device; give e.g. 0,1 or all")
    return names


def _on_devices(names: Sequence[str], part: int, parts: int, arguments: dict[str, Any]) -> int:
    """Run restore once for each device, on a share of the work; return the gravest of their exit codes."""
    children = [
        subprocess.Popen(
            command_line(arguments | {"devices": None, "device": name, "shard": f"{share}/{parts * len(names)}"})
        )
        for share, name in enumerate(names, part * len(names) + 1)
    ]
    try:
        codes = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        raise
    return next((code for code in (1, 2, 143, 130, 3) if code in codes), max(codes, key=abs))


def command_line(arguments: dict[str, Any]) -> list[str]:
    """Return the command that calls ``restore`` with these arguments in another process."""
    defaults = {name: parameter.default for name, parameter in signature(restore).parameters.items()}
    options = {
        name: value for name, value in arguments.items() if value != defaults[name] and name not in ("src", "out")
    }
    given = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    return [sys.executable, "-m", "unildiff", "restore", str(arguments["src"]), str(arguments["out"]), *given]


def _print_warnings(lines: list[str]) -> None:
    """Print warnings, ``image: text`` each; of one text that many images share, three lines and the number of the others."""
    counts: Counter[str] = Counter()
    for line in lines:
        text = line.partition(": ")[2]
        counts[text] += 1
        if counts[text] <= _ALIKE:
            print(f"unildiff: {line}", file=sys.stderr)
    for text, count in counts.items():
        if count > _ALIKE:
            print(f"unildiff: {count - _ALIKE} more images: {text}", file=sys.stderr)


_ALIKE = 3


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into an exit with code 143 for a block, so that files and processes are tidied up as on Ctrl+C."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_model(options: RestoreOptions) -> None:
    """Refuse a model that cannot be loaded, before torch is imported.

    Raises:
        UserError: it is neither tiny, an exported folder nor a checkpoint, or has fewer steps than are asked for.
    """
    folder = check_source(options.model)
    if folder is None:
        return
    with contextlib.suppress(
        OSError, ValueError, KeyError, TypeError
    ):  # a damaged folder is reported when it is loaded
        schedule = parse_json((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        if options.num_inference_steps > (steps := int(schedule["num_train_timesteps"])):
            raise UserError(f"restore: num_inference_steps is {options.num_inference_steps}; it must be in 1..{steps}")


def _captions(src: Path, given: Path | None, files: Sequence[Path]) -> Callable[[Path], str]:
    from unildiff.data.captions import Captions

    folder = src if src.is_dir() else src.parent
    return (Captions.find([folder]) if given is None else Captions.given(given, [folder], files)).of
