"""The files of a table: every format, the scores behind it, and the paper's figure of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from unildiff.metrics.rows import metrics_of
from unildiff.results import Rows, TableId
from unildiff.results.figures import median_image, table_figure
from unildiff.results.render import RENDERERS, render_text
from unildiff.results.runs import Run, with_distinct_labels
from unildiff.results.specs import table_spec
from unildiff.results.tables import build_table
from unildiff.utils.files import output_folder, write_whole


def images_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one line per run, stage and image, with every metric."""
    parts = []
    for run in with_distinct_labels(list(runs)):
        named = [*((stage.label, stage.scores) for stage in run.stages), ("final", run.scores)]
        for stage, scores in named:
            part = scores[["degradation", "name", *metrics_of(scores)]]
            parts.append(part.assign(run=run.label, stage=stage))
    table = pd.concat(parts, ignore_index=True)
    first = ["run", "stage", "degradation", "name"]
    return table[first + [name for name in table.columns if name not in first]]


def write_table(
    table_id: TableId,
    runs: Sequence[Run],
    out_dir: Path,
    *,
    width: int = 100,
    others: Mapping[str, Path] | None = None,
    rows: Rows = "paper",
) -> str:
    """Write a table in every format, and the scores behind it.

    Writes `{table_id}.txt`, `.md`, `.tex`, `.csv`, `.json`; `{table_id}_images.csv` with one line per image, run and stage;
    and, where the first run kept its images, the paper's figure of this table as `{table_id}_figure.pdf` and `.png`.

    Args:
        table_id: See :func:`unildiff.results.tables.build_table`.
        runs: See :func:`unildiff.results.tables.build_table`.
        out_dir: Output folder; it is created.
        width: Characters per line of the returned text; the file has 100.
        others: By label, folders of other methods' images for the figure.
        rows: See :func:`unildiff.results.tables.build_table`.

    Returns:
        The plain text, for the terminal.

    Raises:
        UserError: See :func:`unildiff.results.tables.build_table`; or another method's folder lacks an image, or `out_dir` cannot be written.
    """
    table = build_table(table_id, runs, rows)
    output_folder(out_dir)
    for suffix, render in RENDERERS.items():
        write_whole(out_dir / f"{table_id}.{suffix}", render(table).encode())
    write_whole(
        out_dir / f"{table_id}_images.csv", images_table(runs).to_csv(index=False, lineterminator="\n").encode()
    )
    spec = table_spec(table_id, runs)
    if any(median_image(runs[0], key) is not None for key in spec.keys(runs[0].counts)):
        table_figure(table_id, replace(runs[0], label=table.header[0][0]), out_dir / f"{table_id}_figure", others)
    return render_text(table, width)
