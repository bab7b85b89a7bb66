"""A scored run, as it lies in a folder: ``scores.csv`` (a line a picture), ``run.json`` (how it was made), pictures.

``scores.csv`` has the columns ``degradation, name, psnr, ssim, input_psnr, input_ssim`` and any others: numbers are
metrics (an empty cell: not computed), the rest text. ``run.json`` must have

- ``model``, ``data``, ``protocol``: names, as a reader should see them;
- ``data_kind``: ``real`` or ``sample``; ``blind``: false where the model was told the degradation;
- ``count``: how many pictures the data set has, in all or as a mapping by degradation;

and may have ``label``, ``seed``, the sampler's ``steps``, ``guidance_scale``, ``start``, ``last_timestep``,
``guidance_interval`` and ``tile_size`` (what differs there is no seed of the same), ``time_per_picture_s``, ``peak_memory_mib``,
``command``, ``commit``, ``versions``, ``notes`` (sentences for the table) and ``stages``: a list of ``{"label": ...,
"scores": FILE in the folder, "reference": true where the truth itself went in}``, which become rows of the table.

Pictures lie in ``restored/<degradation>/<name>.png``; inputs and truths likewise in ``input/`` and ``truth/``, or where
the columns ``input_path`` and ``truth_path`` say.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unildiff.utils.errors import UserError

FloatArray = NDArray[np.float64]
Cell = str | float | int | None
PictureKind = Literal["input", "restored", "truth"]

REQUIRED_COLUMNS = ("degradation", "name", "psnr", "ssim", "input_psnr", "input_ssim")
_REQUIRED_KEYS = ("model", "data", "data_kind", "count", "protocol", "blind")
_KINDS: dict[str, tuple[Any, str]] = {
    "blind": (bool, "true or false"),
    "count": (int | dict, "a number, or numbers by degradation"),
    "time_per_picture_s": (int | float, "a number of seconds"),
    "peak_memory_mib": (int | float, "a number of MiB"),
    "notes": (list, "a list of sentences"),
    "stages": (list, 'a list of {"label": ..., "scores": FILE}'),
}


@dataclass(frozen=True)
class Scores:
    """Per-picture scores, column by column; entry i of every column belongs to picture i.

    Attributes:
        degradations: name of the degradation of each of the N pictures.
        names: file stem of each, unique within a degradation.
        metrics: (N,) float64 by metric; NaN where it was not computed.
        texts: columns that are not numbers.
    """

    degradations: tuple[str, ...]
    names: tuple[str, ...]
    metrics: dict[str, FloatArray]
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Cell]], where: str = "rows") -> "Scores":
        """Build from one mapping a picture.

        Args:
            rows: mappings with at least :data:`REQUIRED_COLUMNS`.
            where: what to call them in an error.

        Raises:
            UserError: no row, a column missing, a score that is no number, or a picture that is there twice.
        """
        if not rows:
            raise UserError(f"no scores: {where} has no line, score the run again")
        missing = [column for column in REQUIRED_COLUMNS if column not in rows[0]]
        if missing:
            raise UserError(f"columns missing: {where} has no {', '.join(missing)}, score the run again")
        pictures = [(str(row["degradation"]), str(row["name"])) for row in rows]
        twice = [picture for picture, times in Counter(pictures).items() if times > 1]
        if twice:
            raise UserError(f"a picture is scored twice: {where}, {'/'.join(twice[0])} and {len(twice) - 1} others")
        metrics: dict[str, FloatArray] = {}
        texts: dict[str, tuple[str, ...]] = {}
        for column in rows[0]:
            cells = [row.get(column) for row in rows]
            if column in ("degradation", "name"):
                continue
            try:
                metrics[column] = np.array([_number(cell) for cell in cells])
            except ValueError:
                if column in REQUIRED_COLUMNS:
                    bad = next(str(cell) for cell in cells if not _is_number(cell))
                    raise UserError(f"not a number: {where}, column {column}, '{bad}', score the run again") from None
                texts[column] = tuple("" if cell is None else str(cell) for cell in cells)
        return cls(tuple(d for d, _ in pictures), tuple(n for _, n in pictures), metrics, texts)

    @classmethod
    def read(cls, path: Path) -> "Scores":
        """Read a CSV file; raises UserError like :meth:`from_rows`, or when it cannot be read."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read scores: {path}, {error}, score the run again") from None
        return cls.from_rows(rows, str(path))

    def __len__(self) -> int:
        return len(self.names)

    def counts(self) -> dict[str, int]:
        """Number of pictures by degradation, in order of appearance."""
        return dict(Counter(self.degradations))

    def values(self, degradation: str, metric: str) -> dict[str, float]:
        """Scores of one degradation by picture name; empty when it is not there or the metric was not computed."""
        column = self.metrics.get(metric)
        if column is None:
            return {}
        return {
            name: float(value)
            for name, found, value in zip(self.names, self.degradations, column, strict=True)
            if found == degradation
        }


def _number(cell: Cell) -> float:
    return float("nan") if cell is None or cell == "" else float(cell)


def _is_number(cell: Cell) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Stage:
    """Scores of an intermediate result of the same run; ``reference`` where the truth itself went in."""

    label: str
    scores: Scores
    reference: bool = False


