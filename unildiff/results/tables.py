"""The paper's tables with your own runs beside the paper's rows, as data: figures, ranks, and the text around them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd

from unildiff.results import Rows, TableId
from unildiff.results.notes import USUAL_SAMPLING, header_block, table_notes
from unildiff.results.runs import Run, with_distinct_labels
from unildiff.results.specs import METRICS, PRINTED, TableSpec, published, table_spec
from unildiff.results.statistics import bootstrap_interval
from unildiff.utils.errors import UserError

RowKind = Literal["paper", "published", "input", "reference", "stage", "ours", "low", "high", "difference", "seeds"]
INDENTED = ("reference", "stage", "low", "high", "difference")
_OWN_ROW = "Ours"  # the paper's name for its own row
PAPER_LABEL = "UniLDiff (the paper's)"
_SAME_INPUT, _OTHER_NOISE = 0.005, 0.1  # dB, and units of SSIM: how far inputs of two runs may be apart (our choice)


@dataclass(frozen=True)
class TableRow:
    """One line of a table: its label, its kind, and a figure per (column, metric), NaN for an empty cell."""

    label: str
    kind: RowKind
    figures: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        table_id: One of `TableId`.
        title: Heading.
        columns: Titles, averages included.
        digits: Decimals of PSNR and SSIM.
        labels: Label of each row.
        kinds: Kind of each row; `paper`, `published`, `input`, `stage` and `ours` are ranked.
        figures: One line per row; columns are pairs (title, `psnr` or `ssim`), NaN for an empty cell.
        ranks: The same shape: 1 for the best of a column, 2 for the second, else 0.
        header: One block per run, (label, lines of (key, value)).
        notes: Sentences below the table.
    """

    table_id: str
    title: str
    columns: list[str]
    digits: tuple[int, int]
    labels: list[str]
    kinds: list[RowKind]
    figures: pd.DataFrame
    ranks: pd.DataFrame
    header: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]

    def text(self, row: int, column: str, metric: str) -> str:
        """Return one figure as text, "-" where there is none, with a sign where it is a difference."""
        value = float(self.figures[column, metric].iloc[row])
        digits = self.digits[METRICS.index(metric)]
        if math.isnan(value):
            return "-"
        return f"{value:+.{digits}f}" if self.kinds[row] == "difference" else f"{value:.{digits}f}"


def build_table(table_id: TableId, runs: Sequence[Run], rows: Rows = "paper") -> Table:
    """Put published rows and the runs' rows under the columns of one table.

    Args:
        table_id: One of the paper's tables, `three_task`, `udc`, or `single` (a column per degradation).
        runs: Scored runs on the same images under the same protocol; several checkpoints or seeds are welcome.
        rows: `paper`: the paper's rows only; `all`: recent methods' printed averages too.

    Returns:
        The table, ranked. Where the runs are on a sample set the published rows and ours are ranked apart, since they are
        of other images.

    Raises:
        UserError: There is no such table, no run, a run without any image of the table, or runs that cannot be compared.
    """
    spec = table_spec(table_id, runs)
    runs = with_distinct_labels(runs)
    _check_together(spec, runs)
    lines = _published_rows(table_id, spec, rows)
    own = next((line for line in lines if line.label == PAPER_LABEL), None)
    if not all(math.isnan(value) for value in _row("", "input", spec, runs[0], "input_").figures.values()):
        lines.append(_row("input", "input", spec, runs[0], "input_"))
    for run in runs:
        lines += _run_rows(spec, run, own)
    lines += _seed_rows(spec, runs)
    columns = [column.title for column in spec.columns] + list(spec.averages)
    columns += [PRINTED] * any((PRINTED, "psnr") in line.figures for line in lines)
    keys = pd.MultiIndex.from_product([columns, METRICS])
    figures = pd.DataFrame([line.figures for line in lines], columns=keys, dtype=float)
    kinds = [line.kind for line in lines]
    ranks = _ranks(figures, kinds, spec.digits, apart=runs[0].data_kind == "sample")
    header = tuple((run.label, header_block(run)) for run in runs)
    notes = table_notes(spec, runs, kinds)
    return Table(
        table_id, spec.title, columns, spec.digits, [line.label for line in lines], kinds, figures, ranks, header, notes
    )


def _row(label: str, kind: RowKind, spec: TableSpec, run: Run | pd.DataFrame, prefix: str = "") -> TableRow:
    scores = run.scores if isinstance(run, Run) else run
    figures: dict[tuple[str, str], float] = {}
    for metric in METRICS:
        values = spec.values(scores, prefix + metric)
        found = [float(np.mean(column.to_list())) if len(column) else math.nan for column in values]
        _fill(figures, spec, metric, found)
    return TableRow(label, kind, figures)


def _fill(figures: dict[tuple[str, str], float], spec: TableSpec, metric: str, values: Sequence[float]) -> None:
    """Put a metric's columns and their averages into a row."""
    figures |= {(column.title, metric): value for column, value in zip(spec.columns, values, strict=True)}
    figures |= {
        (title, metric): float(np.mean([values[index] for index in indices]))
        for title, indices in spec.averages.items()
    }


def _published_rows(table_id: str, spec: TableSpec, rows: Rows) -> list[TableRow]:
    found = published()
    lines = []
    titles = [column.title for column in spec.columns]
    for (source, method), figures in found[found["table"] == table_id].groupby(["source", "method"], sort=False):
        if source == "paper" or rows == "all":
            values: dict[tuple[str, str], float] = {}
            given = figures.set_index("column")
            for metric in METRICS:
                _fill(values, spec, metric, given[metric].reindex(titles).to_list())
                if PRINTED in given.index:
                    values[PRINTED, metric] = float(given[metric][PRINTED])
            label = PAPER_LABEL if method == _OWN_ROW else method if source == "paper" else f"{method} [S]"
            lines.append(TableRow(str(label), "paper" if source == "paper" else "published", values))
    return lines


