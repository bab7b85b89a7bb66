"""The paper's tables from scored runs: ``python -m unildiff.commands.table table2 RUN_DIR... --out results``.

``make reproduce-table1`` and its sisters call this after ``unildiff test``.
"""

import argparse
import shutil
import sys
from pathlib import Path

from unildiff.errors import UserError
from unildiff.evaluation.paper_rows import TableId


def table(table_id: TableId, run_dirs: list[Path], out: Path = Path("results")) -> None:
    """Print a table with the paper's rows beside the runs', and write it in every format.

    Args:
        table_id: table1 (five tasks), table2 (CDD-11), table3 (AutoDIR's tasks) or udc (under-display cameras).
        run_dirs: Folders that `unildiff test` wrote; several checkpoints or seeds stand in one table.
        out: Folder for text, Markdown, LaTeX, CSV, JSON, the per-picture CSV and the figure.
    """
    from unildiff.evaluation.tables import load_run, write_table

    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 160)
    print(write_table(table_id, [load_run(folder) for folder in run_dirs], out, width=width), end="")
    print(f"\nwritten: {out}/{table_id}.txt, .md, .tex, .csv, .json")


def main(arguments: list[str] | None = None) -> int:
    """Run :func:`table` from the command line; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m unildiff.commands.table", description=__doc__)
    parser.add_argument("table_id", choices=("table1", "table2", "table3", "udc"))
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args(arguments)
    try:
        table(given.table_id, given.run_dirs, given.out)
    except UserError as error:
        print(f"unildiff: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
