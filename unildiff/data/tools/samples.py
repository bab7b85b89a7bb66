"""Sample sets: the test photographs in a dataset's own layout, so that every command works before any download."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unildiff.data.captions import FILE_NAME
from unildiff.data.catalogue import dataset
from unildiff.data.images import write_png
from unildiff.data.layouts import SAMPLE_MARKER, sample_of
from unildiff.data.shipped_photographs import Photograph, load, photographs
from unildiff.data.tools.sample_generators import GENERATORS
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.errors import UserError
from unildiff.utils.files import read_object, write_failure
from unildiff.utils.keys import sample_key
from unildiff.utils.locks import replacing_folder
from unildiff.utils.parallel import progress

LONGEST = 384  # pixels on the long side


@dataclass(frozen=True)
class Plan:
    """One file of a sample set: where it goes, of which photograph, under which degradation (None: clean)."""

    file: str
    photo: Photograph
    degradation: str | None


def write_sample(name: str, root: Path) -> int:
    """Write a sample set of the five test photographs, at most 384 pixels on the long side.

    It has the layout of the dataset ``name``. The folder appears complete or not at all; one that an earlier call wrote is
    replaced. Returns the number of images.

    Raises:
        UserError: unknown name, or ``root`` holds anything that this function did not write, is the current folder or one
            above it (which would be replaced), or cannot be written.
    """
    plans = list(_plans(name))
    if Path.cwd().is_relative_to(root.resolve()):
        raise UserError(f"--root {root} is the folder you are in, or one above it; give a new one, e.g. data/{name}")
    try:
        _refuse_foreign(root)
    except OSError as error:
        raise write_failure(root, error) from None
    with replacing_folder(root) as partial:
        loaded = {photo: load(photo, LONGEST) for photo in photographs("test")}
        for plan in progress(plans, len(plans), f"Writing {root}"):
            write_png(partial / plan.file, _degraded(plan, *loaded[plan.photo]))
        files = [plan.file for plan in plans]
        lines = [json.dumps({"file": plan.file, "caption": plan.photo.caption, "model": "a person"}) for plan in plans]
        (partial / FILE_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(_readme(name, len(plans)), encoding="utf-8")
        marker = {"sample": name, "files": [*files, FILE_NAME, "README.md", SAMPLE_MARKER]}
        (partial / SAMPLE_MARKER).write_text(json.dumps(marker), encoding="utf-8")
    return len(plans)


def _plans(name: str) -> Iterator[Plan]:
    for images in dataset(name).sets:
        for photo in photographs("test"):
            if images.name == "cdd11":
                yield Plan(f"test/clear/{photo.name}.png", photo, None)
                for degradation in DEGRADATIONS:
                    yield Plan(f"test/{degradation}/{photo.name}.png", photo, degradation)
                continue
            known = (f for f in images.folders if f.layout in ("unildiff", "udc") and f.split == "test")
            if (folders := next(known, None)) is None:
                raise UserError(
                    f"no sample set of {name}; see `unildiff data layout {name}` and `unildiff data download {name}`"
                )
            yield Plan(f"{folders.gt}/{photo.name}.png", photo, None)
            if folders.lq is not None:
                yield Plan(f"{folders.lq}/{photo.name}.png", photo, images.degradation)


def _degraded(plan: Plan, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    if plan.degradation is None:
        return image
    key = sample_key("sample", plan.photo.name, plan.degradation)
    if plan.degradation in GENERATORS:
        return GENERATORS[plan.degradation](image, key)
    return degrade(image, plan.degradation, key, depth=depth).image


def _refuse_foreign(root: Path) -> None:
    """Raise unless ``root`` is absent, empty, or holds exactly the files of an earlier sample set."""
    if root.is_file():
        raise UserError(f"not a folder but a file: {root}; give a new folder")
    if not root.exists() or not any(root.iterdir()):
        return
    if sample_of(root) is None:
        raise UserError(f"{root} holds files that `unildiff data sample` did not write; give a new folder to --root")
    listed = read_object(root / SAMPLE_MARKER, "sample set").get("files")
    known = set(map(str, listed)) if isinstance(listed, list) else set()
    here = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    if strange := sorted(here - known):
        raise UserError(f"{root} holds {strange[0]}, which the sample set did not write; give a new folder to --root")


def _readme(name: str, count: int) -> str:
    names = ", ".join(photo.name for photo in photographs("test"))
    return f"""# Not {name}: a sample in its layout

{count} images, written by `unildiff data sample {name}` so that every command can be tried without a download.

- Images: the photographs that scikit-image ships ({names}),
  at most {LONGEST} pixels on the long side. They are test images of this project; nothing trains on them.
- Degradations: generated (`unildiff/degradations`, `unildiff/data/tools/sample_generators.py`), always the same. The depth of
  `motorcycle` was measured (Middlebury stereo), that of the others is estimated. Noise is added as images are read.
- `captions.jsonl`: what is in each image, written by hand.

Scores on this sample cannot be compared with scores on the real {name}.
"""
