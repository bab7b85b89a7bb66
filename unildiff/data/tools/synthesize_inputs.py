"""What a synthesised set is made from: clean images, and the maps and masks that belong to them.

Axis letters: H W pixels. Maps and masks are float32 (H, W) in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from unildiff.data.images import list_images, read_grey, read_rgb
from unildiff.degradations.names import DEGRADATIONS
from unildiff.degradations.operators import Luma, to_grey
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder, some
from unildiff.utils.keys import sample_key


@dataclass(frozen=True)
class Sources:
    """Folders of maps and masks; what is None is estimated or generated.

    Attributes:
        depth: depth maps, near = bright, named as the clean images (any suffix, or .npy of floats in [0, 1]).
        light: illumination maps, named alike.
        rain: streak masks under any names; which one an image gets depends on (seed, its name, degradation).
        snow: flake masks, likewise.
    """

    depth: Path | None = None
    light: Path | None = None
    rain: Path | None = None
    snow: Path | None = None


def read_map(path: Path, size: tuple[int, int], luma: Luma = "true") -> np.ndarray:
    """Return a map or mask, an image or .npy of floats, as float32 (H, W) in [0, 1], resized to ``size`` (height, width).

    ``luma`` tells how a map in colour becomes grey.

    Raises:
        UserError: it cannot be read, or an array is not (H, W) floats in [0, 1].
    """
    if path.suffix.lower() == ".npy":
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may claim any size
        except Exception as error:  # noqa: BLE001  numpy raises nearly anything for a damaged header
            raise UserError(f"unreadable map: {path} ({' '.join(str(error).split())}); replace it") from None
        if not isinstance(values, np.ndarray):
            raise UserError(f"unreadable map: {path} (it is an archive, not an array); replace it")
        floats = values.ndim == 2 and values.size > 0 and np.issubdtype(values.dtype, np.floating)
        if not floats or not 0 <= values.min() <= values.max() <= 1:
            raise UserError(f"map {path} is {values.dtype} {values.shape}; expected (H, W) floats in [0, 1]")
        values = values.astype(np.float32)
    else:
        grey = read_grey(path) if luma == "true" else to_grey(read_rgb(path), luma)
        values = grey.astype(np.float32) / np.float32(255)
    if values.shape != size:
        values = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(values)


def clean_images(clean: Path) -> dict[str, Path]:
    """Return the clean images by the name that their PNGs will have.

    Raises:
        UserError: no such folder, none in it, or two of one name.
    """
    files = list_images(input_folder(clean, "the clean images"))
    if not files:
        raise UserError(f"no images in {clean}; give the folder that holds the clean images themselves")
    by_name: dict[str, Path] = {}
    for file in files:
        if file.stem in by_name:
            raise UserError(
                f"one name twice: {by_name[file.stem]} and {file.name}; both would be {file.stem}.png, rename one"
            )
        by_name[file.stem] = file
    return by_name


def maps_of(kind: str, folder: Path | None, images: dict[str, Path]) -> dict[str, Path]:
    """Return the map of each image, by the image's name.

    Raises:
        UserError: no such folder, or an image has none; the message names them.
    """
    if folder is None:
        return {}
    files = {path.stem: path for path in masks_in(kind, folder)}
    if missing := [name for name in images if name not in files]:
        raise UserError(
            f"no {kind} map in {folder} for {some(missing)}; add them, or leave out --{kind} to estimate all"
        )
    return {name: files[name] for name in images}


def masks_in(kind: str, folder: Path | None) -> list[Path]:
    """Return the masks (or maps) of a folder.

    Raises:
        UserError: no such folder, or none in it.
    """
    if folder is None:
        return []
    files = [*list_images(input_folder(folder, f"the {kind} maps")), *sorted(folder.glob("*.npy"))]
    if not files:
        raise UserError(f"no images in {folder}; give the folder that holds the {kind} maps themselves")
    return files


def masks_of(files: list[Path], seed: int, name: str, kind: str) -> tuple[Path, ...]:
    """Return the mask of each degradation: like OneRestore's a random one, but chosen by name, not by position."""
    if not files:
        return ()
    return tuple(files[sample_key(seed, name, degradation, kind) % len(files)] for degradation in DEGRADATIONS)
