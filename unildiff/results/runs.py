"""A scored run: the folder that `unildiff test` or `unildiff score --run_dir` wrote, a bundle, or a plain table of scores.

A folder has `scores.csv` (one line per image) and usually `run.json` (how the run was made), with `model`, `data`,
`protocol` (names), `data_kind` (`real` or `sample`), `published` (false if published results are of other images), `blind`
(false if the model was told the degradation), `count` (number of images of the dataset, in all or by degradation), `label`,
the sampler's settings, `notes` for the table, and `stages`: a list of
`{"label": ..., "scores": FILE, "reference": true if the ground truth was used}`, which become rows of the table. Facts that
were not recorded stay empty. Images are in `restored/<degradation>/<name>.png`, `input/...` and `truth/...`, or
at the paths in the columns `restored_path`, `input_path` and `truth_path`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from unildiff.metrics.names import MetricInfo, recorded_metric
from unildiff.metrics.rows import Row, checked, read_csv
from unildiff.results.bundle import opened_bundle
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json

ImageKind = Literal["input", "restored", "truth"]

_KINDS: dict[str, tuple[Any, str]] = {
    "blind": (bool, "true or false"),
    "published": (bool, "true or false"),
    "count": (int | dict, "a number, or numbers by degradation"),
    "time_per_picture_s": (int | float, "a number of seconds"),
    "peak_memory_mib": (int | float, "a number of MiB"),
    "notes": (list, "a list of sentences"),
    "metric_settings": (list, "a list of sentences"),
    "stages": (list, 'a list of {"label": ..., "scores": FILE}'),
}


class Stage(NamedTuple):
    """Scores of an intermediate result of the same run; `reference` if the ground truth itself was used."""

    label: str
    scores: pd.DataFrame
    reference: bool = False


@dataclass(frozen=True)
class Run:
    """A scored run.

    Attributes:
        folder: Its folder; for a file of scores, the file.
        label: Name of its row.
        info: The content of `run.json`; empty without it.
        scores: One line per image, see `rows`.
        stages: Intermediate results, in the order of their rows.
        group: Label that the user gave to several runs, which are then seeds of one method; "" if not given.
        roots: Folders beside the run's own from which images may be shown, e.g. the dataset's.
        bundle: The bundle that was unpacked into `folder`, if any.
        has_images: Whether that bundle holds the restored images.
    """

    folder: Path
    label: str
    info: dict[str, Any]
    scores: pd.DataFrame
    stages: tuple[Stage, ...] = ()
    group: str = ""
    roots: tuple[Path, ...] = ()
    bundle: Path | None = None
    has_images: bool = False

    @property
    def where(self) -> Path:
        """The path that the user gave."""
        return self.bundle or self.folder

    @property
    def blind(self) -> bool | None:
        """Whether the model was not told the degradation; None if that was not recorded."""
        return self.info.get("blind")

    @property
    def data_kind(self) -> Literal["real", "sample", ""]:
        """Whether the images are the real dataset's or a sample set's; "" if that was not recorded."""
        return self.info.get("data_kind") or ""

    @property
    def has_other_images(self) -> bool:
        """Whether the images are known not to be those of published results."""
        return self.data_kind == "sample" or self.info.get("published") is False

    def metric(self, name: str) -> MetricInfo:
        """Return the properties of a metric as they were recorded with the scores."""
        return recorded_metric(name, [str(line) for line in self.info.get("metric_settings") or ()])

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of images by degradation, in order of appearance."""
        return {str(name): int(count) for name, count in self.scores.groupby("degradation", sort=False).size().items()}

    @cached_property
    def images(self) -> frozenset[tuple[str, str]]:
        """(degradation, name) of every image."""
        return frozenset(zip(self.scores["degradation"], self.scores["name"], strict=True))

    def image(self, kind: ImageKind, index: int) -> Path | None:
        """Return the path of image `index` of `scores`, or None if it was not kept.

        The text column `{kind}_path` (absolute or relative to the run's folder) comes first, then
        `{kind}/<degradation>/<name>.png` and `{kind}/<name>.png`. Files outside the run's folder and `roots` are not
        returned, so that a table of scores cannot publish a private file.
        """
        line = self.scores.iloc[index]
        given = line.get(f"{kind}_path")
        places = [given] if isinstance(given, str) and given else []
        places += [f"{kind}/{line['degradation']}/{line['name']}.png", f"{kind}/{line['name']}.png"]
        allowed = [root.resolve() for root in (self.folder, *self.roots)]
        for place in (self.folder / place for place in places):
            found = place.resolve()
            if any(found.is_relative_to(root) for root in allowed) and found.is_file():
                return place
        return None


def make_run(
    folder: Path, info: Mapping[str, Any], scores: pd.DataFrame | Sequence[Row], stages: Iterable[Stage] = ()
) -> Run:
    """Return a run after checking the types in `info` and the number of images; raises a UserError."""
    where = str(folder)
    for key, (kinds, expected) in _KINDS.items():
        if info.get(key) is not None and not isinstance(info[key], kinds):
            raise UserError(f"{key}: {where}/run.json, '{info[key]}', must be {expected}")
    if info.get("data_kind") not in ("real", "sample", None):
        raise UserError(f"data_kind: {where}/run.json, '{info['data_kind']}', must be real or sample")
    frame = scores if isinstance(scores, pd.DataFrame) else checked(scores, where)
    label = info.get("label") or info.get("model") or folder.stem
    run = Run(folder, str(label), dict(info), frame, tuple(stages))
    for part, title in [(frame, "scores.csv"), *((stage.scores, f"stage '{stage.label}'") for stage in run.stages)]:
        _check_count(part, info.get("count"), info.get("data") or "its dataset", f"{where}, {title}")
    return run


