"""Two runs, or two methods' scores, on the same pictures: difference by degradation and in all, and picture by picture."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unildiff.metrics.registry import METRICS
from unildiff.results.statistics import Comparison, compare_paired
from unildiff.results.tables_runs import load_run
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, some, write_whole

_SHOWN = 3  # pictures named at either end

FloatArray = NDArray[np.float64]
Pictures = dict[tuple[str, str], dict[str, float]]


@dataclass(frozen=True)
class ScoreFile:
    """Scores of one method.

    Attributes:
        label: what to call it.
        protocol: under which they were measured; "" where the file does not say.
        pictures: value by metric, by (degradation, name); NaN where one was not computed.
    """

    label: str
    protocol: str
    pictures: Pictures


def read_scores(path: Path) -> ScoreFile:
    """Read a scored run's folder, or what `unildiff score` wrote with --csv or --json.

    Raises:
        UserError: it is none of these, or a JSON of several protocols.
    """
    if path.is_dir():
        run = load_run(path)
        keys = zip(run.scores.degradations, run.scores.names, strict=True)
        pictures = {
            key: {metric: float(values[index]) for metric, values in run.scores.metrics.items()}
            for index, key in enumerate(keys)
        }
        return ScoreFile(f"{run.label} ({path})", str(run.info["protocol"]), pictures)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            results = json.loads(text)["results"]
            if len(results) > 1:
                raise UserError(f"several protocols: {path} has {len(results)}; score under one, --protocol NAME")
            protocol, rows = results[0]["protocol"]["name"], results[0]["pictures"]
        else:
            protocol, rows = "", list(csv.DictReader(io.StringIO(text)))
        return ScoreFile(str(path), protocol, {_key(row): _numbers(row) for row in rows})
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"no scores: {path} ({type(error).__name__}: {error}); give a folder that `unildiff test` wrote, or what "
            "`unildiff score` wrote with --csv or --json"
        ) from None


def _key(row: dict[str, str | float | None]) -> tuple[str, str]:
    return str(row.get("degradation") or ""), str(row["name"])


def _numbers(row: dict[str, str | float | None]) -> dict[str, float]:
    """Values that were not computed, or are infinite (null in JSON), are NaN: no difference can be taken."""
    given = {
        key: value for key, value in row.items() if key not in ("degradation", "name") and not key.endswith("_path")
    }
    return {key: float("nan") if value in ("", None) else float(str(value)) for key, value in given.items()}


@dataclass(frozen=True)
class PairedScores:
    """One metric of two methods over the same pictures, sorted by degradation and name.

    Attributes:
        metric: its name.
        keys: (degradation, name) of the N pictures.
        first: (N,) values of the first method.
        second: (N,) values of the second.
        shared: every degradation is of the same scenes, which are then the unit of all that is counted.
    """

    metric: str
    keys: tuple[tuple[str, str], ...]
    first: FloatArray
    second: FloatArray
    shared: bool

    def compare(self, degradation: str | None = None) -> Comparison | None:
        """Compare within one degradation, or for None in all (mean of the degradations); None without a finite pair."""
        chosen = [index for index, key in enumerate(self.keys) if degradation in (None, key[0])]
        a, b = self.first[chosen], self.second[chosen]
        if not (np.isfinite(a) & np.isfinite(b)).any():
            return None
        scenes = [self.keys[index][1] for index in chosen]
        if self.shared:
            return compare_paired(a, b, scenes)
        return compare_paired(a, b, columns=[self.keys[index][0] for index in chosen])


def pair_scores(first: ScoreFile, second: ScoreFile, metrics: list[str]) -> list[PairedScores]:
    """Pair two methods' scores, one result a metric.

    Raises:
        UserError: other pictures, another protocol, or a metric that one of them does not have.
    """
    if first.protocol and second.protocol and first.protocol != second.protocol:
        raise UserError(
            f"protocols differ: {first.label} was scored under {first.protocol}, {second.label} under "
            f"{second.protocol}; score one of them again"
        )
    odd = sorted("/".join(filter(None, key)) for key in first.pictures.keys() ^ second.pictures.keys())
    if odd:
        raise UserError(f"other pictures: {len(odd)} are only in one of {first.label} and {second.label}: {some(odd)}")
    keys = tuple(sorted(first.pictures))
    names: dict[str, set[str]] = {}
    for degradation, name in keys:
        names.setdefault(degradation, set()).add(name)
    shared = len(names) > 1 and len({frozenset(each) for each in names.values()}) == 1
    found = []
    for metric in metrics:
        found.append(PairedScores(metric, keys, _column(first, metric, keys), _column(second, metric, keys), shared))
    return found


def _column(scores: ScoreFile, metric: str, keys: tuple[tuple[str, str], ...]) -> FloatArray:
    if any(metric not in scores.pictures[key] for key in keys):
        known = ", ".join(next(iter(scores.pictures.values()), {}))
        raise UserError(f"no metric {metric} in {scores.label}; it has {known}")
    return np.array([scores.pictures[key][metric] for key in keys])


def comparison_text(first: ScoreFile, second: ScoreFile, paired: list[PairedScores]) -> str:
    """Return the comparison in words: by metric a line a degradation, then the pictures with the largest differences."""
    protocol = first.protocol or second.protocol or "not recorded"
    lines = [f"first:    {first.label}", f"second:   {second.label}", f"protocol: {protocol}"]
    for scores in paired:
        digits = METRICS[scores.metric].digits if scores.metric in METRICS else 4
        better = "higher" if scores.metric not in METRICS or METRICS[scores.metric].higher_is_better else "lower"
        degradations = list(dict.fromkeys(key[0] for key in scores.keys))
        rows: list[tuple[str | None, str]] = [(name, name or "all") for name in degradations]
        rows = rows if len(rows) == 1 else [*rows, (None, "mean of these")]
        width = max(len(label) for _, label in rows)
        units = "scenes" if scores.shared else "pictures"
        lines += ["", f"{scores.metric.upper()}, second minus first ({better} is better)"]
        head = (
            f"{'':{width}}{'difference':>12}{'95% interval':>22}{'higher':>8}{'lower':>7}{'of':>5}{'sign test p':>13}"
        )
        lines.append(head)
        for name, label in rows:
            result = scores.compare(name)
            if result is None:
                lines.append(f"{label:{width}}{'-':>12}")
                continue
            interval = f"{result.low:+.{digits}f} to {result.high:+.{digits}f}" if result.low == result.low else "-"
            counted = units if name is None else "pictures"
            lines.append(
                f"{label:{width}}{result.difference:>+12.{digits}f}{interval:>22}{result.better:>8}{result.worse:>7}"
                f"{result.count:>5}{result.p_value:>13.2g}  {result.verdict(counted)}"
            )
        lines += _extremes(scores, digits)
    if any(scores.shared for scores in paired):
        lines += ["", "Every degradation is of the same scenes: the last line counts scenes, each once."]
    return "\n".join(lines)


def _extremes(scores: PairedScores, digits: int) -> list[str]:
    differences = scores.second - scores.first
    order = [int(index) for index in np.argsort(differences, kind="stable") if np.isfinite(differences[index])]
    ends = (("lowest", order[:_SHOWN]), ("highest", order[::-1][:_SHOWN]))
    return [
        f"{title}: "
        + ", ".join(f"{'/'.join(filter(None, scores.keys[i]))} {differences[i]:+.{digits}f}" for i in indices)
        for title, indices in ends
        if indices
    ]


def write_differences(paired: list[PairedScores], path: Path) -> None:
    """Write a CSV with one line a picture: degradation, name, and for each metric first, second and their difference.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{scores.metric}_{part}" for scores in paired for part in ("first", "second", "difference")]
    writer.writerow(["degradation", "name", *heads])
    for index, (degradation, name) in enumerate(paired[0].keys):
        cells = []
        for scores in paired:
            a, b = float(scores.first[index]), float(scores.second[index])
            cells += ["" if not np.isfinite(value) else f"{value:.10g}" for value in (a, b, b - a)]
        writer.writerow([degradation, name, *cells])
    output_folder(path.parent)
    write_whole(path, text.getvalue().encode())