def _run_rows(spec: TableSpec, run: Run, own: TableRow | None) -> list[TableRow]:
    mark = " †" if run.blind is False else ""
    rows = [
        _row(stage.label + mark, "reference" if stage.reference else "stage", spec, stage.scores)
        for stage in run.stages
    ]
    final = _row(run.label + mark, "ours", spec, run)
    rows.append(final)
    ends = {metric: _intervals(spec, run.scores, metric) for metric in METRICS}
    kinds: tuple[RowKind, ...] = ("low", "high")
    for index, kind in enumerate(kinds):
        figures: dict[tuple[str, str], float] = {
            (title, metric): end[index] for metric in METRICS for title, end in ends[metric].items()
        }
        rows.append(TableRow(f"95% interval, {kind}", kind, figures))
    if own:
        difference = {key: value - own.figures.get(key, math.nan) for key, value in final.figures.items()}
        rows.append(TableRow("minus the paper's UniLDiff", "difference", difference))
    return rows


def _intervals(spec: TableSpec, scores: pd.DataFrame, metric: str) -> dict[str, tuple[float, float]]:
    columns = spec.values(scores, metric)
    groups = {column.title: (index,) for index, column in enumerate(spec.columns)} | dict(spec.averages)
    ends = {}
    for title, indices in groups.items():
        chosen = [columns[index] for index in indices]
        together = spec.shared_scenes and len({frozenset(values.index) for values in chosen}) == 1
        ends[title] = bootstrap_interval([values.sort_index().to_numpy() for values in chosen], together=together)
    return ends


def _seed_rows(spec: TableSpec, runs: Sequence[Run]) -> list[TableRow]:
    """Return mean and sample standard deviation of runs that the user grouped, or that differ in their seed alone."""
    alike = dict.fromkeys(("model", "steps", "guidance_scale", "blind")) | USUAL_SAMPLING
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(str(run.info.get(name, usual)) for name, usual in alike.items())
        groups.setdefault((run.group,) if run.group else key, []).append(run)
    rows = []
    for (model, *_), members in groups.items():
        if len(members) > 1 and (members[0].group or len({run.info.get("seed") for run in members}) > 1):
            finals = pd.DataFrame([_row(run.label, "ours", spec, run).figures for run in members])
            array = finals.to_numpy()
            for name, values in (("mean", array.mean(axis=0)), ("std", array.std(axis=0, ddof=1))):
                keys = cast(list[tuple[str, str]], finals.columns.to_list())
                figures = dict(zip(keys, values.tolist(), strict=True))
                rows.append(TableRow(f"{model}: {name} of {len(members)} seeds", "seeds", figures))
    return rows


def _ranks(figures: pd.DataFrame, kinds: Sequence[RowKind], digits: tuple[int, int], apart: bool) -> pd.DataFrame:
    """Rank each column by its figures as printed, so that equal prints rank equally; 0 for all but best and second."""
    shown = figures.copy()
    for metric, places in zip(METRICS, digits, strict=True):
        for column in shown.columns[shown.columns.get_level_values(1) == metric]:
            shown[column] = shown[column].map(lambda value, places=places: round(value, places))
    ranks = pd.DataFrame(0, index=figures.index, columns=figures.columns)
    groups: list[set[RowKind]] = [{"paper", "published"}, {"input", "stage", "ours"}]
    for group in groups if apart else [set[RowKind]().union(*groups)]:
        members = [index for index, kind in enumerate(kinds) if kind in group]
        found = shown.iloc[members].rank(method="dense", ascending=False)
        ranks.iloc[members] = found.where(found <= 2, 0).fillna(0).astype(int)
    return ranks


def _check_together(spec: TableSpec, runs: Sequence[Run]) -> None:
    if not runs:
        raise UserError(f"no run: {spec.title} needs at least one scored run; give its folder")
    first = runs[0]
    if not any(len(values) for values in spec.values(first.scores, "psnr")):
        known = ", ".join(column.keys[0] for column in spec.columns)
        raise UserError(
            f"no image of this table: {first.where} has {', '.join(map(repr, first.counts))}, expected {known}; "
            "`unildiff score --degradation NAME` names the one degradation of a flat folder"
        )
    for run in runs:
        for key in ("protocol", "data_kind"):
            if None not in (ours := run.info.get(key), theirs := first.info.get(key)) and ours != theirs:
                raise UserError(
                    f"runs cannot be compared in one table: {key} of {run.where} is '{ours}', of {first.where} "
                    f"'{theirs}'; make two tables"
                )
        for scores in (run.scores, *(stage.scores for stage in run.stages)):
            odd = first.images ^ frozenset(zip(scores["degradation"], scores["name"], strict=True))
            if odd:
                raise UserError(
                    f"runs cannot be compared in one table: {run.where} and {first.where} have different images, "
                    f"{'/'.join(filter(None, min(odd)))} and {len(odd) - 1} more in one of them only"
                )
        # Another seed draws other noise in the input, by as much as that is; other images differ by more.
        slack = _SAME_INPUT if run.info.get("seed") == first.info.get("seed") else _OTHER_NOISE
        for metric in METRICS:
            columns = zip(*(spec.values(each.scores, f"input_{metric}") for each in (first, run)), strict=True)
            if any(((a - b).abs() > slack).any() for a, b in columns if len(a) and len(b)):
                raise UserError(
                    f"runs cannot be compared in one table: {run.where} and {first.where} had different inputs; make two "
                    "tables"
                )
