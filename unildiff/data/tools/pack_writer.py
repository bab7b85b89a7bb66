"""Making packs: every image of a dataset decoded once into a store; an interrupted run is resumed.

An image and its entry, which says from which state of its file it was made, are written in one transaction. A new run keeps
what it finds for files that have not changed. The index, which makes a pack readable, is written when everything is there.

Axis letters: H W pixels.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from unildiff.data.captions import Captions
from unildiff.data.catalogue import dataset
from unildiff.data.images import image_size
from unildiff.data.layouts import is_there, recognise, sample_of
from unildiff.data.lmdb_folders import file_of
from unildiff.data.pack import (
    ENTRY,
    FORMAT,
    IMAGE,
    INDEX,
    Entry,
    Pack,
    checksum,
    index_bytes,
    packed_image,
    read_entry,
    read_index,
)
from unildiff.data.pair import PairSource, Split, Which
from unildiff.data.pairing import rule_named
from unildiff.data.patterns import Half, all_patterns, pattern_source
from unildiff.data.sources import disk_source, report
from unildiff.utils.errors import UserError
from unildiff.utils.files import some
from unildiff.utils.parallel import cores, ordered, progress
from unildiff.utils.store import Store, check_space

_SAMPLED = 200  # headers read to estimate beforehand how large a pack will be


@dataclass(frozen=True)
class _Image:
    """An image to pack: where it is read, and its file."""

    source: PairSource
    index: int
    which: Which
    path: Path

    def state(self) -> tuple[int, int]:
        """Return size and time of the file."""
        try:
            found = file_of(self.path).stat()
        except OSError:
            return -1, -1  # decoding it will report what is wrong
        return found.st_size, found.st_mtime_ns


def write_pack(
    sources: Mapping[str, PairSource], out: Path, dataset: str, root: Path, captions: Captions | None = None
) -> Pack:
    """Write what is missing of a pack and its index; of a finished pack compare all checksums.

    Args:
        sources: pairs of each split.
        out: folder to write.
        dataset: name under which the pack is read.
        root: folder that image names are relative to.
        captions: captions of pairs that have none of their own.

    Raises:
        UserError: images that cannot be read, pairs of two sizes, no space, or a folder that holds something else.
    """
    images: dict[str, _Image] = {}
    pairs: dict[str, list[list[Any]]] = {}

    def number(source: PairSource, index: int, which: Which, path: Path | None) -> int:
        if path is None:
            return -1
        file = (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()
        images.setdefault(file, _Image(source, index, which, path))
        return numbers.setdefault(file, len(numbers))

    numbers: dict[str, int] = {}
    for split, source in sources.items():
        pairs[split] = [
            [pair.task, pair.degradation, pair.name]
            + [number(source, index, "lq", pair.lq), number(source, index, "gt", pair.gt)]
            + [pair.caption or (captions or Captions({})).of(pair.lq, pair.gt)]
            for index, pair in enumerate(source.pairs)
        ]
    if not images:
        raise UserError(f"nothing to pack: no images found in {root}; run `unildiff data check`")
    header = {"kind": "unildiff pack", "format": FORMAT, "dataset": dataset, "root": str(root.absolute())}
    with Store(out, write=True) as store:
        store.begin(header)
        index = read_index(store)
        if index is not None:
            _refuse_other_state(store, index, images, pairs)
        entries = _kept(store, images)
        missing = [file for file in images if file not in entries]
        if missing:
            _check_space(out, [images[file].path for file in missing])
        entries |= _write(store, images, missing)
        files = list(images)
        _check_sizes([entries[file] for file in files], files, pairs)
        if missing or index is None:
            body = {"files": files, "checksums": [entries[file].checksum for file in files], "pairs": pairs}
            index = header | {
                "sample": sample_of(root),
                "files": files,
                "pairs": pairs,
                "bytes": sum(3 * entry.height * entry.width for entry in entries.values()),
                "checksum": checksum(json.dumps(body).encode()),
            }
            store.flush()
            store.add({INDEX: index_bytes(index)})
    return Pack(out)


def _refuse_other_state(
    store: Store, index: Mapping[str, Any], images: Mapping[str, _Image], pairs: Mapping[str, Any]
) -> None:
    """Refuse a finished pack of other files or pairs: it may be in use."""
    changed = [
        file for file, image in images.items() if (old := read_entry(store, file)) is None or old[:2] != image.state()
    ]
    if changed or index["pairs"] != pairs or index["files"] != list(images):
        what = f"; changed: {some(changed)}" if changed else ""
        raise UserError(
            f"{store.folder} is a pack of another state of the data ({index['dataset']} from {index['root']}{what}); "
            "delete it or give another --out"
        )


def _kept(store: Store, images: Mapping[str, _Image]) -> dict[str, Entry]:
    """Return the entries of files that have not changed and whose images have the right checksum."""
    kept: dict[str, Entry] = {}
    for file, image in progress(images.items(), len(images), "Verifying"):
        entry, data = read_entry(store, file), store.get(IMAGE + file)
        if entry is not None and data is not None and entry[:2] == image.state() and checksum(data) == entry.checksum:
            kept[file] = entry
    return kept


def _check_space(out: Path, files: Sequence[Path]) -> None:
    sampled = []
    for file in files[:: max(1, len(files) // _SAMPLED)]:
        try:
            height, width = image_size(file)
            sampled.append(height * width * 3)
        except UserError:
            continue  # not a file with a header of its own (RAW), or a broken one, which decoding will name
    if sampled:
        check_space(out, int(np.mean(sampled) * len(files)), f"{len(files):,} images, decoded,")


def _write(store: Store, images: Mapping[str, _Image], missing: Iterable[str]) -> dict[str, Entry]:
    def decode(file: str) -> tuple[bytes, Entry] | UserError:
        state = images[file].state()
        try:
            pixels = images[file].source.read(images[file].index, images[file].which)
        except UserError as error:
            return error
        data = packed_image(pixels)
        height, width = pixels.shape[:2]
        return data, Entry(*state, height, width, checksum(data))

    entries: dict[str, Entry] = {}
    broken: list[str] = []
    missing = list(missing)
    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without holding the interpreter's lock
        for file, result in progress(ordered(pool, decode, missing, ahead=2 * cores()), len(missing), "Packing"):
            if isinstance(result, UserError):
                broken.append(str(result))
                continue
            data, entries[file] = result
            store.add({IMAGE + file: data, ENTRY + file: json.dumps(entries[file]).encode()})
    if broken:
        store.flush()
        raise UserError(f"{len(broken)} of {len(images):,} images cannot be packed: {some(broken, 3)}")
    return entries


def _check_sizes(entries: Sequence[Entry], files: Sequence[str], pairs: Mapping[str, Any]) -> None:
    both = [(lq, gt) for rows in pairs.values() for _, _, _, lq, gt, _ in rows if lq >= 0 and gt >= 0]
    if differing := [
        f"{files[lq]} and {files[gt]} ({entries[lq].size} against {entries[gt].size})"
        for lq, gt in both
        if entries[lq].size != entries[gt].size
    ]:
        raise UserError(f"sizes differ: {some(differing, 3)}; pairs must match pixel by pixel")


def pack_set(name: str, root: Path, out: Path) -> Pack:
    """Pack every split of a dataset that is there, including the sets that join its test only on request.

    Raises:
        UserError: no such dataset, nothing of it in ``root``, files that do not pair, and as :func:`write_pack`.
    """
    data = dataset(name)
    sources: dict[str, PairSource] = {}
    for split in get_args(Split):
        there = [images for images in data.all_sets if is_there(root, images, split)]
        if there:
            sources[split], faults = disk_source([(root, images) for images in there], split, sizes=False)
            report(faults, "raise", [], "mend them, see `unildiff data check`")
    if not sources:
        recognise(root, data.sets[0], "test")  # reports what is wrong
    return write_pack(sources, out, name, root, Captions.find([root]))


def pack_folder(root: Path, out: Path, patterns: Mapping[Split, Half], rule: str = "same") -> Pack:
    """Pack the pairs of your own folder; ``patterns`` and ``rule`` as in :func:`unildiff.data.tools.check.check_folder`.

    Raises:
        UserError: no such rule, no pattern, one that matches nothing, files that do not pair, and as :func:`write_pack`.
    """
    pairing = rule_named(rule)
    sources: dict[str, PairSource] = {}
    for split, (lq, gt) in all_patterns(root, patterns).items():
        sources[split], faults = pattern_source(root, lq, gt, pairing, "folder")
        report(faults, "raise", [], "mend or move them, or narrow the patterns")
    if not sources:
        raise UserError("no pairs to pack; give --lq and --gt, or --train_lq and --train_gt, e.g. 'lq/*' 'gt/*'")
    return write_pack(sources, out, "folder", root, Captions.find([root], upwards=True))
