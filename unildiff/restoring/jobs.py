"""Which files are restored, under which names the results are written, and which part of the work is this process's."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unildiff.data.walk import find_images, is_image, shown
from unildiff.restoring.inputs import LISTS, listed_images
from unildiff.restoring.options import Format
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder

WRITTEN = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
}
"""File name endings, in lower case, and the format that is written under them; other inputs become PNGs."""


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        source: the file to read.
        target: the file to write.
        name: its name in the manifest and in messages, relative to the folder that was given.
    """

    source: Path
    target: Path
    name: str

    @property
    def format(self) -> str:
        """Pillow's name of the target's format."""
        return WRITTEN[self.target.suffix.lower()]


@dataclass(frozen=True)
class Work:
    """Everything that one command restores.

    Attributes:
        jobs: the images, sorted by name.
        folder: where results and manifest are written; None if the target is a single file without a manifest.
        warning: image files that cannot be read, in one line, or the empty string.
    """

    jobs: list[Job]
    folder: Path | None
    warning: str = ""


def find_work(src: Path, out: Path, format: Format | None = None) -> Work:
    """Return the work for a file, a list of files or a folder.

    Raises:
        UserError: there is nothing to restore, the names do not fit, or a result would overwrite an input.
    """
    if src.is_file() and src.suffix.lower() in LISTS:
        work = _listed(src, out, format)
    elif src.is_file() or (not src.is_dir() and src.suffix):
        work = _single(src, out, format)
    else:
        work = _folder(src, out, format)
    sources = {os.path.realpath(job.source) for job in work.jobs}
    if taken := [job for job in work.jobs if os.path.realpath(job.target) in sources]:
        raise UserError(f"restore: {shown(taken[0].target)} would be overwritten; give another place for the results")
    return work


def _single(src: Path, out: Path, format: Format | None) -> Work:
    if not src.exists():
        raise UserError(f"no such file: {shown(src)}; check the path")
    if not src.is_file():
        raise UserError(f"not a file: {shown(src)}; give an image, a list of images or a folder")
    if not is_image(src):  # by its name; its content may still be one
        from unildiff.data.images import image_size

        image_size(src)
    if out.suffix and not out.is_dir() and is_image(out):
        if out.suffix.lower() not in WRITTEN:
            raise UserError(f"restore: {shown(out)} cannot be written; give a name that ends in {', '.join(WRITTEN)}")
        if format is not None and WRITTEN[out.suffix.lower()] != WRITTEN[f".{format}"]:
            raise UserError(f"restore: {shown(out)} does not end in .{format}; give --format or the name, not both")
        _check_parent(out.parent)
        return Work([Job(src, out, os.fspath(src.name))], None)
    _check_folder(out)
    return Work([Job(src, out / result_names([src.name], format)[0], src.name)], out)


def _listed(src: Path, out: Path, format: Format | None) -> Work:
    _check_folder(out)
    entries = list(listed_images(src))
    names = [name for _, name in entries]
    if not names:
        raise UserError(f"restore: no images in the list {shown(src)}; give a path in each line")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"restore: {shown(src)} has {twice[0]} more than once; results need different names")
    targets = [out / name for name in result_names(names, format)]
    return Work([Job(file, target, name) for (file, name), target in zip(entries, targets, strict=True)], out)


def _folder(src: Path, out: Path, format: Format | None) -> Work:
    input_folder(src, "the images to restore")
    if out.suffix.lower() in WRITTEN and not out.is_dir():
        raise UserError(
            f"restore: {shown(src)} is a folder and {shown(out)} a file name; give a folder for the results"
        )
    _check_folder(out)
    found = find_images(src)
    inside = os.path.realpath(out)
    files = [file for file in found.images if not os.path.realpath(file).startswith(inside + os.sep)]
    if not files and (inside == os.path.realpath(src) or os.path.realpath(src).startswith(inside + os.sep)):
        raise UserError(f"restore: {shown(out)} holds the images to restore; give another folder for the results")
    if not files:
        hint = found.warning or "give a folder that holds some (png, jpg, tif, ...)"
        raise UserError(f"restore: no images in {shown(src)}; {hint}")
    names = [file.relative_to(src).as_posix() for file in files]
    targets = [out / name for name in result_names(names, format)]
    return Work([Job(*job) for job in zip(files, targets, names, strict=True)], out, found.warning)


