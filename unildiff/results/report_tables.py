"""The report's tables: the paper's, where the runs fit one; means by degradation, where they do not."""

import html
import math
from collections.abc import Sequence

import numpy as np

from unildiff.results.paper_rows import TableId
from unildiff.results.tables_build import Table, build_table
from unildiff.results.tables_header import header_block
from unildiff.results.tables_render import formatted_pairs
from unildiff.results.tables_runs import Run
from unildiff.results.tables_specs import SPECS


def tables_html(runs: Sequence[Run]) -> str:
    """Return a section for each table that the runs fill; runs that can stand side by side share one."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        pictures = frozenset(zip(run.scores.degradations, run.scores.names, strict=True))
        groups.setdefault((fitting_table(run), run.info["protocol"], run.data_kind, pictures), []).append(run)
    sections = []
    for (table_id, *_), members in groups.items():
        if table_id in SPECS:
            sections.append(_table_html(build_table(table_id, members)))
        else:
            sections += [_means_html(run) for run in members]
    return "\n".join(sections)


def fitting_table(run: Run) -> TableId | None:
    """Return the table of which the run has most columns, where it has at least half of them; else ``None``."""
    shares = {}
    for table_id, spec in SPECS.items():
        found = sum(bool(spec.key(index, run.scores)) for index in range(len(spec.columns)))
        shares[table_id] = (found, found / len(spec.columns))
    best = max(shares, key=lambda table_id: shares[table_id])
    return best if shares[best][1] >= 0.5 else None


def _table_html(table: Table) -> str:
    head = "".join(f'<th colspan="2" scope="colgroup">{html.escape(column)}</th>' for column in table.columns)
    names = '<th scope="col">PSNR</th><th scope="col">SSIM</th>' * len(table.columns)
    lines = []
    for row, cells in zip(table.rows, formatted_pairs(table, ("{}", "<b>{}</b>", "<u>{}</u>")), strict=True):
        label = html.escape(row.label.strip())
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr class="{row.kind}"><th scope="row">{label}</th>{data}</tr>')
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    title = html.escape(table.title)
    return (
        f"<h3>{title}</h3>{_headers_html(table.header)}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table class="paper">'
        f'<thead><tr><td></td>{head}</tr><tr><th scope="col">PSNR in dB</th>{names}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f'<p class="hint">Bold: best of its column; underlined: second.</p><ul class="notes">{notes}</ul>'
    )


def _headers_html(headers: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    blocks = []
    for label, block in headers:
        items = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in block)
        blocks.append(f'<section class="run"><h4>{html.escape(label)}</h4><dl>{items}</dl></section>')
    return f'<div class="runs">{"".join(blocks)}</div>'


def _means_html(run: Run) -> str:
    metrics = [name for name in run.scores.metrics if np.isfinite(run.scores.metrics[name]).any()]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("pictures", *metrics))
    lines = []
    for degradation, count in run.scores.counts().items():
        cells = [str(count)]
        for metric in metrics:
            values = [value for value in run.scores.values(degradation, metric).values() if math.isfinite(value)]
            cells.append(f"{np.mean(values):.4g}" if values else "-")
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(degradation or "all")}</th>{data}</tr>')
    return (
        f"<h3>Means by degradation</h3>{_headers_html([(run.label, header_block(run))])}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Means by degradation"><table class="paper">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
