"""A table as data: rows of PSNR and SSIM under columns, ranked, with what must stand above and below it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unildiff.results.paper_rows import METRICS, Metric, Paper, PaperTable, TableId, load_paper
from unildiff.results.statistics import bootstrap_interval
from unildiff.results.tables_header import USUAL_SAMPLING, header_block, table_notes
from unildiff.results.tables_runs import Run, Scores
from unildiff.results.tables_specs import SPECS, TableSpec
from unildiff.utils.errors import UserError

RowKind = Literal["paper", "input", "reference", "stage", "ours", "low", "high", "difference", "seeds"]
_OWN_ROW = "Ours"  # the paper's name for its own row
_SAME_INPUT, _OTHER_NOISE = 0.005, 0.1  # dB, and units of SSIM: how far inputs of two runs may be apart (our choice)


@dataclass(frozen=True)
class TableRow:
    """One line.

    Attributes:
        label: what it is called.
        kind: what it is; ``paper``, ``input``, ``stage`` and ``ours`` are ranked.
        psnr: one figure a column in dB; NaN for an empty cell.
        ssim: one figure a column.
        psnr_rank: 1 for the best of its column, 2 for the second, else 0.
        ssim_rank: likewise.
    """

    label: str
    kind: RowKind
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr_rank: tuple[int, ...] = ()
    ssim_rank: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        table_id: ``table1``, ``table2``, ``table3`` or ``udc``.
        title: heading.
        columns: titles, averages included.
        psnr_digits: decimals of PSNR, as in the paper's table.
        ssim_digits: decimals of SSIM.
        rows: in order.
        header: one block a run, (label, lines of (key, value)).
        notes: sentences for below the table.
    """

    table_id: TableId
    title: str
    columns: tuple[str, ...]
    psnr_digits: int
    ssim_digits: int
    rows: tuple[TableRow, ...]
    header: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]


def build_table(table_id: TableId, runs: Sequence[Run], paper: Paper | None = None) -> Table:
    """Put the paper's rows and the runs' rows under the columns of one table.

    Args:
        table_id: which of the paper's tables, or ``udc``.
        runs: scored runs on the same pictures under the same protocol; several checkpoints or seeds are welcome.
        paper: the parsed paper; by default the one in the package.

    Returns:
        The table, ranked. Where the runs are on a sample set the paper's rows and ours are ranked apart, since they are
        of other pictures.

    Raises:
        UserError: unknown table, no run, a run without any picture of the table, or runs that cannot stand side by side.
    """
    spec = SPECS.get(table_id)
    if spec is None:
        raise UserError(f"no such table: '{table_id}', choose one of {', '.join(SPECS)}")
    runs = with_distinct_labels(runs)
    _check_together(spec, runs)
    paper = paper or load_paper()
    printed = paper.tables.get(table_id)
    rows = _paper_rows(spec, printed) if printed else []
    digits = (_digits(printed, "psnr"), _digits(printed, "ssim")) if printed else (2, 4)
    own = next((row for row in rows if row.label == _OWN_ROW), None)
    rows = [replace(row, label="UniLDiff (the paper's)") if row is own else row for row in rows]
    rows.append(_row("input", "input", spec, runs[0].scores, printed, prefix="input_"))
    for run in runs:
        rows += _run_rows(spec, run, printed, own)
    rows += _seed_rows(spec, runs, printed)
    apart = runs[0].data_kind == "sample"
    columns = [column.title for column in spec.columns] + list(spec.averages) + ["printed"] * _has_average(printed)
    header = tuple((run.label, header_block(run)) for run in runs)
    notes = table_notes(table_id, spec, runs, paper)
    return Table(table_id, spec.title, tuple(columns), *digits, _ranked(rows, digits, apart), header, notes)


def _row(
    label: str, kind: RowKind, spec: TableSpec, scores: Scores, printed: PaperTable | None, prefix: str = ""
) -> TableRow:
    figures = []
    for metric in METRICS:
        columns = spec.values(scores, prefix + metric)
        means = [float(np.mean(list(values.values()))) if values else math.nan for values in columns]
        means += [float(np.mean([means[index] for index in indices])) for indices in spec.averages.values()]
        figures.append(tuple(means + [math.nan] * _has_average(printed)))
    return TableRow(label, kind, figures[0], figures[1])


