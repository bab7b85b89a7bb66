"""Write images so that a file appears whole or not at all."""

from pathlib import Path

import numpy as np

from unildiff.data.png import encode_png
from unildiff.utils.files import output_folder, write_whole


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) grey as a PNG; the file appears whole or not at all.

    Raises:
        ValueError: see ``encode_png``.
        UserError: the file cannot be written (no permission, disk full).
    """
    encoded = encode_png(image)
    output_folder(path.parent)
    write_whole(path, encoded)
