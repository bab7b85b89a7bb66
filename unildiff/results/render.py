"""A table as plain text that fits a terminal, Markdown, LaTeX, CSV and JSON."""

import json
import textwrap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from unildiff.results.specs import METRICS
from unildiff.results.tables import INDENTED, Table

_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "†": r"\textdagger{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@cache
def templates() -> Environment:
    """Return the environment of the package's templates; HTML is escaped, text is not."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: str(name).endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"latex": _latex, "markdown": _markdown, "fold": _fold}
    return environment


def cells(table: Table, marks: tuple[str, str, str]) -> pd.DataFrame:
    """Return a table's values as text.

    Args:
        table: The table.
        marks: Format strings for an unmarked figure, the best and the second of a column.
    """
    shown = table.values.astype(object)
    ranks = table.ranks.to_numpy()
    for row in range(len(table.labels)):
        for place, (column, metric) in enumerate(pairs(table.values)):
            shown.iat[row, place] = marks[ranks[row, place]].format(table.text(row, column, metric))
    return shown


def pairs(values: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the columns of a table's values as (title, metric)."""
    return cast(list[tuple[str, str]], values.columns.to_list())


def render_text(table: Table, width: int = 100) -> str:
    """Render for a terminal: columns are broken into blocks so that no line is longer than `width` (at least 60).

    The best of a column carries `*`, the second `'`.
    """
    width = max(width, 60)
    label_width = min(max(len(label) for label in table.labels) + 2, 30)
    labels = [
        f"{_shortened('  ' * (kind in INDENTED) + label, label_width):<{label_width}}"
        for label, kind in zip(table.labels, table.kinds, strict=True)
    ]
    shown = cells(table, ("{} ", "{}*", "{}'"))
    for per_block in range(len(table.columns), 0, -1):
        body = _blocks(table, shown, labels, per_block)
        if max(map(len, body.splitlines())) <= width:
            break
    return templates().get_template("table.txt.j2").render(table=table, body=body, width=width)


def _blocks(table: Table, shown: pd.DataFrame, labels: list[str], per_block: int) -> str:
    blocks = []
    for start in range(0, len(table.columns), per_block):
        chosen = table.columns[start : start + per_block]
        filled = ~table.values[chosen].isna().all(axis=1)
        block = shown.loc[filled, chosen].set_axis([label for label, keep in zip(labels, filled, strict=True) if keep])
        block.columns = pd.MultiIndex.from_tuples(
            [(f"{column} ", f"{metric.upper()} ") for column, metric in pairs(block)]
        )
        text = block.to_string(line_width=10_000, justify="right")
        blocks.append("\n".join(line.rstrip() for line in text.splitlines()))
    return "\n\n".join(blocks)


def _shortened(label: str, width: int) -> str:
    """Shorten a label in the middle: its beginning names the row, its end distinguishes seeds and marks."""
    return label if len(label) <= width else f"{label[: width - 12]}..{label[-10:]}"


def _fold(text: str, width: int, first: str = "", rest: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, drop_whitespace=True)


def render_markdown(table: Table) -> str:
    """Render as Markdown: `PSNR / SSIM` in each cell, the best bold, the second underlined."""
    shown = cells(table, ("{}", "**{}**", "<ins>{}</ins>"))
    joined = pd.DataFrame({title: shown[title, "psnr"] + " / " + shown[title, "ssim"] for title in table.columns})
    joined.insert(0, "PSNR (dB) / SSIM", [_markdown(label) for label in table.labels])
    body = joined.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * len(table.columns))
    return templates().get_template("table.md.j2").render(table=table, body=body)


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("_", r"\_").replace("*", r"\*")


def render_latex(table: Table) -> str:
    """Render as a LaTeX `table*`; the header becomes comments, the notes are below."""
    shown = cells(table, ("{}", r"\textbf{{{}}}", r"\underline{{{}}}"))
    shown = shown.map(lambda cell: "--" if cell == "-" else cell.replace("-", "$-$"))
    shown.index = pd.Index(
        [r"\quad " * (kind in INDENTED) + _latex(label) for label, kind in zip(table.labels, table.kinds, strict=True)]
    )
    shown.columns = pd.MultiIndex.from_tuples([(_latex(column), metric.upper()) for column, metric in pairs(shown)])
    body = shown.to_latex(escape=False, multicolumn_format="c", column_format="l" + "rr" * len(table.columns))
    return templates().get_template("table.tex.j2").render(table=table, body=body.rstrip("\n"))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def render_csv(table: Table) -> str:
    """Render as CSV: one line per row, `row, kind`, then PSNR and SSIM of each column, unrounded, empty where missing."""
    frame = table.values.copy()
    frame.columns = pd.Index([f"{column} {metric.upper()}" for column, metric in pairs(frame)])
    frame.insert(0, "row", table.labels)
    frame.insert(1, "kind", table.kinds)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def render_json(table: Table) -> str:
    """Render as JSON: values unrounded, null where missing, with ranks, header and notes."""
    rows: list[dict[str, Any]] = []
    values = table.values.astype(object).where(np.isfinite(table.values), None)
    for index, (label, kind) in enumerate(zip(table.labels, table.kinds, strict=True)):
        rows.append({"label": label, "kind": kind})
        for metric in METRICS:
            rows[-1][metric] = values.xs(metric, axis=1, level=1).iloc[index].to_list()
            rows[-1][f"{metric}_rank"] = table.ranks.xs(metric, axis=1, level=1).iloc[index].to_list()
    digits = dict(zip(("psnr_digits", "ssim_digits"), table.digits, strict=True))
    about = {"table_id": table.table_id, "title": table.title, "columns": table.columns, **digits}
    content = {**about, "rows": rows, "header": table.header, "notes": table.notes}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


RENDERERS: dict[str, Callable[[Table], str]] = {
    "txt": render_text,
    "md": render_markdown,
    "tex": render_latex,
    "csv": render_csv,
    "json": render_json,
}