@dataclass(frozen=True)
class Run:
    """A scored run.

    Attributes:
        folder: where it lies.
        label: what its row is called.
        info: ``run.json``, whole.
        scores: its final pictures' scores.
        stages: intermediate results, in the order in which they should stand.
        group: what the user calls it and its like; runs of one group are seeds of one thing. "": not said.
    """

    folder: Path
    label: str
    info: dict[str, Any]
    scores: Scores
    stages: tuple[Stage, ...] = ()
    group: str = ""

    @property
    def blind(self) -> bool:
        """False where the model was told the degradation."""
        return bool(self.info["blind"])

    def picture(self, kind: PictureKind, index: int) -> Path | None:
        """Return where picture ``index`` of ``scores`` lies, or ``None`` where it was not kept.

        Looked for, in this order: the text column ``{kind}_path`` (absolute or relative to the run's folder),
        ``{kind}/<degradation>/<name>.png`` and ``{kind}/<name>.png`` in the run's folder.
        """
        degradation, name = self.scores.degradations[index], self.scores.names[index]
        places = [self.folder / kind / degradation / f"{name}.png", self.folder / kind / f"{name}.png"]
        column = self.scores.texts.get(f"{kind}_path")
        if column and column[index]:
            places.insert(0, self.folder / column[index])
        return next((place for place in places if place.is_file()), None)

    @property
    def data_kind(self) -> Literal["real", "sample"]:
        """Whether the pictures are the real data set's or a sample set's."""
        return "real" if self.info["data_kind"] == "real" else "sample"


def make_run(
    folder: Path, info: Mapping[str, Any], rows: Scores | Sequence[Mapping[str, Cell]], stages: Iterable[Stage] = ()
) -> Run:
    """Put a run together and check it: every rule of :func:`load_run` but those about files.

    Raises:
        UserError: a key of ``info`` is missing or the number of pictures is not that of the data set.
    """
    where = str(folder)
    missing = [key for key in _REQUIRED_KEYS if key not in info]
    if missing:
        raise UserError(f"provenance missing: {where}/run.json has no {', '.join(missing)}, test the model again")
    for key, (kinds, wanted) in _KINDS.items():
        if info.get(key) is not None and not isinstance(info[key], kinds):
            raise UserError(f"{key}: {where}/run.json, '{info[key]}', must be {wanted}")
    if info["data_kind"] not in ("real", "sample"):
        raise UserError(f"data_kind: {where}/run.json, '{info['data_kind']}', must be real or sample")
    scores = rows if isinstance(rows, Scores) else Scores.from_rows(rows, where)
    run = Run(folder, str(info.get("label") or f"ours: {info['model']}"), dict(info), scores, tuple(stages))
    for part, label in [(scores, "scores.csv"), *((stage.scores, f"stage '{stage.label}'") for stage in run.stages)]:
        _check_count(part, info["count"], info["data"], f"{where}, {label}")
    return run


def _check_count(scores: Scores, expected: Any, data: str, where: str) -> None:
    if isinstance(expected, Mapping):
        found = scores.counts()
        for degradation in sorted({*expected, *found}):
            have, want = found.get(degradation, 0), expected.get(degradation, 0)
            if have != want:
                raise UserError(f"wrong number of pictures: {where} has {have} of {degradation}, {data} has {want}")
    elif len(scores) != expected:
        raise UserError(
            f"wrong number of pictures: {where} has {len(scores)}, {data} has {expected}, score all of them"
        )


def load_run(path: Path) -> Run:
    """Read a scored run's folder.

    Args:
        path: a folder with ``scores.csv`` and ``run.json``.

    Returns:
        The run with its stages.

    Raises:
        UserError: the folder is no scored run, its files are broken, or its number of pictures is not the data set's.
    """
    for name in ("scores.csv", "run.json"):
        if not (path / name).is_file():
            raise UserError(f"no scored run: {path} has no {name}, give a folder that `unildiff test` wrote")
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"broken provenance: {path}/run.json, {error}, test the model again") from None
    if not isinstance(info, dict):
        raise UserError(f"broken provenance: {path}/run.json, a {type(info).__name__}, must be a JSON object")
    stages = []
    for stage in info.get("stages") or []:
        if not isinstance(stage, dict) or not {"label", "scores"} <= stage.keys():
            raise UserError(f"stages: {path}/run.json, '{stage}', must have a label and scores, test the model again")
        scores = Scores.read(path / str(stage["scores"]))
        stages.append(Stage(str(stage["label"]), scores, bool(stage.get("reference", False))))
    return make_run(path, info, Scores.read(path / "scores.csv"), stages)


def load_named_run(given: str) -> Run:
    """Read a scored run that is given as FOLDER or LABEL=FOLDER.

    Raises:
        UserError: as :func:`load_run`, or an empty label.
    """
    if "=" not in given or Path(given).is_dir():
        return load_run(Path(given))
    label, folder = labelled(given)
    return replace(load_run(folder), label=label, group=label)


def labelled(given: str) -> tuple[str, Path]:
    """Return label and folder of LABEL=FOLDER.

    Raises:
        UserError: one of them is missing.
    """
    label, equals, folder = given.partition("=")
    if not (label and equals and folder):
        raise UserError(f"label missing: '{given}', give LABEL=FOLDER")
    return label, Path(folder)
