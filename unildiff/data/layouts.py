"""The folder trees in which projects keep their data, and how one of them is recognised.

A set (:class:`ImageSet`) is what one task is trained or tested on. Each project keeps it in its own folders (:class:`Folders`).
The tables are in :mod:`unildiff.data.catalogue`.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape as glob_escape
from pathlib import Path

from unildiff.data.pair import SUFFIXES, Pair, Split
from unildiff.data.pairing import RULES, Fault, pair_by_name
from unildiff.data.walk import files_below
from unildiff.utils.errors import UserError, did_you_mean
from unildiff.utils.files import input_folder, no_permission, parse_json, some

SAMPLE_MARKER = ".unildiff-sample.json"  # left by `unildiff data sample`
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folders:
    """Where one project keeps one split of one set; ``catalogue.yaml`` explains the fields at its top.

    Folders are glob patterns. ``lq`` is None where degraded images are made from the ground truth (noise), ``degradation`` where
    it is the set's. With ``by_folder`` it is what the last ``*`` of ``lq`` above a plain folder name, or at its end, stands for.
    """

    layout: str
    split: Split
    lq: str | None
    gt: str
    rule: str = "same"
    degradation: str | None = None
    optional: bool = False
    by_folder: bool = False
    prefixes: tuple[str, ...] = ("",)

    def patterns(self) -> tuple[str, ...]:
        """Return the folder patterns."""
        return (self.gt,) if self.lq is None else (self.lq, self.gt)


@dataclass(frozen=True)
class ImageSet:
    """What one task trains on or is tested on; ``catalogue.yaml`` explains the fields at its top.

    ``name`` is the short one, e.g. "urban100"; several sets may serve one task. ``suffixes`` are file name endings of its images.
    """

    name: str
    task: str
    degradation: str
    title: str
    folders: tuple[Folders, ...]
    expected: Mapping[Split, int] = field(default_factory=dict)
    expected_source: str = ""
    home: str = ""
    licence: str = "not known"
    suffixes: frozenset[str] = SUFFIXES

    def has(self, split: Split) -> bool:
        """Return whether any project keeps this split of it."""
        return any(folders.split == split for folders in self.folders)

    def holds(self, pair: Pair) -> bool:
        """Return whether a pair is of this set; two sets may be of one task."""
        if any(folders.by_folder for folders in self.folders):
            return pair.task == self.task
        return pair.degradation in {folders.degradation or self.degradation for folders in self.folders}


@dataclass(frozen=True)
class Found:
    """A recognised layout: its name, the prefix below the root, and the folders that are there."""

    layout: str
    prefix: str
    folders: tuple[Folders, ...]


class SeveralLayouts(UserError):
    """More than one layout lies below a root; a caller that can choose one adds how."""


def recognise(root: Path, images: ImageSet, split: Split, layout: str | None = None) -> Found:
    """Return the layout in which a split of a set lies below ``root``; where several do, ``layout`` chooses.

    Raises:
        UserError: the root is missing, a file or empty; no layout matches, or several do (SeveralLayouts). The message
            shows what was expected and what was found.
    """
    input_folder(root, f"{images.title} (see `unildiff data layout {images.name}`)")
    options = _options(images, split, layout)
    distinct = _matches(root, options)
    if len(distinct) > 1:
        names = ", ".join(sorted({found.layout for found in distinct}))
        raise SeveralLayouts(f"{images.title} ({split}): several layouts in {root}: {names}; keep one of them")
    if not distinct:
        raise UserError(_no_layout(root, images, split, options))
    found = distinct[0]
    present = tuple(folders for folders in found.folders if not _missing(root, found.prefix, folders))
    kind = "" if sample_of(root) is None else ", a sample set"
    _LOG.info("%s (%s): layout %s in %s%s", images.title, split, found.layout, root / found.prefix, kind)
    return Found(found.layout, found.prefix, present)


def is_there(root: Path, images: ImageSet, split: Split, layout: str | None = None) -> bool:
    """Return whether any layout of a split lies below ``root``."""
    return bool(_matches(root, _options(images, split, layout)))


def read_pairs(root: Path, images: ImageSet, found: Found) -> tuple[list[Pair], list[Fault]]:
    """Return the pairs of a recognised layout, in the order of their names, and what is wrong with the other files."""
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for folders in found.folders:
        for lq, gt, degradation in _listed(root / found.prefix, folders, images):
            # without degraded images the names are compared with themselves, which finds those that occur twice
            paired = pair_by_name(gt if lq is None else lq, gt, RULES["same" if lq is None else folders.rule])
            for degraded, clean in paired.pairs:
                pair = None if lq is None else degraded
                pairs.append(Pair(images.task or degradation, degradation, degraded.stem, pair, clean))
            faults.extend(paired.faults)
    return pairs, faults


def _listed(base: Path, folders: Folders, images: ImageSet) -> Iterator[tuple[list[Path] | None, list[Path], str]]:
    """Yield degraded images, ground truth and the degradation of each folder, or of all folders together."""
    if folders.by_folder:  # one folder per degradation, each beside its ground truth or sharing one folder of it
        assert folders.lq is not None
        for place in _folders(base, folders.lq):
            below = place.relative_to(base)
            beside = "*" in folders.gt
            gt = below.with_name(Path(folders.gt).name).as_posix() if beside else folders.gt
            lists = [list_folder(base, glob_escape(each), images.suffixes) for each in (below.as_posix(), gt)]
            yield lists[0], lists[1], below.parent.name if beside else below.name
        return
    lq = None if folders.lq is None else list_folder(base, folders.lq, images.suffixes)
    yield lq, list_folder(base, folders.gt, images.suffixes), folders.degradation or images.degradation


def wrong_counts(pairs: Iterable[Pair], images: ImageSet, split: Split) -> Iterator[str]:
    """Yield a line for each number of pairs per degradation that is not the published one."""
    expected = images.expected.get(split)
    counts = Counter(pair.degradation for pair in pairs)
    wrong: dict[int, list[str]] = {}
    for degradation, count in (counts or {images.degradation: 0}).items():
        if expected is not None and count != expected:
            wrong.setdefault(count, []).append(degradation)
    for count, degradations in wrong.items():
        of = f" of {', '.join(degradations)}" if len(counts) > 1 else ""
        yield f"{count:,} pairs{of}, {expected:,} expected ({images.expected_source})"


def list_folder(base: Path, pattern: str, suffixes: Iterable[str]) -> list[Path]:
    """Return the image files in the folders that ``pattern`` names below ``base``, sorted by path."""
    known = frozenset(suffixes)
    files: list[Path] = []
    for folder in _folders(base, pattern):
        walk = files_below(folder) if pattern.endswith("/**") else folder.iterdir()
        try:
            files.extend(path for path in walk if path.suffix.lower() in known and not path.name.startswith("."))
        except PermissionError:
            raise no_permission(folder) from None
    return sorted(files)


def describe(images: ImageSet) -> list[str]:
    """Return one line a layout and split: the folders that are accepted, one standing for all that differ in name only."""
    lines = []
    for folders in images.folders:
        degraded = Path(folders.lq) if folders.lq is not None else None
        many = degraded is not None and degraded.name == folders.degradation
        place = "" if degraded is None else f"{degraded.with_name('<degradation>') if many else degraded} + "
        what = f" [{folders.degradation}]" if folders.degradation and not many else ""
        rule = RULES[folders.rule].text if degraded is not None else "noise is added as they are read"
        lines.append(f"{folders.layout:17} {folders.split:5} {place}{folders.gt}{what}  ({rule})")
    return list(dict.fromkeys(lines))


def _options(images: ImageSet, split: Split, layout: str | None) -> list[Found]:
    known = dict.fromkeys(folders.layout for folders in images.folders)
    if layout is not None and layout not in known:
        raise UserError(
            f"layout: {images.title} has no layout {layout!r}; {did_you_mean(layout, known)}choose from {', '.join(known)}"
        )
    by_layout: dict[str, list[Folders]] = {}
    for folders in images.folders:
        if folders.split == split and layout in (None, folders.layout):
            by_layout.setdefault(folders.layout, []).append(folders)
    return [Found(name, prefix, tuple(each)) for name, each in by_layout.items() for prefix in each[0].prefixes]


def _matches(root: Path, options: Sequence[Found]) -> list[Found]:
    """Return the layouts that are there, without those whose folders are all part of another's."""
    present = {found: _places(root, found) for found in options if _is_present(root, found)}
    largest = {found: places for found, places in present.items() if not any(places < p for p in present.values())}
    return list({places: found for found, places in reversed(largest.items())}.values())


