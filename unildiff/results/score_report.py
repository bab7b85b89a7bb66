"""What `unildiff score` prints and writes: text tables, CSV rows, JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unildiff.metrics.registry import metric_info, metric_settings
from unildiff.results.rows import LABELS, Row, count_identical
from unildiff.results.score import Scored
from unildiff.utils.files import output_folder, write_whole


def format_text(scored: Sequence[Scored]) -> str:
    """The tables: one column a metric for one protocol, else one table a metric with one column a protocol.

    Each is followed by how many pictures went in, under what, and what was left out.
    """
    first = scored[0]
    if len(scored) == 1:
        columns = [metric_info(name).title for name in first.metrics]
        cells = {
            degradation: [_number(entry.get(name), name) for name in first.metrics]
            for degradation, entry in first.summary.items()
        }
        tables = [_table("", columns, cells, first)]
    else:
        tables = [
            _table(
                metric_info(name).title,
                [result.protocol.name for result in scored],
                {key: [_number(result.summary[key].get(name), name) for result in scored] for key in first.summary},
                first,
            )
            for name in first.metrics
        ]
    notes = [f"protocol {result.protocol}{_identical(result)}" for result in scored]
    notes += [settings for name in first.metrics if (settings := metric_settings(name))]
    notes += [f"{name}: left empty, {reason}" for name, reason in first.unavailable.items()]
    return "\n\n".join([*tables, "\n".join(notes)])


def _table(title: str, columns: list[str], cells: dict[str, list[str]], scored: Scored) -> str:
    """Lay out one table; a single nameless degradation has no line of its own beside the average."""
    names = [key for key in scored.summary if key != "avg"]
    lines = [(key, key) for key in names] if names != [""] else []
    lines.append(("avg", "average over degradations" if len(names) > 1 else "average"))
    label_width = max(len(title), *(len(label) for _, label in lines))
    widths = [max(len(column), *(len(cells[key][i]) for key, _ in lines)) for i, column in enumerate(columns)]
    heads = [column.rjust(width) for column, width in zip(columns, widths, strict=True)]
    text = ["  ".join([title.ljust(label_width), *heads, "pictures"])]
    for key, label in lines:
        numbers = [cell.rjust(width) for cell, width in zip(cells[key], widths, strict=True)]
        text.append("  ".join([label.ljust(label_width), *numbers, f"{scored.summary[key]['count']:8.0f}"]))
    return "\n".join(text)


def _number(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{value:.{metric_info(metric).digits}f}"


def _identical(scored: Scored) -> str:
    if "psnr" not in scored.metrics or not (found := count_identical(scored.rows, scored.protocol)):
        return ""
    return f" ({found} of {len(scored.rows)} here)"


def merge_rows(scored: Sequence[Scored]) -> list[Row]:
    """One row a picture; metrics are called `PROTOCOL/METRIC` where there are several protocols."""
    if len(scored) == 1:
        return scored[0].rows
    merged: list[Row] = []
    for members in zip(*(result.rows for result in scored), strict=True):
        row: Row = {label: members[0][label] for label in LABELS}
        for result, member in zip(scored, members, strict=True):
            row |= {f"{result.protocol.name}/{key}": value for key, value in member.items() if key not in LABELS}
        merged.append(row)
    return merged


def write_json(scored: Sequence[Scored], restored: Path, clean: Path, path: Path) -> None:
    """Write everything: protocols with all their choices, means, counts, per-picture values.

    JSON knows no infinity: PSNR of a picture equal to its truth, where the protocol does not cap it, is null.

    Raises:
        UserError: The file cannot be written.
    """
    content = {
        "restored": str(restored),
        "clean": str(clean),
        "count": len(scored[0].rows),
        "results": [
            {
                "protocol": asdict(result.protocol),
                "metrics": result.metrics,
                "unavailable": result.unavailable,
                "identical": count_identical(result.rows, result.protocol),
                "summary": {key: _finite(entry) for key, entry in result.summary.items()},
                "pictures": [_finite(row) for row in result.rows],
            }
            for result in scored
        ],
    }
    output_folder(path.parent)
    write_whole(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _finite(entry: Row | dict[str, float | None]) -> Row:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
