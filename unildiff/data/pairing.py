"""Which ground truth belongs to which degraded image: by name and a dataset's rule, never by the order of a listing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unildiff.utils.errors import UserError, did_you_mean
from unildiff.utils.files import some

FaultKind = Literal["orphan", "duplicate", "size", "unreadable", "layout"]


@dataclass(frozen=True)
class Rule:
    """How the stem of a degraded image leads to the stem of its ground truth.

    Attributes:
        candidates: stem -> stems to look for, in this order; suffixes never matter (jpg against png).
        shared: several degraded images may share one ground truth, and one without a degraded image is not a fault.
        text: the rule in words.
    """

    candidates: Callable[[str], tuple[str, ...]]
    text: str
    shared: bool = False


def _bsd(stem: str) -> tuple[str, ...]:
    return (stem, f"a{stem}", stem[1:]) if stem[:1] == "a" and stem[1:].isdigit() else (stem, f"a{stem}")


def _two_parts(stem: str) -> tuple[str, ...]:
    return (stem, "_".join(stem.split("_")[:2]))


# docs/sources.md says which project's code each rule follows.
RULES: Mapping[str, Rule] = {
    "same": Rule(lambda stem: (stem,), "same name"),
    "prefix": Rule(lambda stem: (stem, stem.split("_")[0]), "same name, or the part before the first '_'", shared=True),
    "no": Rule(lambda stem: (stem, f"no{stem}"), "same name, or 'no' + name (rain-1 and norain-1)"),
    "bsd": Rule(_bsd, "same name, with or without the leading 'a' of BSD400"),
    "two_parts": Rule(_two_parts, "same name, or the part before the second '_' (Outdoor-Rain)", shared=True),
    "raindrop": Rule(lambda stem: (stem, stem.removesuffix("_rain") + "_clean"), "same name, or N_rain and N_clean"),
}


def rule_named(name: str) -> Rule:
    """Return a rule by its name, or for ``template:{}_lq`` the one by which such names belong to the plain ones.

    Raises:
        UserError: there is no such rule.
    """
    if name in RULES:
        return RULES[name]
    kind, _, template = name.partition(":")
    if kind != "template" or template.count("{}") != 1:
        raise UserError(
            f"rule: no {name!r}; {did_you_mean(name, RULES)}choose from {', '.join(RULES)}, or give a template as in template:{{}}_lq"
        )
    before, after = template.split("{}")

    def plain(stem: str) -> tuple[str, ...]:
        fits = stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)
        return (stem[len(before) : len(stem) - len(after)],) if fits else ()

    return Rule(plain, f"{template}, {{}} being the name of the ground truth")


@dataclass(frozen=True)
class Fault:
    """One kind of fault and the files it concerns."""

    kind: FaultKind
    files: tuple[Path, ...]
    text: str

    def __str__(self) -> str:
        return f"{len(self.files)} {self.text}: {some(list(map(str, self.files)))}"


@dataclass
class Pairing:
    """Pairs (degraded, ground truth) in the order of the degraded images, and what is wrong with the rest."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def pair_by_name(lq: Sequence[Path], gt: Sequence[Path], rule: Rule) -> Pairing:
    """Pair degraded images with their ground truth by ``rule``.

    Returns:
        The pairs that are beyond doubt, and as faults: degraded images without a ground truth, ground truth without a
        degraded image (unless the rule shares it), and stems that several files have; such files are in no pair.
    """
    clean, degraded = _by_stem(gt), _by_stem(lq)
    result = Pairing()
    orphans, used = [], set()
    for stem, files in degraded.items():
        found = next((name for name in rule.candidates(stem) if name in clean), None)
        if found is None:
            orphans.extend(files)
            continue
        used.add(found)
        if len(files) == 1 and len(clean[found]) == 1:
            result.pairs.append((files[0], clean[found][0]))
    idle = [] if rule.shared else [file for stem in clean if stem not in used for file in clean[stem]]
    doubled = [file for group in (degraded, clean) for files in group.values() if len(files) > 1 for file in files]
    claims: dict[Path, list[Path]] = defaultdict(list)
    for one, other in result.pairs:
        claims[other].append(one)
    twice = [one for files in claims.values() if len(files) > 1 and not rule.shared for one in files]
    result.pairs = [pair for pair in result.pairs if pair[0] not in set(twice)]
    found_faults: list[tuple[FaultKind, list[Path], str]] = [
        ("orphan", orphans, f"degraded without a ground truth ({rule.text})"),
        ("orphan", idle, f"ground truth without a degraded image ({rule.text})"),
        ("duplicate", doubled, "files share a name with another"),
        ("duplicate", twice, "degraded images claim one ground truth"),
    ]
    result.faults = [Fault(kind, tuple(files), text) for kind, files, text in found_faults if files]
    return result


def size_faults(pairs: Iterable[tuple[Path, Path]], sizes: Callable[[Path], tuple[int, int]]) -> Iterator[Fault]:
    """Yield a fault for each pair whose sizes differ and each file whose size ``sizes`` cannot read."""
    for pair in pairs:
        read = []
        for path in pair:
            try:
                read.append(sizes(path))
            except UserError as error:
                yield Fault("unreadable", (path,), str(error))
        if len(read) == 2 and read[0] != read[1]:
            (height, width), (gt_height, gt_width) = read
            yield Fault("size", pair, f"files of unequal size ({width}x{height} against {gt_width}x{gt_height})")


def _by_stem(files: Sequence[Path]) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_stem[file.stem].append(file)
    return by_stem
