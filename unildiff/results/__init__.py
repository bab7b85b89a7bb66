"""Everything about a scored run: scores, tables, comparisons, figures and the report."""

from typing import Literal

TableId = Literal["table1", "table2", "table3", "three_task", "single", "udc"]
Rows = Literal["paper", "all"]
"""Published rows in a table: the paper's only, or recent methods' printed averages too."""