def _places(root: Path, found: Found) -> frozenset[str]:
    return frozenset(str(root / found.prefix / place) for folders in found.folders for place in folders.patterns())


def _is_present(root: Path, found: Found) -> bool:
    missing = [folders for folders in found.folders if _missing(root, found.prefix, folders)]
    return len(missing) < len(found.folders) and all(folders.optional for folders in missing)


def _missing(root: Path, prefix: str, folders: Folders) -> list[str]:
    return [pattern for pattern in folders.patterns() if not _folders(root / prefix, pattern)]


def _folders(base: Path, pattern: str) -> list[Path]:
    plain = pattern.removesuffix("/**")
    try:
        if "*" not in plain and "[" not in plain:
            return [base / plain] if (base / plain).is_dir() else []
        return sorted(path for path in base.glob(plain) if path.is_dir())
    except PermissionError:
        raise no_permission(base) from None


def _no_layout(root: Path, images: ImageSet, split: Split, options: Sequence[Found]) -> str:
    """Return one line: the nearest layout and what it lacks, or all that would do, and what is there."""
    if not options:
        return f"{images.title} has no {split} images in any known layout; see `unildiff data layout {images.name}`"

    def lacking(found: Found) -> list[str]:
        return [found.prefix + p for f in found.folders if not f.optional for p in _missing(root, found.prefix, f)]

    def present(found: Found) -> int:
        return sum(bool(_folders(root / found.prefix, p)) for f in found.folders for p in f.patterns())

    nearest = max(options, key=present)
    if (sample := sample_of(root)) is not None:
        return (
            f"{root} is a sample set of {sample} without {split} images; train with --data deadleaves or the real set"
        )
    there = [path.name + ("/" if path.is_dir() else "") for path in root.iterdir() if not path.name.startswith(".")]
    if present(nearest):
        wanted = f"layout {nearest.layout} lacks {some(lacking(nearest))}"
    else:
        known = dict.fromkeys(f"{found.layout}: {' + '.join(found.folders[0].patterns())}" for found in options)
        wanted = f"expected {some(list(known), 3)}"
    found = f"found {some(sorted(there))}" if there else "found nothing"
    return f"{images.title} ({split}) not in {root}: {wanted}; {found}; see `unildiff data layout {images.name}`"


def sample_of(root: Path) -> str | None:
    """Return the name of the dataset of which ``root`` is a sample set, or None."""
    try:
        return str(parse_json((root / SAMPLE_MARKER).read_text(encoding="utf-8"))["sample"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
