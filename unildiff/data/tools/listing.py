"""What is there to choose from, read without loading anything heavy."""

import os
from collections.abc import Iterator, Sequence

from unildiff.data.catalogue import DATASETS
from unildiff.data.layouts import ImageSet
from unildiff.utils import datamodules
from unildiff.utils.errors import UserError


def image_sets(name: str) -> Sequence[ImageSet]:
    """Return the sets of a data set, those that only join its test included, or the one set of that name.

    Raises:
        UserError: there is none.
    """
    if name in DATASETS:
        return DATASETS[name].all_sets
    by_name = {images.name: images for data in DATASETS.values() for images in data.all_sets}
    if name not in by_name:
        raise UserError(f"unknown set: {name!r}; choose from {', '.join(dict.fromkeys([*DATASETS, *by_name]))}")
    return (by_name[name],)


def without_folders(known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the datamodules that read no data set of the catalogue, and the first line of their files."""
    for name in datamodules.names():
        if name not in known:
            text = (datamodules.FOLDER / f"{name}.py").read_text(encoding="utf-8")
            yield name, text.removeprefix('"""').partition("\n")[0].removesuffix('"""')


def available_memory() -> int:
    """Return how many bytes of memory could hold files without anything else having to go (Linux; else all memory)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
