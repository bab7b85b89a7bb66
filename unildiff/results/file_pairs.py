"""Pair restored images with their ground truth (and input) in folders that any method wrote."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unildiff.data.images import image_size, list_images
from unildiff.utils.errors import UserError
from unildiff.utils.files import some

Rule = Literal["exact", "prefix", "no-prefix"]

# From the stem of a restored image to the stem of its ground truth, as the public loaders of these sets do.
_STEMS: dict[Rule, Callable[[str], str]] = {
    "exact": lambda stem: stem,
    "prefix": lambda stem: stem.split("_")[0],  # SOTS: 0001_0.8_0.2 has the ground truth 0001
    "no-prefix": lambda stem: f"no{stem}",  # Rain100L, RainTrainL: rain-1 has the ground truth norain-1
}


@dataclass(frozen=True)
class ScoredPair:
    """A restored image and its ground truth; `degradation` is "" where the folder has none, `input` None where not given."""

    degradation: str
    name: str
    restored: Path
    gt: Path
    input: Path | None = None


def find_pairs(restored: Path, gt: Path, rule: Rule = "exact", inputs: Path | None = None) -> list[ScoredPair]:
    """Pair folders by name, whatever the suffixes.

    Args:
        restored: Images, or folders of images, one per degradation (the ground truth's folder among them is skipped).
        gt: Images; or folders of the same names as those of `restored`.
        rule: `exact`: same stem. `prefix`: the ground truth's stem is the part before the first "_". `no-prefix`: the
            ground truth's stem has "no" in front.
        inputs: The degraded images, arranged and named as `restored`; None: none are used.

    Returns:
        The pairs, sorted by degradation and name.

    Raises:
        UserError: A folder is missing or has no image; an image has no partner, two partners, or one of another size. The
            message names some of them and counts the rest.
    """
    skipped = {folder.resolve() for folder in (gt, inputs) if folder is not None}
    if list_images(restored):
        if folders := _image_folders(restored, skipped):
            raise UserError(f"both images and folders of images in {restored}: {some(folders)}; move one kind away")
        groups = {"": restored}
    else:
        groups = {name: restored / name for name in _image_folders(restored, skipped)}
        if not groups:
            raise UserError(f"no images in {restored} nor in the folders below it; give the folder that holds them")
    pairs: list[ScoredPair] = []
    problems: list[str] = []
    for degradation, folder in groups.items():
        pairs += _pair_folder(degradation, folder, _below(gt, degradation), rule, problems)
    if inputs is not None:
        pairs = _with_inputs(pairs, inputs, problems)
    if problems:
        raise UserError(f"{'; '.join(problems)}; complete the folders or choose another --rule (now {rule})")
    _check_sizes(pairs)
    return pairs


def _below(folder: Path, degradation: str) -> Path:
    return folder / degradation if (folder / degradation).is_dir() else folder


def _with_inputs(pairs: list[ScoredPair], inputs: Path, problems: list[str]) -> list[ScoredPair]:
    found = {name: _by_stem(_below(inputs, name)) for name in {pair.degradation for pair in pairs}}
    result = [replace(pair, input=found[pair.degradation].get(pair.name)) for pair in pairs]
    missing = ["/".join(filter(None, (pair.degradation, pair.name))) for pair in result if pair.input is None]
    if missing:
        problems.append(f"{len(missing)} of the restored images have no input in {inputs}: {some(missing)}")
    return result


def _image_folders(folder: Path, skipped: set[Path]) -> list[str]:
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path.name for path in below if path.resolve() not in skipped and list_images(path)]


def _pair_folder(degradation: str, folder: Path, gt: Path, rule: Rule, problems: list[str]) -> list[ScoredPair]:
    partners = _by_stem(gt)
    images = _by_stem(folder)
    stems = {stem: _STEMS[rule](stem) for stem in images}
    extra = [stem for stem, partner in stems.items() if partner not in partners]
    missing = sorted(partners.keys() - stems.values())
    if extra:
        problems.append(f"{len(extra)} in {folder} have no ground truth in {gt}: {some(extra)}")
    if missing:
        problems.append(f"{len(missing)} of {gt} are missing in {folder}: {some(missing)}")
    return [
        ScoredPair(degradation, stem, images[stem], partners[partner])
        for stem, partner in stems.items()
        if partner in partners
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise UserError(f"two images of one name: {found[path.stem]} and {path}; remove one")
        found[path.stem] = path
    if not found:
        raise UserError(f"no images in {folder}; give the folder that holds the ground truth")
    return found


def _check_sizes(pairs: list[ScoredPair]) -> None:
    wrong = []
    for pair in pairs:
        gt = image_size(pair.gt)
        for path in filter(None, (pair.restored, pair.input)):
            size = image_size(path)
            if size != gt:
                wrong.append(f"{path} is {size[1]}x{size[0]}, {pair.gt} {gt[1]}x{gt[0]}")
    if wrong:
        raise UserError(
            f"{len(wrong)} images differ in size from their ground truth: {some(wrong)}; restore at full size"
        )
