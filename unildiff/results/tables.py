"""Tables 1 to 3 of the paper, and the under-display cameras', with runs of one's own beside the paper's rows.

A run is a scored folder, see ``tables_runs``; the columns are in ``tables_specs``.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from unildiff.results.figures import median_picture, table_figure
from unildiff.results.paper_rows import TableId
from unildiff.results.tables_build import Table, TableRow, build_table
from unildiff.results.tables_render import RENDERERS, render_text
from unildiff.results.tables_runs import Run, Scores, Stage, load_run, make_run
from unildiff.results.tables_specs import SPECS
from unildiff.utils.files import output_folder, write_whole

__all__ = [
    "Run",
    "Scores",
    "Stage",
    "Table",
    "TableId",
    "TableRow",
    "build_table",
    "load_run",
    "make_run",
    "write_table",
]


def write_table(
    table_id: TableId,
    runs: Sequence[Run],
    out_dir: Path,
    *,
    width: int = 100,
    others: Mapping[str, Path] | None = None,
) -> str:
    """Write a table in every format, and the scores behind it.

    Writes ``{table_id}.txt``, ``.md``, ``.tex``, ``.csv``, ``.json``; ``{table_id}_pictures.csv`` with one line a
    picture, run and stage; and, where the first run kept its pictures, the paper's figure of this table as
    ``{table_id}_figure.pdf`` and ``.png``: a line a degradation; input, restored, truth.

    Args:
        table_id: ``table1``, ``table2``, ``table3`` or ``udc``.
        runs: scored runs, see :func:`unildiff.results.tables_build.build_table`.
        out_dir: made if it is not there.
        width: characters a line of what is returned; the file has 100.
        others: by label, folders of other methods' pictures for the figure.

    Returns:
        The plain text, for the terminal.

    Raises:
        UserError: as ``build_table``, another method's folder lacks a picture, or ``out_dir`` cannot be written.
    """
    table = build_table(table_id, runs)
    output_folder(out_dir)
    for suffix, render in RENDERERS.items():
        write_whole(out_dir / f"{table_id}.{suffix}", render(table).encode())
    _write_pictures(table, runs, out_dir / f"{table_id}_pictures.csv")
    spec = SPECS[table_id]
    if any(median_picture(runs[0], spec.key(index, runs[0].scores)) is not None for index in range(len(spec.columns))):
        table_figure(table_id, runs[0], out_dir / f"{table_id}_figure", others)
    return render_text(table, width)


def _write_pictures(table: Table, runs: Sequence[Run], path: Path) -> None:
    parts = []
    for (label, _), run in zip(table.header, runs, strict=True):
        parts += [(label, stage.label, stage.scores) for stage in run.stages] + [(label, "final", run.scores)]
    metrics = list(dict.fromkeys(metric for _, _, scores in parts for metric in scores.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "stage", "degradation", "name", *metrics])
    for label, stage, scores in parts:
        for index, (degradation, name) in enumerate(zip(scores.degradations, scores.names, strict=True)):
            found = (scores.metrics.get(metric) for metric in metrics)
            cells = (
                "" if column is None or column[index] != column[index] else repr(float(column[index]))
                for column in found
            )
            writer.writerow([label, stage, degradation, name, *cells])
    write_whole(path, text.getvalue().encode())
