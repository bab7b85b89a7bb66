"""Per-image scores: the row, the means that every table prints, gathering over ranks, the CSV file.

Rows become a DataFrame with the columns `degradation` and `name`, then a float column per metric (NaN where it was not
computed) and possibly columns of text.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unildiff.metrics.protocols import Protocol
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole

if TYPE_CHECKING:  # scoring processes load without it
    import pandas as pd

# "degradation" and "name" are strings; every other key is a metric's value, None where it could not be computed.
Row = dict[str, str | float | None]
Summary = dict[str, dict[str, float | None]]

LABELS = ("degradation", "name")


def frame_of(rows: Sequence[Row]) -> "pd.DataFrame":
    """Return rows as a table; a column that holds anything but numbers stays text."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=None if rows else list(LABELS))
    for column in frame.columns:
        if column in LABELS:
            frame[column] = frame[column].fillna("").astype(str)
            continue
        try:
            frame[column] = pd.to_numeric(frame[column].replace("", None)).astype(float)
        except (ValueError, TypeError):
            frame[column] = frame[column].fillna("").astype(str)
    return frame


def metrics_of(scores: "pd.DataFrame") -> list[str]:
    """Return the columns that hold numbers."""
    return [str(name) for name, kind in scores.dtypes.items() if kind == float and name not in LABELS]


def means(scores: "pd.DataFrame") -> "pd.DataFrame":
    """Average per-image values; the only place where that is done.

    Infinite values (PSNR of an image equal to its ground truth, where the protocol does not cap it) are left out of a mean,
    unless all are infinite. NaN is left out too; the mean of no value is NaN.

    Returns:
        One line per degradation in order of appearance, with a column per metric and `count`, the number of images. The
        last line, `avg`, is the unweighted mean over degradations, as in the papers; its `count` is the total.
    """
    metrics = metrics_of(scores)
    groups = scores.groupby("degradation", sort=False)
    result = groups[metrics].agg(_mean) if metrics else groups.size().to_frame().iloc[:, :0]
    average = {metric: _mean(result[metric]) for metric in metrics}
    result["count"] = groups.size().astype(int)
    result.loc["avg"] = {**average, "count": len(scores)}
    return result


def _mean(values: "pd.Series[float]") -> float:
    numbers = values.to_numpy()[~values.isna().to_numpy()]
    finite = [float(number) for number in numbers if not math.isinf(number)]
    if not finite:
        return math.inf if len(numbers) else math.nan
    return float(np.mean(finite))


def summarise(rows: Sequence[Row]) -> Summary:
    """Return :func:`means` of rows as a dictionary; a mean of no value is None."""
    return {
        str(degradation): {
            str(key): int(value) if key == "count" else None if math.isnan(value) else float(value)
            for key, value in line.items()
        }
        for degradation, line in means(frame_of(rows)).iterrows()
    }


def count_identical(rows: Sequence[Row], protocol: Protocol, metric: str = "psnr") -> int:
    """Return how many images equal their ground truth, judged by their PSNR."""
    limit = protocol.identical_psnr - 1e-9
    return sum(1 for row in rows if isinstance(value := row.get(metric), float) and value >= limit)


def rows_of_all_ranks(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of all ranks in the order of the ranks; every rank must call this."""
    import torch  # tables need rows too, without it

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(rows)
    parts: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, list(rows))
    return [row for part in parts for row in part]


def gather_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of all ranks, sorted by degradation and name; every rank must call this, and each gets them all.

    An image that several ranks scored (padding samplers repeat images) counts once.

    Raises:
        ValueError: Ranks disagree about an image.
    """
    merged: dict[tuple[str, str], Row] = {}
    for row in rows_of_all_ranks(rows):
        key = (str(row["degradation"]), str(row["name"]))
        if merged.setdefault(key, row) != row:
            raise ValueError(f"two ranks scored {key} differently: {merged[key]} and {row}")
    return [merged[key] for key in sorted(merged)]


def csv_text(rows: "Sequence[Row] | pd.DataFrame") -> str:
    """Return the CSV of a score table: name, degradation (unless it is empty throughout), then the other columns.

    Missing values are empty, infinite ones `inf`; numbers have ten significant digits.
    """
    frame = frame_of(rows) if isinstance(rows, Sequence) else rows
    labels = ["name"] + (["degradation"] if (frame["degradation"] != "").any() else [])
    columns = labels + [name for name in frame.columns if name not in LABELS]
    text: str = frame[columns].to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def write_csv(rows: "Sequence[Row] | pd.DataFrame", path: Path) -> None:
    """Write :func:`csv_text` to a file in one step; raises a UserError if it cannot be written."""
    write_whole(path, csv_text(rows).encode())


def read_csv(path: Path) -> "pd.DataFrame":
    """Read a score table that `unildiff test` or `unildiff score` wrote, or any CSV with a column `name`.

    Raises:
        UserError: It cannot be read, has no line or no `name`, lists an image twice, or has a metric that is not a number.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:  # pandas' own errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"cannot read scores: {path} ({error}); score the images again") from None
    lines: list[Row] = frame.to_dict("records")  # type: ignore[assignment]  # keys are the column names
    return checked(lines, str(path))


def checked(lines: Sequence[Row], where: str) -> "pd.DataFrame":
    """Return lines read from a file as a score table.

    Args:
        lines: One mapping per image.
        where: Location shown in error messages.

    Raises:
        UserError: See :func:`read_csv`.
    """
    import pandas as pd

    if not lines:
        raise UserError(f"no scores: {where} has no line; score the images again")
    if "name" not in lines[0]:
        raise UserError(f"columns missing: {where} has no name; score the images again")
    frame = frame_of([{"degradation": "", **line} for line in lines])
    twice = frame[frame.duplicated(list(LABELS))]
    if len(twice):
        first = "/".join(filter(None, (twice.iloc[0]["degradation"], twice.iloc[0]["name"])))
        raise UserError(f"an image is scored twice: {where}, {first} and {len(twice) - 1} others; remove the copies")
    for column in ("psnr", "ssim", "input_psnr", "input_ssim"):
        if column in frame.columns and column not in metrics_of(frame):
            numbers = pd.to_numeric(frame[column].replace("", None), errors="coerce")
            bad = frame[column][numbers.isna() & (frame[column] != "")].iloc[0]
            raise UserError(f"not a number: {where}, column {column}, '{bad}'; score the images again")
    return frame
