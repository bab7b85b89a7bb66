"""Per-picture results: what a row holds, means over rows, gathering over ranks, the CSV file."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from unildiff.metrics.protocols import Protocol
from unildiff.utils.files import output_folder, write_whole

# "degradation" and "name" are strings; every other key is a metric's value, None where it could not be computed.
Row = dict[str, str | float | None]
Summary = dict[str, dict[str, float | None]]

LABELS = ("degradation", "name")


def mean_of(values: Sequence[str | float | None]) -> float | None:
    """Mean of the finite values; infinite if there are only infinite ones, None if there are none at all."""
    numbers = [float(value) for value in values if value is not None]
    finite = [number for number in numbers if number != math.inf]
    if not finite:
        return math.inf if numbers else None
    return math.fsum(finite) / len(finite)


def summarise(rows: Sequence[Row]) -> Summary:
    """Means of per-picture values.

    Infinite PSNR (a picture equal to its truth, where the protocol does not cap it) is left out of the mean, unless all
    are infinite. None is left out too; a metric without any value has the mean None.

    Args:
        rows: One a picture.

    Returns:
        By degradation, in the order of first appearance: each metric's mean and `count`, the number of pictures. Last
        the entry `avg`: the unweighted mean over degradations, as the papers' averages; its `count` is the total.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["degradation"]), []).append(row)
    metrics = [key for key in rows[0] if key not in LABELS] if rows else []
    summary: Summary = {}
    for degradation, members in groups.items():
        entry: dict[str, float | None] = {metric: mean_of([row.get(metric) for row in members]) for metric in metrics}
        summary[degradation] = entry | {"count": len(members)}
    means = list(summary.values())
    summary["avg"] = {metric: mean_of([entry[metric] for entry in means]) for metric in metrics} | {"count": len(rows)}
    return summary


def count_identical(rows: Sequence[Row], protocol: Protocol, metric: str = "psnr") -> int:
    """How many pictures equal their truth, as their PSNR tells."""
    limit = protocol.identical_psnr - 1e-9
    return sum(1 for row in rows if isinstance(value := row.get(metric), float) and value >= limit)


def gather_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of all ranks, sorted by degradation and name; every rank must call this, and each gets them all.

    A picture that several ranks were given (padding samplers do that) counts once.

    Raises:
        ValueError: Ranks disagree about a picture.
    """
    parts: list[list[Row]] = [list(rows)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, list(rows))
    merged: dict[tuple[str, str], Row] = {}
    for row in (row for part in parts for row in part):
        key = (str(row["degradation"]), str(row["name"]))
        if merged.setdefault(key, row) != row:
            raise ValueError(f"two ranks scored {key} differently: {merged[key]} and {row}")
    return [merged[key] for key in sorted(merged)]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write one line a picture: name, degradation (where there is more than the empty one), then the metrics.

    Missing values are empty, infinite ones `inf`. The file appears whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    labels = ["name"] + (["degradation"] if any(row["degradation"] for row in rows) else [])
    columns = labels + ([key for key in rows[0] if key not in LABELS] if rows else [])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    output_folder(path.parent)
    write_whole(path, text.getvalue().encode())


def _cell(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.10g}"
