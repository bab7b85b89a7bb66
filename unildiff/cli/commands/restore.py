"""``unildiff restore``: any pictures, one after the other, by a model from a folder or a checkpoint."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unildiff.utils.errors import UserError

if TYPE_CHECKING:  # the command line reads this signature before anybody waits for torch
    import numpy as np

    from unildiff.core.model import UniLDiff
    from unildiff.diffusion.sampler import SamplingSettings


def restore(
    src: Path,
    out: Path,
    model: str = "tiny",
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
    seed: int = 0,
    captions: Path | None = None,
    start: Literal["lq", "noise"] = "lq",
    last_timestep: int | None = None,
    tile_size: int | None = None,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Restore a picture, or all pictures in a folder and below it, at any size; PNGs of the same names and sizes.

    A picture that cannot be read, or of which the model makes nothing finite, is named and left out, and the exit code is
    then 3. The result depends on the picture and the seed only, and equals what `unildiff test` scores.

    Args:
        src: a picture or a folder of pictures.
        out: folder for the restored pictures, or a .png file where src is one picture.
        model: tiny (comes with the package), a folder made by `unildiff export`, or a checkpoint.
        num_inference_steps: sampling steps.
        guidance_scale: strength of the caption; 1 switches guidance off.
        seed: of the sampling noise.
        captions: captions.jsonl; by default the one in src. Without captions guidance has no effect.
        start: sample from the noised degraded picture (lq) or from noise alone.
        last_timestep: where the steps end: 0 goes all the way, higher ones stay nearer to the mean of what is possible.
            By default the model's own.
        tile_size: pixels of a tile's side; larger pictures are restored in overlapping tiles. By default whole, and in tiles
            where memory does not suffice.
        device: auto, cpu, cuda, cuda:1, mps, ...
        dtype: of weights and arithmetic; bfloat16 halves the memory.

    Raises:
        UserError: there are no pictures, the model cannot be loaded, it has no such timesteps, or ``out`` cannot be
            written.
    """
    import torch

    from unildiff.diffusion.sampler import SamplingSettings
    from unildiff.utils.files import input_folder, output_folder
    from unildiff.weights.load import check_sampling, load_restorer, pick_device

    if not src.is_file():
        input_folder(src, "the pictures to restore")
    work = _targets(src, out)
    caption_of = _captions(src, captions, [source for source, _ in work])
    try:
        settings = SamplingSettings(
            num_inference_steps, guidance_scale, start, last_timestep=last_timestep, tile_size=tile_size
        )
    except ValueError as error:
        raise UserError(f"restore: {error}") from None
    restorer = load_restorer(model, getattr(torch, dtype)).to(pick_device(device))
    check_sampling(restorer, settings, "restore")
    output_folder(out.parent if work[0][1] == out else out)
    restored, failed = _restore_all(work, restorer, settings, caption_of, seed)
    print(f"{restored} of {len(work)} pictures restored to {out}")
    for line in failed:
        print(f"unildiff: not restored: {line}", file=sys.stderr)
    return 3 if failed else 0


def _restore_all(
    work: list[tuple[Path, Path]],
    model: "UniLDiff",
    settings: "SamplingSettings",
    caption_of: Callable[[Path], str],
    seed: int,
) -> tuple[int, list[str]]:
    """Restore (source, target) pairs; return how many succeeded and one line for each that did not."""
    from unildiff.data.batch import image_array
    from unildiff.data.images import write_png
    from unildiff.utils.parallel import ordered, progress
    from unildiff.weights.restoring import restore_picture

    failed = []
    with ThreadPoolExecutor(1) as reader:  # the next picture is decoded while the model works on this one
        read: Iterator[tuple[tuple[Path, Path], np.ndarray | UserError]]
        read = ordered(reader, lambda item: _read(item[0]), work, ahead=2)
        for (source, target), picture in progress(read, len(work), "Restoring"):
            try:
                if isinstance(picture, UserError):
                    raise picture
                result = restore_picture(model, picture, caption_of(source), settings, seed, name=str(source))
            except UserError as error:
                failed.append(str(error))
                continue
            write_png(target, image_array(result))  # what cannot be written ends the run: the next would not either
    return len(work) - len(failed), failed


def _read(path: Path) -> "np.ndarray | UserError":
    """Return the picture, or the error to report in its turn: a broken file does not end the run."""
    from unildiff.data.images import read_rgb

    try:
        return read_rgb(path)
    except UserError as error:
        return error


def _targets(src: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return (picture, file to write) in order of names.

    Raises:
        UserError: nothing to restore, or a target is one of the pictures.
    """
    from unildiff.data.images import list_images
    from unildiff.utils.files import png_names

    if src.is_file():
        target = out if out.suffix.lower() == ".png" and not out.is_dir() else out / f"{src.stem}.png"
        pairs = [(src, target)]
    else:
        inside = out.resolve()
        files = [file for file in list_images(src, recursive=True) if inside not in file.resolve().parents]
        if not files and inside in (src.resolve(), *src.resolve().parents):
            raise UserError(f"restore: {out} holds the pictures to restore; give another folder for the results")
        if not files:
            raise UserError(f"restore: no pictures in {src}; give a folder that holds some (png, jpg, tif, ...)")
        names = png_names([file.relative_to(src).as_posix() for file in files])
        pairs = [(file, out / name) for file, name in zip(files, names, strict=True)]
    taken = {target.resolve() for _, target in pairs} & {source.resolve() for source, _ in pairs}
    if taken:
        raise UserError(f"restore: {min(taken)} would be overwritten; give another folder for the results")
    return pairs


def _captions(src: Path, given: Path | None, files: Sequence[Path]) -> Callable[[Path], str]:
    from unildiff.data.captions import Captions

    folder = src if src.is_dir() else src.parent
    return (Captions.find([folder]) if given is None else Captions.given(given, [folder], files)).of