def result_names(names: Sequence[str], format: Format | None = None) -> list[str]:
    """Return the names of the results.

    A name stays as it is if its format is written; otherwise its ending is replaced, and where two results would get
    the same name, the new ending is added to the old name: a.gif beside a.png becomes a.gif.png.
    """
    plain = {name: _renamed(name, format) for name in names}
    times = Counter(plain.values())
    keeping = {name for name in names if times[plain[name]] > 1 and plain[name] != name}
    taken = {name + PurePosixPath(plain[name]).suffix for name in keeping}
    while more := {name for name in names if plain[name] in taken and plain[name] != name} - keeping:
        keeping |= more
        taken |= {name + PurePosixPath(plain[name]).suffix for name in more}
    return [name + PurePosixPath(plain[name]).suffix if name in keeping else plain[name] for name in names]


def _renamed(name: str, format: Format | None) -> str:
    path = PurePosixPath(name)
    written = WRITTEN.get(path.suffix.lower())
    if (format is None and written is not None) or (format is not None and written == WRITTEN[f".{format}"]):
        return name
    return str(path.with_suffix(f".{format or 'png'}"))


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"not a folder but a file: {shown(out)}; give a folder to write to")
    _check_parent(out)


def _check_parent(folder: Path) -> None:
    """Refuse a folder that cannot be written, without creating it."""
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UserError(f"not a folder but a file: {shown(place)}; give a folder to write to")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write {shown(folder)}; change its rights or give another folder")


def shard(given: str | None, environment: Mapping[str, str]) -> tuple[int, int, str]:
    """Return which part of the work is this process's: (number from 0, how many parts, where that is from).

    Args:
        given: ``I/N`` with I from 1 to N, or None to look at the environment: SLURM job arrays, SLURM tasks (both together
            multiply), or ``RANK`` and ``WORLD_SIZE`` of torchrun.
        environment: environment variables.

    Raises:
        UserError: ``given`` is not of that form.
    """
    if given is not None:
        number, slash, total = given.partition("/")
        if not slash or not number.isdecimal() or not total.isdecimal() or not 1 <= int(number) <= int(total):
            raise UserError(f"shard: {given!r} is not I/N with I from 1 to N; e.g. --shard 1/4 to --shard 4/4")
        return int(number) - 1, int(total), "--shard"
    index, parts, names = 0, 1, []
    if (count := _number(environment, "SLURM_ARRAY_TASK_COUNT")) > 1 and "SLURM_ARRAY_TASK_ID" in environment:
        first, step = _number(environment, "SLURM_ARRAY_TASK_MIN"), _number(environment, "SLURM_ARRAY_TASK_STEP") or 1
        index, parts = (_number(environment, "SLURM_ARRAY_TASK_ID") - first) // step, count
        names.append("SLURM_ARRAY_TASK_ID")
    batch_script = (
        "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    )  # it runs once, whatever NTASKS is
    if (count := _number(environment, "SLURM_NTASKS")) > 1 and "SLURM_PROCID" in environment and not batch_script:
        index, parts = index * count + _number(environment, "SLURM_PROCID"), parts * count
        names.append("SLURM_PROCID")
    elif not names and (count := _number(environment, "WORLD_SIZE")) > 1 and "RANK" in environment:
        index, parts = _number(environment, "RANK"), count
        names.append("RANK")
    if not 0 <= index < parts:
        raise UserError(f"shard: {' and '.join(names)} say part {index} of {parts}; give --shard I/N")
    return index, parts, " and ".join(names)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0
