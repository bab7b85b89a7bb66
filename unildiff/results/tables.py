"""The paper's tables with your own runs beside the paper's rows, as data: values, ranks, and the text around them.

A score enters the table in `_row`: per-image scores, averaged by `unildiff.metrics.rows.means`, one mean per column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from unildiff.metrics.rows import means
from unildiff.results import Rows, TableId
from unildiff.results.notes import USUAL_SAMPLING, header_block, table_notes
from unildiff.results.runs import Run, with_distinct_labels
from unildiff.results.specs import METRICS, PRINTED, TableSpec, published, table_spec
from unildiff.results.statistics import bootstrap_interval
from unildiff.utils.errors import UserError

RowKind = Literal["paper", "published", "input", "reference", "stage", "run", "low", "high", "difference", "seeds"]
INDENTED = ("reference", "stage", "low", "high", "difference")
_OWN_ROW = "Ours"  # the paper's name for its own row
PAPER_LABEL = "UniLDiff (the paper's)"
_SAME_INPUT, _OTHER_NOISE = 0.005, 0.1  # dB and SSIM by which inputs of two runs may differ (our choice)


class TableRow(NamedTuple):
    """One line of a table: its label, its kind, and values indexed by (column, metric), NaN for an empty cell."""

    label: str
    kind: RowKind
    values: "pd.Series[float]"


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        table_id: One of `TableId`.
        title: Heading.
        columns: Titles, averages included.
        digits: Decimals of PSNR and SSIM.
        labels: Label of each row.
        kinds: Kind of each row; `paper`, `published`, `input`, `stage` and `run` are ranked.
        values: One line per row; columns are pairs (title, `psnr` or `ssim`), NaN for an empty cell.
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
    values: pd.DataFrame
    ranks: pd.DataFrame
    header: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]

    def text(self, row: int, column: str, metric: str) -> str:
        """Return one value as text, "-" for an empty cell, with a sign if it is a difference."""
        value = float(self.values[column, metric].iloc[row])
        sign = "+" if self.kinds[row] == "difference" else ""
        return "-" if math.isnan(value) else f"{value:{sign}.{self.digits[METRICS.index(metric)]}f}"


def build_table(table_id: TableId, runs: Sequence[Run], rows: Rows = "paper") -> Table:
    """Put published rows and the runs' rows under the columns of one table.

    Args:
        table_id: One of the paper's tables, `three_task`, `udc`, or `single` (a column per degradation).
        runs: Scored runs on the same images under the same protocol, e.g. several checkpoints or seeds.
        rows: `paper`: the paper's rows only; `all`: recent methods' printed averages too.

    Returns:
        The table, ranked. If the runs' images are a sample set or the user's own, published rows are ranked separately.

    Raises:
        UserError: There is no such table, no run, a run without any image of the table, or runs that cannot be compared.
    """
    spec = table_spec(table_id, runs)
    runs = with_distinct_labels(runs)
    _check_together(spec, runs)
    lines = _published_rows(table_id, spec, rows)
    papers_own = next((line for line in lines if line.label == PAPER_LABEL), None)
    inputs = _row("input", "input", spec, runs[0].scores, "input_")
    lines += [] if inputs.values.isna().all() else [inputs]
    for run in runs:
        lines += _run_rows(spec, run, papers_own)
    lines += _seed_rows(spec, runs)
    columns = [column.title for column in spec.columns] + list(spec.averages)
    columns += [PRINTED] * any((PRINTED, "psnr") in line.values for line in lines)
    keys = pd.MultiIndex.from_product([columns, METRICS])
    values = pd.DataFrame([line.values.to_dict() for line in lines], columns=keys, dtype=float)
    kinds = [line.kind for line in lines]
    ranks = _ranks(values, kinds, spec.digits, apart=any(run.has_other_images for run in runs))
    header = tuple((run.label, header_block(run)) for run in runs)
    labels = [line.label for line in lines]
    return Table(
        table_id,
        spec.title,
        columns,
        spec.digits,
        labels,
        kinds,
        values,
        ranks,
        header,
        table_notes(spec, runs, kinds),
    )


def _row(label: str, kind: RowKind, spec: TableSpec, scores: pd.DataFrame, prefix: str = "") -> TableRow:
    table = means(scores).reindex(columns=[prefix + metric for metric in METRICS])
    return TableRow(label, kind, _values(spec, table.reindex(spec.keys(table.index)).to_numpy()))


def _values(spec: TableSpec, values: np.ndarray) -> "pd.Series[float]":
    """Return the values of a row from PSNR and SSIM of its columns, (columns, 2), with the spec's averages."""
    parts = {column.title: pair for column, pair in zip(spec.columns, values, strict=True)}
    parts |= {title: values[list(indices)].mean(axis=0) for title, indices in spec.averages.items()}
    keys = pd.MultiIndex.from_product([list(parts), METRICS])
    return pd.Series(np.concatenate(list(parts.values())), keys, dtype=float)


def _published_rows(table_id: str, spec: TableSpec, rows: Rows) -> list[TableRow]:
    found = published()
    lines = []
    titles = [column.title for column in spec.columns]
    for (source, method), group in found[found["table"] == table_id].groupby(["source", "method"], sort=False):
        if source == "paper" or rows == "all":
            given = group.set_index("column")[list(METRICS)]
            values = _values(spec, given.reindex(titles).to_numpy(float))
            if PRINTED in given.index:
                values = pd.concat([values, given.loc[[PRINTED]].stack()])  # type: ignore[assignment]
            label = PAPER_LABEL if method == _OWN_ROW else f"{method}{'' if source == 'paper' else ' [S]'}"
            lines.append(TableRow(label, "paper" if source == "paper" else "published", values))
    return lines


