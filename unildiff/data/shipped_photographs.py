"""The photographs that the project's own packages ship, each with one role for ever: test or validation, never training.

scikit-image ships the five test photographs, scikit-learn and matplotlib the three for validation; nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unildiff.data.augment import centre_cut
from unildiff.data.images import read_rgb

Role = Literal["test", "val"]


@dataclass(frozen=True)
class Photograph:
    """One photograph: its name, the package and file it comes from, its role and a caption of its content."""

    name: str
    package: str
    file: str
    role: str
    caption: str


_LINES = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()[1:]
PHOTOGRAPHS = tuple(Photograph(*line.split(" | ")) for line in _LINES)


def photographs(role: Role) -> list[Photograph]:
    """Return the photographs of a role, sorted by name."""
    return sorted((photo for photo in PHOTOGRAPHS if photo.role == role), key=lambda photo: photo.name)


def load(photo: Photograph, longest: int, multiple: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a photograph and its depth where that was measured.

    A long side of more than ``longest`` pixels is resized with antialiasing; then both sides are cut to multiples of ``multiple``.

    Returns:
        uint8 (H, W, 3) RGB, and float32 (H, W) in [0, 1] with 1 the nearest, or None when the depth is unknown.
    """
    folder = _package_folder(photo.package)
    image = read_rgb(folder / photo.file)
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (round(width * scale), round(height * scale))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    depth = None
    if photo.name == "motorcycle":
        disparity = Image.fromarray(_motorcycle_depth(folder / "data/motorcycle_disp.npz"))
        depth = np.asarray(disparity.resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    return centre_cut(image, multiple), None if depth is None else centre_cut(depth, multiple)


def _motorcycle_depth(path: Path) -> np.ndarray:
    """Return the Middlebury disparity scaled to [0, 1]; pixels without one take that of the nearest pixel that has it."""
    from scipy import ndimage

    with np.load(path) as archive:
        disparity = archive["arr_0"].astype(np.float32)
    known = np.isfinite(disparity)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = disparity[tuple(nearest)]
    low, high = filled.min(), filled.max()
    return np.asarray((filled - low) / (high - low), dtype=np.float32)


def _package_folder(package: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} ships a photograph of this project and is not installed")
    return Path(spec.submodule_search_locations[0])
