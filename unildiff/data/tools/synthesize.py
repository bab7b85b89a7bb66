"""CDD-11-layout sets from any clean images.

``<out>/<split>/clear`` and eleven folders beside it, equal file names; ``parameters.jsonl`` holds the parameters drawn for each
image, ``synthesis.json`` the sources. Every draw depends on (seed, file name, degradation) alone. A split is made in a hidden
folder that is renamed when it is complete, so that an interrupted one is never read.

Axis letters: H W pixels.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unildiff import __version__
from unildiff.data import captions
from unildiff.data.images import read_rgb
from unildiff.data.png import encode_png
from unildiff.data.tools.synthesize_inputs import Sources, clean_images, maps_of, masks_in, masks_of, read_map
from unildiff.degradations.cdd11 import VERSION, CleanImage, degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.degradations.operators import Luma
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, read_object, some, write_failure, write_whole
from unildiff.utils.keys import sample_key
from unildiff.utils.locks import one_writer
from unildiff.utils.parallel import cores, end_with_parent, ordered, progress
from unildiff.utils.store import Store

CLEAR = "clear"
SETTINGS = "synthesis.json"
PARAMETERS = "parameters.jsonl"
_MADE = "made"  # store of the scenes that are complete


@dataclass(frozen=True)
class Scene:
    """One clean image and what its degraded ones are made with."""

    name: str
    clean: Path
    seed: int
    folder: Path
    depth: Path | None
    light: Path | None
    rain: tuple[Path, ...]  # by degradation, or empty
    snow: tuple[Path, ...]
    luma: Luma


def synthesize(
    clean: Path,
    out: Path,
    seed: int,
    split: str = "train",
    sources: Sources | None = None,
    processes: int | None = None,
    luma: Luma = "onerestore",
) -> int:
    """Write a split in CDD-11's layout, or what is missing of it; return the number of scenes.

    The arguments are those of ``unildiff data synthesize``; ``luma`` is for illumination maps in colour, too.

    Raises:
        UserError: folders that are missing or hold something else, images that cannot be read or lack a map, no space.
    """
    sources = sources or Sources()
    images = clean_images(clean)
    depth, light = maps_of("depth", sources.depth, images), maps_of("light", sources.light, images)
    rain, snow = masks_in("rain", sources.rain), masks_in("snow", sources.snow)
    settings = {
        "kind": "unildiff synthesize cdd11",
        "seed": seed,
        "split": split,
        "clean": str(clean.absolute()),
        **{kind: str(folder.absolute()) if folder else None for kind, folder in vars(sources).items()},
        "scenes": len(images),
        "inputs": _fingerprint([*images.values(), *depth.values(), *light.values(), *rain, *snow]),
        "luma": luma,
        "degradations": VERSION,
        "version": __version__,
    }
    output_folder(out)
    final, partial = out / split, out / f".{split}.unfinished"
    scenes = []
    for name, path in images.items():
        masks = masks_of(rain, seed, name, "rain"), masks_of(snow, seed, name, "snow")
        scenes.append(Scene(name, path, seed, partial, depth.get(name), light.get(name), *masks, luma))
    with one_writer(out, f".{split}.lock", f"making {final}"):
        if final.exists():
            _refuse_other(final, settings)
            return len(images)
        output_folder(partial)
        with Store(partial / _MADE, write=True) as made:
            made.begin(settings)
            drawn = _make(scenes, made, processes or cores())
        _finish(clean, out, partial, drawn, images, settings)
    return len(images)


def _make(scenes: Sequence[Scene], made: Store, processes: int) -> dict[str, dict[str, Any]]:
    """Write the scenes that are not complete, and return what was drawn for each of all."""
    folder = scenes[0].folder
    drawn: dict[str, dict[str, Any]] = {}
    for scene in scenes:
        entry = made.get_json(scene.name)
        if isinstance(entry, dict) and entry.get("bytes") == _bytes(folder, scene.name):
            drawn[scene.name] = entry["drawn"]
    missing = [scene for scene in scenes if scene.name not in drawn]
    for degradation in (CLEAR, *DEGRADATIONS):
        output_folder(folder / degradation)
    broken: list[str] = []
    # spawned, not forked: the command line has threads of its own
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker) as pool:
        results = ordered(pool, make_scene, missing, ahead=2 * processes)
        try:
            for scene, result in progress(results, len(missing), "Degrading"):
                if isinstance(result, str):
                    broken.append(result)
                    continue
                drawn[scene.name] = result
                entry = {"bytes": _bytes(folder, scene.name), "drawn": result}
                made.add({scene.name: json.dumps(entry).encode()})
        except BrokenProcessPool:
            raise UserError(
                "a process was killed, probably out of memory; run the command again with fewer --processes"
            ) from None
    if broken:
        made.flush()
        raise UserError(f"{len(broken)} of {len(scenes):,} images cannot be degraded: {some(broken, 3)}")
    return drawn


def _bytes(folder: Path, name: str) -> int:
    """Return the length of a scene's files together, or -1 when one is missing."""
    try:
        return sum((folder / place / f"{name}.png").stat().st_size for place in (CLEAR, *DEGRADATIONS))
    except OSError:
        return -1