def _run_rows(spec: TableSpec, run: Run, papers_own: TableRow | None) -> list[TableRow]:
    mark = " †" if run.blind is False else ""
    rows = [
        _row(stage.label + mark, "reference" if stage.reference else "stage", spec, stage.scores)
        for stage in run.stages
    ]
    final = _row(run.label + mark, "run", spec, run.scores)
    low, high = _interval_rows(spec, run.scores)
    rows += [final, low, high]
    if papers_own is not None and not run.has_other_images:
        rows.append(TableRow("minus the paper's UniLDiff", "difference", final.values - papers_own.values))
    return rows


def _columns(spec: TableSpec, scores: pd.DataFrame, metric: str) -> list["pd.Series[float]"]:
    """Return the finite scores of each column by image name; empty without any."""
    finite = scores[np.isfinite(scores[metric])] if metric in scores else scores[:0].assign(**{metric: math.nan})
    keys = spec.keys(set(scores["degradation"]))
    return [finite[finite["degradation"] == key].set_index("name")[metric].sort_index() for key in keys]


def _interval_rows(spec: TableSpec, scores: pd.DataFrame) -> tuple[TableRow, TableRow]:
    groups = {column.title: (index,) for index, column in enumerate(spec.columns)} | dict(spec.averages)
    ends = {}
    for metric in METRICS:
        columns = _columns(spec, scores, metric)
        for title, indices in groups.items():
            chosen = [columns[index] for index in indices]
            together = spec.shared_scenes and len({frozenset(values.index) for values in chosen}) == 1
            ends[title, metric] = bootstrap_interval([values.to_numpy() for values in chosen], together=together)
    low, high = (pd.Series({key: pair[index] for key, pair in ends.items()}) for index in (0, 1))
    return TableRow("95% interval, low", "low", low), TableRow("95% interval, high", "high", high)


def _seed_rows(spec: TableSpec, runs: Sequence[Run]) -> list[TableRow]:
    """Return mean and sample standard deviation of runs that the user grouped, or that differ in their seed alone."""
    names = ("model", "data", "steps", "guidance_scale", "blind", "dtype", "timestep_spacing", "vae_tile")
    alike = dict.fromkeys(names) | USUAL_SAMPLING
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(str(run.info.get(name, usual)) for name, usual in alike.items())
        groups.setdefault((run.group,) if run.group else key, []).append(run)
    rows = []
    for (model, *_), members in groups.items():
        if len(members) > 1 and (members[0].group or len({run.info.get("seed") for run in members}) > 1):
            finals = pd.DataFrame([_row("", "run", spec, run.scores).values for run in members])
            for name, values in (("mean", finals.mean(skipna=False)), ("std", finals.std(skipna=False))):
                rows.append(TableRow(f"{model}: {name} of {len(members)} seeds", "seeds", values))
    return rows


def _ranks(values: pd.DataFrame, kinds: Sequence[RowKind], digits: tuple[int, int], apart: bool) -> pd.DataFrame:
    """Rank each column by its values as printed, so that equal prints rank equally; 0 for all but best and second."""
    shown = values.round({column: digits[METRICS.index(column[1])] for column in values.columns})
    ranks = pd.DataFrame(0, index=values.index, columns=values.columns)
    groups: list[set[RowKind]] = [{"paper", "published"}, {"input", "stage", "run"}]
    for group in groups if apart else [set[RowKind]().union(*groups)]:
        members = [index for index, kind in enumerate(kinds) if kind in group]
        found = shown.iloc[members].rank(method="dense", ascending=False)
        ranks.iloc[members] = found.where(found <= 2, 0).fillna(0).astype(int)
    return ranks


def _check_together(spec: TableSpec, runs: Sequence[Run]) -> None:
    if not runs:
        raise UserError(f"no run: {spec.title} needs at least one scored run; give its folder")
    first = runs[0]
    if not any(len(values) for values in _columns(spec, first.scores, "psnr")):
        known = ", ".join(column.keys[0] for column in spec.columns)
        raise UserError(
            f"no image of this table: {first.where} has {', '.join(map(repr, first.counts))}, expected {known}; "
            "`unildiff score --degradation NAME` names the one degradation of a flat folder"
        )
    for run in runs:
        for key in ("protocol", "data_kind"):
            if None not in (ours := run.info.get(key), theirs := first.info.get(key)) and ours != theirs:
                advice = f"score {run.where} again with --protocol {theirs}, or " if key == "protocol" else ""
                raise UserError(
                    f"runs cannot be compared in one table: {key} of {run.where} is '{ours}', of {first.where} "
                    f"'{theirs}'; {advice}make two tables"
                )
        for scores in (run.scores, *(stage.scores for stage in run.stages)):
            odd = first.images ^ frozenset(zip(scores["degradation"], scores["name"], strict=True))
            if odd:
                raise UserError(
                    f"runs cannot be compared in one table: {run.where} and {first.where} have different images, "
                    f"{'/'.join(filter(None, min(odd)))} and {len(odd) - 1} more in one of them only"
                )
        # Another seed draws other noise in the input, which changes its scores a little; other images change them more.
        slack = _SAME_INPUT if run.info.get("seed") == first.info.get("seed") else _OTHER_NOISE
        for metric in METRICS:
            columns = zip(*(_columns(spec, each.scores, f"input_{metric}") for each in (first, run)), strict=True)
            if any(((a - b).abs() > slack).any() for a, b in columns if len(a) and len(b)):
                raise UserError(
                    f"runs cannot be compared in one table: {run.where} and {first.where} had different inputs; make two "
                    "tables"
                )
