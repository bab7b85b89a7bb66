"""A table in words: plain text that fits a terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from unildiff.results.tables_build import Table, TableRow

_SIGNED = "difference"
_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "†": r"\textdagger{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def render_text(table: Table, width: int = 100) -> str:
    """Render for a terminal: columns are broken into blocks so that no line is longer than ``width``.

    The best of a column carries ``*``, the second ``'``.

    Args:
        table: what to render.
        width: characters a line, at least 60.
    """
    width = max(width, 60)
    lines = [table.title, "=" * len(table.title), ""]
    for label, block in table.header:
        lines += textwrap.wrap(label, width)
        for key, value in block:
            lines += textwrap.wrap(f"  {key:<15} {value}", width, subsequent_indent=" " * 18)
        lines.append("")
    label_width = min(max(len(row.label) for row in table.rows), 30)
    numbers = (table.psnr_digits + 5, table.ssim_digits + 4)  # widest: " -12.34*" and " -0.123*"
    cell = sum(numbers)
    per_block = max(1, (width - label_width) // cell)
    for start in range(0, len(table.columns), per_block):
        chosen = range(start, min(start + per_block, len(table.columns)))
        lines.append(" " * label_width + "".join(f"{table.columns[index]:>{cell - 1}} " for index in chosen).rstrip())
        names = f"{'PSNR':>{numbers[0] - 1}} {'SSIM':>{numbers[1] - 1}} "
        lines.append(" " * label_width + (names * len(chosen)).rstrip())
        rule = "-" * (label_width + cell * len(chosen))
        previous = None
        for row in table.rows:
            if all(math.isnan(row.psnr[index]) and math.isnan(row.ssim[index]) for index in chosen):
                continue
            if previous is None or ("paper" in (previous, row.kind) and previous != row.kind):
                lines.append(rule)
            previous = row.kind
            cells = "".join(_text_pair(table, row, index, numbers) for index in chosen)
            lines.append(f"{_shortened(row.label, label_width):<{label_width}}{cells}".rstrip())
        lines.append("")
    lines.append("* best, ' second of its column. PSNR in dB.")
    for note in table.notes:
        lines += textwrap.wrap(note, width, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _shortened(label: str, width: int) -> str:
    """Cut out the middle: the beginning says what it is, the end tells seeds and marks apart."""
    return label if len(label) <= width else f"{label[: width - 12]}..{label[-10:]}"


def _text_pair(table: Table, row: TableRow, index: int, widths: tuple[int, int]) -> str:
    marks = ("", "*", "'")
    psnr = _figure(row.psnr[index], table.psnr_digits, row.kind)
    ssim = _figure(row.ssim[index], table.ssim_digits, row.kind)
    psnr_mark, ssim_mark = (marks[rank] for rank in _rank_pair(row, index))
    return f"{psnr:>{widths[0] - 1}}{psnr_mark or ' '}{ssim:>{widths[1] - 1}}{ssim_mark or ' '}"


def _figure(value: float, digits: int, kind: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if kind == _SIGNED else f"{value:.{digits}f}"


def _rank_pair(row: TableRow, index: int) -> tuple[int, int]:
    return (row.psnr_rank[index], row.ssim_rank[index]) if row.psnr_rank else (0, 0)


def formatted_pairs(table: Table, wraps: tuple[str, str, str]) -> Iterator[list[str]]:
    """Yield for each row its figures as text, PSNR and SSIM in turn, "-" where there is none.

    Args:
        table: what to format.
        wraps: format strings for an unmarked figure, the best and the second of a column.
    """
    for row in table.rows:
        cells = []
        for index in range(len(table.columns)):
            psnr_rank, ssim_rank = _rank_pair(row, index)
            cells.append(wraps[psnr_rank].format(_figure(row.psnr[index], table.psnr_digits, row.kind)))
            cells.append(wraps[ssim_rank].format(_figure(row.ssim[index], table.ssim_digits, row.kind)))
        yield cells


def render_markdown(table: Table) -> str:
    """Render as Markdown: ``PSNR / SSIM`` in each cell, the best bold, the second underlined."""
    lines = [f"# {table.title}", ""]
    for label, block in table.header:
        lines += [f"**{label}**", ""] + [f"- {key}: {_markdown(value)}" for key, value in block] + [""]
    lines.append("| PSNR (dB) / SSIM | " + " | ".join(table.columns) + " |")
    lines.append("|---|" + "---:|" * len(table.columns))
    for row, cells in zip(table.rows, formatted_pairs(table, ("{}", "**{}**", "<ins>{}</ins>")), strict=True):
        pairs = [" / ".join(pair) for pair in zip(cells[::2], cells[1::2], strict=True)]
        lines.append(f"| {_markdown(row.label.strip())} | " + " | ".join(pairs) + " |")
    lines += ["", "Bold: best of its column; underlined: second.", ""]
    return "\n".join(lines + [f"- {_markdown(note)}" for note in table.notes]) + "\n"


def _markdown(text: str) -> str:
    return text.replace("|", r"\|").replace("_", r"\_").replace("*", r"\*")


def render_latex(table: Table) -> str:
    """Render as a LaTeX ``table*`` that needs booktabs and graphicx; the header becomes comments, the notes stand below."""
    titles = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_latex(column)}}}" for column in table.columns)
    lines = [f"% {label}: {key} = {value}" for label, block in table.header for key, value in block]
    lines += [r"\begin{table*}[t]", r"\centering", r"\resizebox{\textwidth}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'rr' * len(table.columns)}}}", r"\toprule", rf"Method & {titles} \\"]
    lines += [" & " + " & ".join(["PSNR & SSIM"] * len(table.columns)) + r" \\", r"\midrule"]
    previous = table.rows[0].kind
    marks = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
    for row, figures in zip(table.rows, formatted_pairs(table, marks), strict=True):
        if "paper" in (previous, row.kind) and previous != row.kind:
            lines.append(r"\midrule")
        previous = row.kind
        cells = ["--" if figure == "-" else figure.replace("-", "$-$") for figure in figures]
        indent = r"\quad " if row.label.startswith("  ") else ""
        lines.append(f"{indent}{_latex(row.label.strip())} & " + " & ".join(cells) + r" \\")
    caption = f"{table.title}. PSNR in dB; bold: best, underlined: second of its column."
    lines += [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{_latex(caption)}}}", rf"\label{{tab:{table.table_id}}}"]
    lines += [r"\par\smallskip\raggedright\footnotesize"] + [_latex(note) for note in table.notes]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def render_csv(table: Table) -> str:
    """Render as CSV: one line a row, ``row, kind``, then PSNR and SSIM of each column, unrounded, empty where missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "kind"] + [f"{column} {name}" for column in table.columns for name in ("PSNR", "SSIM")])
    for row in table.rows:
        figures = [value for pair in zip(row.psnr, row.ssim, strict=True) for value in pair]
        writer.writerow([row.label.strip(), row.kind, *("" if math.isnan(value) else repr(value) for value in figures)])
    return out.getvalue()


def render_json(table: Table) -> str:
    """Render as JSON: every field of :class:`Table`, figures unrounded, null where missing."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else value
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(asdict(table)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


RENDERERS: dict[str, Callable[[Table], str]] = {
    "txt": render_text,
    "md": render_markdown,
    "tex": render_latex,
    "csv": render_csv,
    "json": render_json,
}
