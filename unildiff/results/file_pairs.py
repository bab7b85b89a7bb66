"""Which restored picture belongs to which clean one, for folders that anybody's method wrote."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unildiff.data.images import image_size, list_images
from unildiff.utils.errors import UserError
from unildiff.utils.files import some

Rule = Literal["exact", "prefix", "no-prefix"]

# From the stem of a restored picture to the stem of its truth (peers.md 1.4, 1.6, 1.9).
_STEMS: dict[Rule, Callable[[str], str]] = {
    "exact": lambda stem: stem,
    "prefix": lambda stem: stem.split("_")[0],  # SOTS: 0001_0.8_0.2 has the truth 0001
    "no-prefix": lambda stem: f"no{stem}",  # Rain100L, RainTrainL: rain-1 has the truth norain-1
}


@dataclass(frozen=True)
class ScoredPair:
    """A restored picture and its truth; `degradation` is "" where the folder has none."""

    degradation: str
    name: str
    restored: Path
    clean: Path


def find_pairs(restored: Path, clean: Path, rule: Rule = "exact") -> list[ScoredPair]:
    """Pair two folders by name, whatever the suffixes.

    Args:
        restored: Pictures, or folders of pictures, one a degradation (the clean folder itself among them is passed over).
        clean: Pictures; or folders of the same names as those of `restored`.
        rule: `exact`: same stem. `prefix`: the truth's stem is what stands before the first "_". `no-prefix`: the truth's
            stem has "no" in front.

    Returns:
        The pairs, sorted by degradation and name.

    Raises:
        UserError: A folder is missing or has no picture; a picture has no partner on either side, two partners, or one of
            another size. The message names some of them and counts the rest.
    """
    if list_images(restored):
        if folders := _picture_folders(restored, clean):
            raise UserError(f"both pictures and folders of pictures in {restored}: {some(folders)}; move one kind away")
        groups = {"": restored}
    else:
        groups = {name: restored / name for name in _picture_folders(restored, clean)}
        if not groups:
            raise UserError(f"no pictures in {restored} nor in the folders below it; give the folder that holds them")
    pairs: list[ScoredPair] = []
    problems: list[str] = []
    for degradation, folder in groups.items():
        truth = clean / degradation if (clean / degradation).is_dir() else clean
        pairs += _pair_folder(degradation, folder, truth, rule, problems)
    if problems:
        raise UserError(f"{'; '.join(problems)}; complete the folders or choose another --rule (now {rule})")
    _check_sizes(pairs)
    return pairs


def _picture_folders(folder: Path, clean: Path) -> list[str]:
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path.name for path in below if path.resolve() != clean.resolve() and list_images(path)]


def _pair_folder(degradation: str, folder: Path, truth: Path, rule: Rule, problems: list[str]) -> list[ScoredPair]:
    cleans = _by_stem(truth)
    pictures = _by_stem(folder)
    stems = {stem: _STEMS[rule](stem) for stem in pictures}
    extra = [stem for stem, partner in stems.items() if partner not in cleans]
    missing = sorted(cleans.keys() - stems.values())
    if extra:
        problems.append(f"{len(extra)} in {folder} have no truth in {truth}: {some(extra)}")
    if missing:
        problems.append(f"{len(missing)} of {truth} are missing in {folder}: {some(missing)}")
    return [
        ScoredPair(degradation, stem, pictures[stem], cleans[partner])
        for stem, partner in stems.items()
        if partner in cleans
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise UserError(f"two pictures of one name: {found[path.stem]} and {path}; remove one")
        found[path.stem] = path
    if not found:
        raise UserError(f"no pictures in {folder}; give the folder that holds the clean pictures")
    return found


def _check_sizes(pairs: list[ScoredPair]) -> None:
    wrong = []
    for pair in pairs:
        restored, clean = image_size(pair.restored), image_size(pair.clean)
        if restored != clean:
            wrong.append(f"{pair.restored} is {restored[1]}x{restored[0]}, {pair.clean} {clean[1]}x{clean[0]}")
    if wrong:
        raise UserError(f"{len(wrong)} pictures differ in size from their truth: {some(wrong)}; restore at full size")
