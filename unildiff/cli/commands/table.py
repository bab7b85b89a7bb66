"""`unildiff table`: the paper's tables from scored runs."""

import shutil
from pathlib import Path

from unildiff.results import Rows, TableId


def table(
    table_id: TableId,
    run_dirs: list[str],
    out: Path = Path("results"),
    others: list[str] = [],  # noqa: B006  jsonargparse shows it as the default; never changed here
    rows: Rows = "paper",
) -> None:
    """Print a table with the published rows beside the runs', and write it in every format, with its figure.

    Args:
        table_id: table1 (five tasks), table2 (CDD-11), table3 (AutoDIR's tasks), three_task (haze, rain, noise), udc
            (under-display cameras), or single (a column per degradation of the first run).
        run_dirs: Folders that `unildiff test` or `unildiff score --run_dir` wrote, bundles, or tables of scores (.csv); each
            may be LABEL=PATH. Several checkpoints or seeds share one table, and those of one LABEL get a line with their
            mean and standard deviation.
        out: Folder for text, Markdown, LaTeX, CSV, JSON, the per-image CSV and the figure.
        others: Other methods' images for the figure, LABEL=FOLDER each; in the folder DEGRADATION/NAME.png.
        rows: Published rows: the paper's (paper), or also recent methods' averages as a survey prints them (all).
    """
    from unildiff.results.runs import labelled, load_named_run
    from unildiff.results.table_files import write_table
    from unildiff.utils.files import input_folder

    methods = {label: input_folder(folder, f"the images of {label}") for label, folder in map(labelled, others)}
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 160)
    runs = [load_named_run(given) for given in run_dirs]
    print(write_table(table_id, runs, out, width=width, others=methods, rows=rows), end="")
    print(f"\nwritten: {out}/{table_id}.txt, .md, .tex, .csv, .json")
