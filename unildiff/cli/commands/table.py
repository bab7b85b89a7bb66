"""``unildiff table``: the paper's tables from scored runs."""

import shutil
from pathlib import Path

from unildiff.results.paper_rows import TableId


def table(
    table_id: TableId,
    run_dirs: list[str],
    out: Path = Path("results"),
    others: list[str] = [],  # noqa: B006  jsonargparse shows it as the default; never changed here
) -> None:
    """Print a table with the paper's rows beside the runs', and write it in every format, with its figure.

    Args:
        table_id: table1 (five tasks), table2 (CDD-11), table3 (AutoDIR's tasks) or udc (under-display cameras).
        run_dirs: Folders that `unildiff test` wrote, or LABEL=FOLDER; several checkpoints or seeds stand in one table, and
            those of one LABEL get a line with their mean and standard deviation.
        out: Folder for text, Markdown, LaTeX, CSV, JSON, the per-picture CSV and the figure.
        others: Other methods' pictures for the figure, LABEL=FOLDER each; in the folder DEGRADATION/NAME.png.
    """
    from unildiff.results.tables import write_table
    from unildiff.results.tables_runs import labelled, load_named_run

    methods = {label: folder for label, folder in map(labelled, others)}
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 160)
    print(
        write_table(table_id, [load_named_run(given) for given in run_dirs], out, width=width, others=methods), end=""
    )
    print(f"\nwritten: {out}/{table_id}.txt, .md, .tex, .csv, .json")
