"""The one reader and writer of image files, shared by datamodules, scoring, packing, ``restore`` and the pipeline."""

from pathlib import Path

from unildiff.data.images.reader import LoadedImage, image_size, load_image, read_grey, read_rgb
from unildiff.data.images.writer import write_png
from unildiff.data.walk import find_images

__all__ = ["LoadedImage", "image_size", "list_images", "load_image", "read_grey", "read_rgb", "write_png"]


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Return the image files of a folder, sorted by their path below it; see :func:`unildiff.data.walk.find_images`."""
    return find_images(folder, recursive).images