def _paper_rows(spec: TableSpec, printed: PaperTable) -> list[TableRow]:
    rows = []
    for row in printed.rows:
        figures = []
        for index, metric in enumerate(METRICS):
            values = [float(figure) for figure in printed.figures(row, metric)]
            values += [float(np.mean([values[i] for i in indices])) for indices in spec.averages.values()]
            figures.append(tuple(values + ([float(row.average[index])] if row.average else [])))
        rows.append(TableRow(row.method, "paper", figures[0], figures[1]))
    return rows


def _run_rows(spec: TableSpec, run: Run, printed: PaperTable | None, own: TableRow | None) -> list[TableRow]:
    mark = "" if run.blind else " †"
    rows = []
    for stage in run.stages:
        rows.append(
            _row(f"  {stage.label}{mark}", "reference" if stage.reference else "stage", spec, stage.scores, printed)
        )
    final = _row(run.label + mark, "ours", spec, run.scores, printed)
    rows.append(final)
    psnr_ends, ssim_ends = (_intervals(spec, run.scores, metric, _has_average(printed)) for metric in METRICS)
    kinds: tuple[RowKind, ...] = ("low", "high")
    for index, kind in enumerate(kinds):
        psnr, ssim = tuple(end[index] for end in psnr_ends), tuple(end[index] for end in ssim_ends)
        rows.append(TableRow(f"  95% interval, {kind}", kind, psnr, ssim))
    if own:
        psnr = tuple(a - b for a, b in zip(final.psnr, own.psnr, strict=True))
        ssim = tuple(a - b for a, b in zip(final.ssim, own.ssim, strict=True))
        rows.append(TableRow("  minus the paper's UniLDiff", "difference", psnr, ssim))
    return rows


def _intervals(spec: TableSpec, scores: Scores, metric: Metric, blanks: int) -> list[tuple[float, float]]:
    columns = spec.values(scores, metric)
    groups = [(index,) for index in range(len(columns))] + list(spec.averages.values())
    ends = []
    for indices in groups:
        chosen = [columns[index] for index in indices]
        together = spec.shared_scenes and len({frozenset(values) for values in chosen}) == 1
        arrays = [[values[name] for name in sorted(values)] for values in chosen]
        ends.append(bootstrap_interval(arrays, together=together))
    return ends + [(math.nan, math.nan)] * blanks


def _seed_rows(spec: TableSpec, runs: Sequence[Run], printed: PaperTable | None) -> list[TableRow]:
    """Mean and sample standard deviation over the runs that differ in nothing but their seed."""
    alike: dict[str, Any] = dict.fromkeys(("model", "steps", "guidance_scale", "blind")) | USUAL_SAMPLING
    rows = []
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        key = tuple(str(run.info.get(name, usual)) for name, usual in alike.items())
        groups.setdefault((run.group,) if run.group else key, []).append(run)
    for (model, *_), members in groups.items():
        if len(members) > 1 and (members[0].group or len({run.info.get("seed") for run in members}) > 1):
            finals = [_row(run.label, "ours", spec, run.scores, printed) for run in members]
            table = np.array([(row.psnr, row.ssim) for row in finals])
            for name, values in (("mean", table.mean(axis=0)), ("std", table.std(axis=0, ddof=1))):
                rows.append(
                    TableRow(
                        f"{model}: {name} of {len(members)} seeds",
                        "seeds",
                        tuple(values[0].tolist()),
                        tuple(values[1].tolist()),
                    )
                )
    return rows