def make_scene(scene: Scene) -> dict[str, Any] | str:
    """Write the clean image and its eleven degraded ones; return what was drawn for each, or why it cannot be read.

    Raises:
        UserError: the images cannot be written.
    """
    try:
        image = read_rgb(scene.clean)
        size = image.shape[0], image.shape[1]
        depth = None if scene.depth is None else read_map(scene.depth, size)
        light = None if scene.light is None else read_map(scene.light, size, scene.luma)
        clear = CleanImage(image, depth, light, scene.luma)  # what all eleven need is worked out once
        masks = {path: read_map(path, size) for path in {*scene.rain, *scene.snow}}
    except UserError as error:
        return str(error)
    drawn = {}
    _write(scene, CLEAR, image)
    for number, degradation in enumerate(DEGRADATIONS):
        result = degrade(
            clear,
            degradation,
            sample_key(scene.seed, scene.name, degradation),
            rain_mask=masks[scene.rain[number]] if scene.rain else None,
            snow_mask=masks[scene.snow[number]] if scene.snow else None,
        )
        _write(scene, degradation, result.image)
        origins = {
            "depth": scene.depth.name if scene.depth else "estimated",
            "illumination": scene.light.name if scene.light else "estimated",
            "rain": scene.rain[number].name if scene.rain else "generated",
            "snow": scene.snow[number].name if scene.snow else "generated",
        }
        drawn[degradation] = {name: origins.get(name, value) for name, value in result.parameters.items()}
    return drawn


def _write(scene: Scene, place: str, image: np.ndarray) -> None:
    """Write a PNG, not atomically: the store of complete scenes knows its length."""
    path = scene.folder / place / f"{scene.name}.png"
    try:
        path.write_bytes(encode_png(image))
    except OSError as error:
        raise write_failure(path, error) from None


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}); replace or remove it") from None
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _refuse_other(final: Path, settings: dict[str, Any]) -> None:
    if not (final / SETTINGS).is_file():
        raise UserError(f"{final} exists and was not made by `unildiff data synthesize`; give another --out")
    made = read_object(final / SETTINGS, "synthesize")
    if differing := [key for key in settings if made.get(key) != settings[key]]:
        reasons = (
            "the images or maps have changed" if key == "inputs" else f"{key} {made.get(key)}, not {settings[key]}"
            for key in differing
        )
        raise UserError(f"{final} was made with other settings: {'; '.join(reasons)}; delete it or give another --out")


def _finish(clean: Path, out: Path, partial: Path, drawn: dict[str, Any], images: dict[str, Path], made: Any) -> None:
    """Write what describes the split, and give it its name."""
    lines = [json.dumps({"name": name, **drawn[name]}) + "\n" for name in images]
    write_whole(partial / PARAMETERS, "".join(lines).encode())
    write_whole(partial / SETTINGS, json.dumps(made, indent=1).encode() + b"\n")
    _carry_captions(clean, out, made["split"], images)
    os.sync()  # the images are on the disk before the folder gets the name by which it is read
    shutil.rmtree(partial / _MADE)
    (partial / "journal.jsonl").unlink(missing_ok=True)  # of an earlier version
    partial.rename(out / made["split"])
    write_whole(out / "README.md", _readme(out).encode())


def _carry_captions(clean: Path, out: Path, split: str, images: dict[str, Path]) -> None:
    source, target = clean / captions.FILE_NAME, out / captions.FILE_NAME
    names = {path.name: name for name, path in images.items()}
    carried = []
    if source.is_file():
        for entry in captions.entries(source):
            if entry["file"] in names:
                carried.append({**entry, "file": f"{split}/{CLEAR}/{names[entry['file']]}.png"})
    others = [e for e in captions.entries(target) if not e["file"].startswith(f"{split}/")] if target.is_file() else []
    if carried or others:
        write_whole(target, "".join(json.dumps(entry) + "\n" for entry in [*others, *carried]).encode())


def _readme(out: Path) -> str:
    parts = []
    for file in sorted(out.glob(f"*/{SETTINGS}")):
        made = read_object(file, "settings")
        default = {"depth": "estimated", "light": "estimated", "rain": "generated", "snow": "generated"}
        if lacking := [key for key in ("split", "scenes", "clean", "seed", *default) if key not in made]:
            raise UserError(f"settings: {file} lacks {', '.join(lacking)}; make this split again")
        origins = ", ".join(f"{kind} {'from ' + made[kind] if made[kind] else default[kind]}" for kind in default)
        parts.append(
            f"- `{made['split']}`: {made['scenes']:,} scenes from {made['clean']}, seed {made['seed']}; {origins}.\n"
        )
    return f"""# Not CDD-11: a set in its layout

Written by `unildiff data synthesize cdd11` (version {__version__}).

{"".join(parts)}
Each ground-truth image is in `clear`, and under eleven degradations in the folders beside it, with CDD-11's operators in
CDD-11's order and ranges (Guo et al., OneRestore, ECCV 2024). `{PARAMETERS}` holds the parameters drawn for each image,
`{SETTINGS}` the sources. Scores on it cannot be compared with scores on CDD-11.
"""


def _start_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)  # processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
