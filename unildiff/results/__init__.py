"""Scores, tables, comparisons, figures and the report of runs.

A score becomes a row of a table in four steps:

1. `evaluator.score_image` scores an image; `metrics.rows.write_csv` writes the rows of a test as `scores.csv`.
2. `runs.load_run` reads `scores.csv` and `run.json` as a `Run`.
3. `metrics.rows.means` averages the scores by degradation.
4. `tables.build_table` makes the rows; `render` prints them.
"""

from typing import Literal

TableId = Literal["table1", "table2", "table3", "three_task", "single", "udc"]
Rows = Literal["paper", "all"]
"""Published rows in a table: the paper's only, or recent methods' printed averages too."""