def _ranked(rows: Iterable[TableRow], digits: tuple[int, int], apart: bool) -> tuple[TableRow, ...]:
    """Mark best and second of each column, by the figures as they are printed, so that equal prints rank equally."""
    ranked = list(rows)
    groups: list[set[RowKind]] = [{"paper"}, {"input", "stage", "ours"}]
    if not apart:
        groups = [set.union(*groups)]
    for kinds in groups:
        members = [index for index, row in enumerate(ranked) if row.kind in kinds]
        if members:
            psnr = _ranks([ranked[index].psnr for index in members], digits[0])
            ssim = _ranks([ranked[index].ssim for index in members], digits[1])
            for index, psnr_rank, ssim_rank in zip(members, psnr, ssim, strict=True):
                ranked[index] = replace(ranked[index], psnr_rank=psnr_rank, ssim_rank=ssim_rank)
    return tuple(ranked)


def _ranks(figures: list[tuple[float, ...]], digits: int) -> list[tuple[int, ...]]:
    columns = []
    for column in zip(*figures, strict=True):
        shown = [round(value, digits) for value in column]
        order = sorted({value for value in shown if not math.isnan(value)}, reverse=True)[:2]
        columns.append([order.index(value) + 1 if value in order else 0 for value in shown])
    return list(zip(*columns, strict=True))


def _digits(printed: PaperTable, metric: Metric) -> int:
    return max(len(figure.split(".")[1]) for row in printed.rows for figure in printed.figures(row, metric))


def _has_average(printed: PaperTable | None) -> int:
    return int(printed is not None and printed.rows[0].average is not None)


def with_distinct_labels(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with data, seed, and if need be what sets their folders apart, added to labels that stand twice."""
    labels = [run.label for run in runs]
    for key in ("data", "seed", "folder"):
        for label in {label for label in labels if labels.count(label) > 1}:
            members = [index for index, each in enumerate(labels) if each == label]
            if key == "folder":
                additions = distinct_names([runs[index].folder for index in members])
            else:
                additions = [str(runs[index].info.get(key)) for index in members]
            if len(set(additions)) > 1:
                for index, addition in zip(members, additions, strict=True):
                    labels[index] += f", {'seed ' if key == 'seed' else ''}{addition}"
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the part of each path that sets it apart: runs/a/test and runs/b/test are a and b."""
    parts = [folder.resolve().parts for folder in folders]
    while len(parts) > 1 and len({each[-1:] for each in parts}) == 1 and len(parts[0]) > 1:
        parts = [each[:-1] for each in parts]
    for length in range(1, max(map(len, parts))):
        tails = ["/".join(each[-length:]) for each in parts]
        if len(set(tails)) == len(tails):
            return tails
    return ["/".join(each) for each in parts]


def _check_together(spec: TableSpec, runs: Sequence[Run]) -> None:
    if not runs:
        raise UserError(f"no run: {spec.title} needs at least one scored run, give its folder")
    first = runs[0]
    if not any(spec.values(first.scores, "psnr")):
        known = ", ".join(column.keys[0] for column in spec.columns)
        raise UserError(
            f"no picture of this table: {first.folder} has {', '.join(first.scores.counts())}, expected {known}"
        )
    for run in runs:
        for key in ("protocol", "data_kind"):
            if run.info[key] != first.info[key]:
                raise UserError(
                    f"runs cannot stand in one table: {key} of {run.folder} is '{run.info[key]}', "
                    f"of {first.folder} '{first.info[key]}', make two tables"
                )
        pictures = set(zip(first.scores.degradations, first.scores.names, strict=True))
        for scores in (run.scores, *(stage.scores for stage in run.stages)):
            odd = pictures ^ set(zip(scores.degradations, scores.names, strict=True))
            if odd:
                raise UserError(
                    f"runs cannot stand in one table: {run.folder} and {first.folder} are of other pictures, "
                    f"{'/'.join(min(odd))} and {len(odd) - 1} more in one of them only"
                )
        # Another seed draws other noise in the input, by as much as that is; other pictures differ by more.
        slack = _SAME_INPUT if run.info.get("seed") == first.info.get("seed") else _OTHER_NOISE
        for metric in METRICS:
            columns = zip(*(spec.values(each.scores, f"input_{metric}") for each in (first, run)), strict=True)
            if any(abs(a[name] - b.get(name, math.nan)) > slack for a, b in columns for name in a):
                raise UserError(
                    f"runs cannot stand in one table: {run.folder} and {first.folder} had other inputs, make two tables"
                )