def _check_count(scores: pd.DataFrame, expected: Any, data: str, where: str) -> None:
    if isinstance(expected, Mapping):
        found = scores.groupby("degradation").size().to_dict()
        for degradation in sorted({*expected, *found}):
            have, want = found.get(degradation, 0), expected.get(degradation, 0)
            if have != want:
                raise UserError(f"wrong number of images: {where} has {have} of {degradation}, {data} has {want}")
    elif expected is not None and len(scores) != expected:
        raise UserError(f"wrong number of images: {where} has {len(scores)}, {data} has {expected}; score all of them")


def load_run(path: Path, roots: Sequence[Path] = ()) -> Run:
    """Read a scored run.

    Args:
        path: A folder with `scores.csv`, a bundle (.zip), or a .csv or .json file that `unildiff score` wrote.
        roots: Folders beside the run's own from which images may be shown.

    Raises:
        UserError: The path is not a scored run, its files are damaged, or its number of images is not the dataset's.
    """
    if path.is_file() and path.suffix.lower() == ".zip":
        folder, manifest = opened_bundle(path)
        try:
            run = _load_folder(folder, path)
        except UserError as error:  # the user knows the bundle, not the folder that it was unpacked to
            raise UserError(str(error).replace(str(folder), str(path))) from None
        return replace(run, roots=tuple(roots), bundle=path, has_images=bool(manifest["images"]))
    if path.is_file():
        return _load_json(path) if path.suffix == ".json" else make_run(path, {}, read_csv(path))
    return replace(_load_folder(path, path), roots=tuple(roots))


def _load_folder(folder: Path, named: Path) -> Run:
    if not (folder / "scores.csv").is_file():
        raise UserError(
            f"not a scored run: {named} has no scores.csv; give a folder that `unildiff test` or "
            "`unildiff score --run_dir` wrote, a bundle, or a table of scores (.csv)"
        )
    info: Any = {}
    if (folder / "run.json").is_file():
        try:
            info = parse_json((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"broken provenance: {named}/run.json ({error}); test the model again") from None
    if not isinstance(info, dict):
        raise UserError(f"broken provenance: {named}/run.json is a {type(info).__name__}, must be a JSON object")
    stages = []
    listed = info.get("stages") or []
    for stage in listed if isinstance(listed, list) else []:
        if not isinstance(stage, dict) or not {"label", "scores"} <= stage.keys():
            raise UserError(f"stages: {named}/run.json, '{stage}', must have a label and scores; test the model again")
        file = folder / str(stage["scores"])
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"stages: {named}/run.json, {str(stage['scores'])!r} lies outside the run's folder")
        scores = read_csv(file)
        stages.append(Stage(str(stage["label"]), scores, bool(stage.get("reference", False))))
    run = make_run(folder, info, read_csv(folder / "scores.csv"), stages)
    return run if info.get("label") or info.get("model") else replace(run, label=named.stem)


def _load_json(path: Path) -> Run:
    try:
        results = parse_json(path.read_text(encoding="utf-8"))["results"]
        if len(results) > 1:
            raise UserError(f"several protocols: {path} has {len(results)}; score under one, --protocol NAME")
        rows = results[0].get("images") or results[0]["pictures"]  # the key of files written by 0.1.0
        protocol = results[0]["protocol"]["name"]
        return make_run(path, {"protocol": protocol}, checked(rows, str(path)))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise UserError(
            f"no scores: {path} ({type(error).__name__}: {error}); give a folder that `unildiff test` wrote, or what "
            "`unildiff score` wrote with --csv or --json"
        ) from None


def load_named_run(given: str, roots: Sequence[Path] = ()) -> Run:
    """Read a scored run that is given as PATH or LABEL=PATH, see :func:`load_run`."""
    if "=" not in given or Path(given).exists():
        return load_run(Path(given), roots)
    label, folder = labelled(given)
    return replace(load_run(folder, roots), label=label, group=label)


def labelled(given: str) -> tuple[str, Path]:
    """Return label and path of LABEL=PATH; raises a UserError if one of them is missing."""
    label, equals, folder = given.partition("=")
    if not (label and equals and folder):
        raise UserError(f"label missing: '{given}'; give LABEL=FOLDER")
    return label, Path(folder)


def with_distinct_labels(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with data, seed or a distinct part of the path added to labels that would be equal."""
    labels = [run.label for run in runs]
    for key in ("data", "seed", "folder"):
        for label in {label for label in labels if labels.count(label) > 1}:
            members = [index for index, each in enumerate(labels) if each == label]
            if key == "folder":
                additions = distinct_names([runs[index].where for index in members])
            else:
                known = [runs[index].info.get(key) for index in members]
                additions = ["" if value is None else str(value) for value in known]
            if len(set(additions)) > 1:
                for index, addition in zip(members, additions, strict=True):
                    labels[index] += f", {'seed ' if key == 'seed' else ''}{addition}" if addition else ""
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the part of each path that is distinct: `a` and `b` for runs/a/test and runs/b/test."""
    parts = [folder.resolve().parts for folder in folders]
    while len(parts) > 1 and len({each[-1:] for each in parts}) == 1 and len(parts[0]) > 1:
        parts = [each[:-1] for each in parts]
    for length in range(1, max(map(len, parts))):
        tails = ["/".join(each[-length:]) for each in parts]
        if len(set(tails)) == len(tails):
            return tails
    return ["/".join(each) for each in parts]
