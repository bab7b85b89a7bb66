"""Pairs of your own folder, found by two glob patterns.

Names pair folder by folder: where both patterns have wildcards in their folders (``scene*/lq/*`` and ``scene*/gt/*``),
a file belongs to the one of the same name in the folder for which the wildcards stand for the same text.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from unildiff.data.images import image_size
from unildiff.data.lmdb_folders import SUFFIX, listed_names
from unildiff.data.pair import Pair, Split
from unildiff.data.pairing import Fault, Pairing, Rule, pair_by_name, size_faults
from unildiff.data.sources import FilePairs
from unildiff.data.walk import files_below, is_image, is_pruned
from unildiff.utils.errors import UserError
from unildiff.utils.files import input_folder, some

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Pattern = str | list[str]
Half = tuple[Pattern | None, Pattern | None]
Places = Mapping[Path, str]  # file -> what the wildcards in the pattern's folders stand for


def pattern_source(
    root: Path, lq: Pattern, gt: Pattern, rule: Rule, degradation: str, listed: Path | None = None
) -> tuple[FilePairs, list[Fault]]:
    """Return the pairs of two glob patterns below ``root``, and what is wrong with the other files.

    Of several patterns the n-th of ``lq`` belongs to the n-th of ``gt``. ``listed`` is a file that lists the names of the
    ground-truth images to use, see :mod:`unildiff.data.lmdb_folders`.

    Raises:
        UserError: no such folder, a pattern that matches no image, or a listed image without a pair.
    """
    input_folder(root, "the images")
    degraded = matching(root, lq)
    paired = pair_by_folder(degraded, matching(root, gt), rule)
    if listed is not None:
        used = [paired.pairs[index] for index in listed_pairs([gt for _, gt in paired.pairs], listed)]
        paired = Pairing(used, [fault for fault in paired.faults if fault.kind != "orphan"])
    faults = [*paired.faults, *size_faults(paired.pairs, image_size)]
    bad = {file for fault in faults for file in fault.files}
    good = [pair for pair in paired.pairs if bad.isdisjoint(pair)]
    names = _names([a for a, _ in good], degraded, root)
    return FilePairs([Pair(degradation, degradation, names[a], a, b) for a, b in good]), faults


def listed_pairs(gts: Sequence[Path], file: Path) -> list[int]:
    """Return which ground-truth images a list of BasicSR names, by their names or by the ends of their paths.

    Raises:
        UserError: the list cannot be read, or names an image that is not there.
    """
    ends = [{Path(*gt.parts[first:]).as_posix() for first in range(len(gt.parts))} for gt in gts]
    wanted = set(listed_names(file))
    used = [index for index, names in enumerate(ends) if not wanted.isdisjoint(names)]
    if missing := sorted(wanted.difference(*(ends[index] for index in used))):
        raise UserError(f"{file} lists images without a pair: {some(missing)}; correct the list or the patterns")
    return used


def folder_patterns(root: Path, split: Split, lq: Pattern | None, gt: Pattern | None) -> tuple[Pattern, Pattern] | None:
    """Return the patterns of a split, by default of the folders ``lq`` and ``gt`` of that split, or None without pairs.

    Raises:
        UserError: only one of the two patterns is given.
    """
    if lq is not None and gt is not None:
        return lq, gt
    if lq is not None or gt is not None:
        if split == "test":
            return lq or "lq/*", gt or "gt/*"
        raise _half(split)
    if (root / split / "lq").is_dir() and (root / split / "gt").is_dir():
        return f"{split}/lq/*", f"{split}/gt/*"
    return ("lq/*", "gt/*") if split == "test" else None


def all_patterns(root: Path, given: Mapping[Split, Half]) -> dict[Split, tuple[Pattern, Pattern]]:
    """Return the patterns of every split that is given or lies in its default folders; see :func:`folder_patterns`.

    Raises:
        UserError: only one pattern of a split is given.
    """
    for split, pair in given.items():
        if any(pair) and not all(pair):
            raise _half(split)
    found = {split: folder_patterns(root, split, *given.get(split, (None, None))) for split in SPLITS}
    if not any(given.get("test", ())) and found["test"] == ("lq/*", "gt/*") and not (root / "lq").is_dir():
        found["test"] = None
    return {split: patterns for split, patterns in found.items() if patterns is not None}


def matching(root: Path, pattern: Pattern) -> Places:
    """Return the images that a glob pattern matches, sorted; ``**`` enters linked folders, too.

    Of several patterns each is a place of its own. A pattern that ends with ``.lmdb`` is an LMDB folder of BasicSR.

    Raises:
        UserError: the pattern is not valid, or matches no image.
    """
    if isinstance(pattern, list):
        return {
            file: f"{number}/{place}"
            for number, each in enumerate(pattern)
            for file, place in matching(root, each).items()
        }
    if pattern.endswith(SUFFIX):
        return {root / pattern / name: "" for name in sorted(listed_names(root / pattern / "meta_info.txt"))}
    parts = Path(pattern).parts
    if not parts or Path(pattern).is_absolute():
        raise UserError(f"pattern {pattern!r}: give it relative to {root}, e.g. 'lq/*'")
    if wrong := [part for part in parts if "**" in part and part != "**"]:
        raise UserError(f"pattern {pattern!r}: ** stands for folders and not in {wrong[0]!r}; write '**/' or '*'")
    files: Iterable[Path]
    if "**" in parts:
        first = parts.index("**")
        folders = root.glob("/".join(parts[:first])) if first else [root]
        files = files_below(*(folder for folder in folders if folder.is_dir()))
    else:
        files = root.glob(pattern)
    fits = re.compile("".join(_folder_regex(part) for part in parts[:-1]) + _regex(parts[-1], groups=False), re.DOTALL)
    found: dict[Path, str] = {}
    for path in sorted(path for path in files if is_image(path)):
        if match := fits.fullmatch(path.relative_to(root).as_posix()):
            place = "/".join(group.strip("/") for group in match.groups())
            if not any(is_pruned(part) for part in place.split("/")):
                found[path] = place
    if not found:
        raise UserError(f"no images match {pattern!r} in {root}; give other patterns for lq and gt")
    return found


def pair_by_folder(lq: Places, gt: Places, rule: Rule) -> Pairing:
    """Pair the files of two patterns: first those whose wildcards agree, then, by names that occur once, the others."""
    result = Pairing()
    degraded, clean = _by_place(lq), _by_place(gt)
    for place in degraded.keys() & clean.keys() if len(degraded.keys() | clean.keys()) > 1 else ():
        found = pair_by_name(degraded[place], clean[place], rule)
        result.pairs += found.pairs
        result.faults += [fault for fault in found.faults if fault.kind == "duplicate"]
    settled = {file for pair in result.pairs for file in pair}
    settled |= {file for fault in result.faults for file in fault.files}
    rest = pair_by_name(
        [file for file in lq if file not in settled], [file for file in gt if rule.shared or file not in settled], rule
    )
    if result.pairs:  # a name that occurs in several folders belongs to one of them, and it is unknown to which
        often = [Counter(file.stem for file in files) for files in (lq, gt)]
        doubtful = [pair for pair in rest.pairs if any(n[file.stem] > 1 for n, file in zip(often, pair, strict=True))]
        if doubtful:
            files = tuple(degraded for degraded, _ in doubtful)
            rest.faults.append(Fault("orphan", files, "degraded images without a ground truth in the same folder"))
        rest.pairs = [pair for pair in rest.pairs if pair not in doubtful]
    pairs = sorted(result.pairs + rest.pairs)
    return Pairing(pairs, result.faults + rest.faults)


def _half(split: Split) -> UserError:
    names = "lq and gt" if split == "test" else f"{split}_lq and {split}_gt"
    return UserError(f"the {split} pairs need both patterns, {names}; give the other one, too")


def _by_place(files: Places) -> dict[str, list[Path]]:
    places: dict[str, list[Path]] = defaultdict(list)
    for file, place in files.items():
        places[place].append(file)
    return places


def _names(files: Iterable[Path], places: Places, root: Path) -> dict[Path, str]:
    """Return a name for each file: its stem, with its folder where several files have that stem."""
    names = {file: file.stem for file in files}
    for longer in (
        lambda file: "_".join([*places[file].split("/"), file.stem]),
        lambda file: file.relative_to(root).as_posix().replace("/", "_"),
    ):
        times = Counter(names.values())
        names = {file: longer(file) if times[name] > 1 else name for file, name in names.items()}
    return names


def _folder_regex(part: str) -> str:
    return "((?:[^/]+/)*)" if part == "**" else f"{_regex(part)}/"


def _regex(part: str, groups: bool = True) -> str:
    """Return one part of a glob pattern as a regular expression; what a wildcard stands for is a group."""
    wildcard = "([^/]*)" if groups else "[^/]*"
    tokens = re.findall(r"\*+|\?|\[!?\]?[^]]*\]|.", part, re.DOTALL)
    translated = []
    for token in tokens:
        if token[0] == "*":
            translated.append(wildcard)
        elif token == "?":
            translated.append("([^/])" if groups else "[^/]")
        elif token[0] == "[" and len(token) > 1:
            inside = token[1:-1].replace("\\", r"\\")
            inside = f"^{inside[1:]}" if inside[0] == "!" else inside
            translated.append(f"([{inside}])" if groups else f"[{inside}]")
        else:
            translated.append(re.escape(token))
    return "".join(translated)
