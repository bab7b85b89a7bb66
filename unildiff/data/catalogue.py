"""Every set and dataset by name, read from ``catalogue.yaml``: folders, pairing rules, published counts and sources."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unildiff.data.layouts import Folders, ImageSet
from unildiff.data.pair import SUFFIXES, Split
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.errors import UserError, did_you_mean

FILE = Path(__file__).with_name("catalogue.yaml")
RAW_SUFFIXES = SUFFIXES | {".npy", ".mat"}
_PLAIN: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class DataSet:
    """What one datamodule reads; ``catalogue.yaml`` explains the fields at its top. Without a ``protocol`` of its own it is ""."""

    name: str
    title: str
    sets: tuple[ImageSet, ...]
    also: tuple[ImageSet, ...] = ()
    optional: tuple[ImageSet, ...] = ()
    protocol: str = ""

    @property
    def all_sets(self) -> tuple[ImageSet, ...]:
        """All of its sets."""
        return (*self.sets, *self.also, *self.optional)


def read_catalogue(file: Path = FILE) -> tuple[dict[str, ImageSet], dict[str, DataSet]]:
    """Return the sets and the datasets of a catalogue file, by name."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    given = yaml.load(file.read_text(encoding="utf-8"), loader)
    sets = {name: _set(name, given["prefixes"], **entry) for name, entry in given["sets"].items()}
    chosen = {}
    for name, entry in given["datasets"].items():
        kinds = {kind: tuple(sets[each] for each in entry.get(kind, ())) for kind in ("sets", "also", "optional")}
        chosen[name] = DataSet(name, entry["title"], **kinds, protocol=entry.get("protocol", ""))
    return sets, chosen


def _set(
    name: str,
    prefixes: dict[str, list[str]],
    folders: list[dict[str, Any]] | None = None,
    plain: bool = True,
    raw: bool = False,
    **given: Any,
) -> ImageSet:
    rule = given.pop("rule", "same")
    task = given.setdefault("task", name)
    given.setdefault("degradation", task)
    places = [
        replace(each, prefixes=("", *prefixes.get(each.layout, ())))
        for entry in folders or ()
        for each in _folders({"rule": rule, **entry})
    ]
    if plain:  # our own layout
        places += [Folders("unildiff", split, f"{split}/{name}/lq", f"{split}/{name}/gt", rule) for split in _PLAIN]
    return ImageSet(name, folders=tuple(places), suffixes=RAW_SUFFIXES if raw else SUFFIXES, **given)


def _folders(entry: dict[str, Any]) -> Iterator[Folders]:
    split: Any
    splits, each = entry.pop("split"), entry.pop("each", [""])
    for split in [splits] if isinstance(splits, str) else splits:
        for item in DEGRADATIONS if each == "cdd11" else each:
            filled: dict[str, Any] = {
                key: value.format(split=split, each=item) if isinstance(value, str) else value
                for key, value in entry.items()
            }
            yield Folders(split=split, lq=filled.pop("lq", None), **filled)


SETS, DATASETS = read_catalogue()


def dataset(name: str) -> DataSet:
    """Return the dataset of that name.

    Raises:
        UserError: there is none; the message lists all.
    """
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS)
        raise UserError(f"no dataset {name!r} in the catalogue; {hint}choose from {', '.join(DATASETS)}")
    return DATASETS[name]


def image_sets(name: str) -> Sequence[ImageSet]:
    """Return the sets of a dataset, including those that only join its test, or the one set of that name.

    Raises:
        UserError: there is none.
    """
    if name in DATASETS:
        return DATASETS[name].all_sets
    if name not in SETS:
        known = dict.fromkeys([*DATASETS, *SETS])
        raise UserError(f"unknown set: {name!r}; {did_you_mean(name, known)}choose from {', '.join(known)}")
    return (SETS[name],)


def default_protocol(name: str | None, degradations: Iterable[str]) -> str:
    """Return the name of the protocol for images that another program restored.

    Args:
        name: dataset of the images; None if it is not known.
        degradations: names of their folders. Those of CDD-11 are recognised by any name that no other dataset has.
    """
    if name is not None:
        found = DATASETS.get(name.lower())
        return (found.protocol if found else "") or "unildiff"
    found_names = set(degradations)
    is_cdd11 = found_names <= set(DEGRADATIONS) and not found_names <= {"haze", "rain"}
    return DATASETS["cdd11"].protocol if is_cdd11 else "unildiff"
