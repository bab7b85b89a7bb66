"""Compare two runs, or two methods' scores, on the same images: by degradation, in all, and image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from unildiff.metrics.rows import LABELS, metrics_of, write_csv
from unildiff.results.runs import Run
from unildiff.results.statistics import Comparison, compare_paired
from unildiff.utils.errors import UserError
from unildiff.utils.files import some

_SHOWN = 3  # images named at either end


@dataclass(frozen=True)
class Pairs:
    """One metric of two score tables over the same images.

    Attributes:
        metric: Name of the metric.
        values: degradation, name, first, second, difference (second minus first), sorted by degradation and name.
        shared: Whether every degradation has the same scenes, which are then the unit of all statistics.
    """

    metric: str
    values: pd.DataFrame
    shared: bool

    @classmethod
    def of(cls, first: pd.DataFrame, second: pd.DataFrame, metric: str, shared: bool) -> "Pairs":
        """Pair two score tables by degradation and name."""
        keys = list(LABELS)
        left, right = (
            scores[[*keys, metric]].rename(columns={metric: side})
            for scores, side in ((first, "first"), (second, "second"))
        )
        values = left.merge(right, on=keys).sort_values(keys, ignore_index=True).replace([np.inf, -np.inf], np.nan)
        return cls(metric, values.assign(difference=values["second"] - values["first"]), shared)

    def compare(self, degradation: str | None = None) -> Comparison | None:
        """Compare within one degradation, or for None in all (mean of the degradations); None without a finite pair."""
        values = self.values if degradation is None else self.values[self.values["degradation"] == degradation]
        if self.shared:
            return compare_paired(values["first"], values["second"], list(values["name"]))
        return compare_paired(values["first"], values["second"], columns=list(values["degradation"]))


def pair_runs(first: Run, second: Run, metrics: Sequence[str]) -> list[Pairs]:
    """Pair two runs, one result per metric.

    Raises:
        UserError: The runs have different images or protocols, or one of them lacks a metric.
    """
    protocols = [run.info.get("protocol") for run in (first, second)]
    if all(protocols) and protocols[0] != protocols[1]:
        raise UserError(
            f"protocols differ: {first.label} was scored under {protocols[0]}, {second.label} under {protocols[1]}; "
            "score one of them again"
        )
    odd = sorted("/".join(filter(None, key)) for key in first.images ^ second.images)
    if odd:
        raise UserError(
            f"different images: {len(odd)} are only in one of {first.label} and {second.label}: {some(odd)}"
        )
    for metric, run in ((metric, run) for metric in metrics for run in (first, second)):
        if metric not in metrics_of(run.scores):
            raise UserError(f"no metric {metric} in {run.label}; it has {', '.join(metrics_of(run.scores))}")
    scenes = first.scores.groupby("degradation")["name"].agg(frozenset)
    shared = len(scenes) > 1 and scenes.nunique() == 1
    return [Pairs.of(first.scores, second.scores, metric, shared) for metric in metrics]


def comparison_text(first: Run, second: Run, paired: Sequence[Pairs]) -> str:
    """Return the comparison as text: per metric a line per degradation, then the images with the largest differences."""
    protocol = first.info.get("protocol") or second.info.get("protocol") or "not recorded"
    lines = [f"first:   {first.label} ({first.where})", f"second:  {second.label} ({second.where})"]
    lines.append(f"protocol: {protocol}")
    for pairs in paired:
        info = first.metric(pairs.metric)
        digits, better = info.digits, "higher" if info.higher_is_better else "lower"
        rows: list[tuple[str | None, str]] = [(name, name or "all") for name in pairs.values["degradation"].unique()]
        rows = rows if len(rows) == 1 else [*rows, (None, "mean of these")]
        found = [
            {"": label, **_cells(pairs.compare(name), digits, "scenes" if pairs.shared and name is None else "images")}
            for name, label in rows
        ]
        text = pd.DataFrame(found).fillna("").set_index("").to_string(index_names=False)
        lines += ["", f"{info.title}, second minus first ({better} is better)"]
        lines += [line.rstrip() for line in text.splitlines()] + _extremes(pairs, digits)
    if any(pairs.shared for pairs in paired):
        lines += ["", "Every degradation has the same scenes: the last line counts scenes, each once."]
    return "\n".join(lines)


def _cells(result: Comparison | None, digits: int, units: str) -> dict[str, str]:
    if result is None:
        return {"difference": "-"}
    interval = "-" if np.isnan(result.low) else f"{result.low:+.{digits}f} to {result.high:+.{digits}f}"
    return {
        "difference": f"{result.difference:+.{digits}f}",
        "95% interval": interval,
        "higher": str(result.better),
        "lower": str(result.worse),
        "of": str(result.count),
        "sign test p": f"{result.p_value:.2g}",
        "verdict": result.verdict(units),
    }


def _extremes(pairs: Pairs, digits: int) -> list[str]:
    ordered = pairs.values.dropna(subset="difference").sort_values("difference", kind="stable")
    names = ordered["degradation"].where(ordered["degradation"] == "", ordered["degradation"] + "/") + ordered["name"]
    listed = [f"{name} {value:+.{digits}f}" for name, value in zip(names, ordered["difference"], strict=True)]
    ends = (("lowest", listed[:_SHOWN]), ("highest", listed[: -_SHOWN - 1 : -1]))
    return [f"{title}: {', '.join(end)}" for title, end in ends if end]


def write_differences(paired: Sequence[Pairs], path: Path) -> None:
    """Write a CSV with one line per image: for each metric first, second and their difference."""
    tables = [pairs.values.set_index(list(LABELS)).add_prefix(f"{pairs.metric}_") for pairs in paired]
    write_csv(pd.concat(tables, axis=1).reset_index(), path)
