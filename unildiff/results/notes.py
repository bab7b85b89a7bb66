"""The text around a table: how each run was made, and what limits the comparison."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from unildiff.metrics.registry import METRICS as REGISTRY
from unildiff.metrics.rows import metrics_of
from unildiff.results.runs import Run
from unildiff.results.specs import METRICS, SURVEY, Metric, TableSpec
from unildiff.results.statistics import Comparison, compare_paired

USUAL_SAMPLING = {"start": "lq", "last_timestep": 0, "guidance_interval": [0.0, 1.0], "tile_size": None}
"""The paper's settings of the sampler beside steps and guidance scale; the settings of a run that does not record them."""


def header_block(run: Run) -> tuple[tuple[str, str], ...]:
    """Return the lines above a table for one run, (key, value)."""
    info = run.info
    kinds = {"real": " (the real data set)", "sample": " (a sample set, not the data set itself)", "": ""}
    each = sorted(set(run.counts.values()))
    spread = f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}"
    blind = {True: "yes", False: "no: the model was told the degradation", None: "not recorded"}[run.blind]
    return (
        ("model", _recorded(info, "model")),
        ("data", f"{_recorded(info, 'data')}{kinds[run.data_kind]}"),
        ("images", f"{len(run.scores)} ({len(run.counts)} degradations, {spread} each)"),
        ("protocol", _recorded(info, "protocol")),
        ("seed", _recorded(info, "seed")),
        ("steps", _steps(info)),
        ("guidance scale", _guidance(info)),
        *_unusual_sampling(info),
        ("blind", blind),
        ("time per image", _recorded(info, "time_per_picture_s", "{:.2f} s")),
        ("peak memory", _recorded(info, "peak_memory_mib", "{:.0f} MiB")),
        ("commit", _recorded(info, "commit")),
        *_further_metrics(run.scores),
    )


def _steps(info: dict[str, Any]) -> str:
    """Return the sampler's steps, and where they end if that is not the end of the schedule."""
    last = info.get("last_timestep")
    if info.get("steps") is None or not last:
        return _recorded(info, "steps")
    first = info.get("first_timestep")
    return (
        f"{info['steps']} Euler steps from t = {'the first' if first is None else first} to {last}, then a jump to x0"
    )


def _guidance(info: dict[str, Any]) -> str:
    """Return the guidance scale, and how many images had the caption without which it has no effect."""
    share = info.get("captioned")
    text = _recorded(info, "guidance_scale")
    if info.get("guidance_scale") in (None, 1.0) or not isinstance(share, int | float) or share >= 1:
        return text
    return f"{text}, effective for the {share:.0%} of images with a caption"


def _unusual_sampling(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each recorded setting of the sampler that differs from the paper's."""
    return [
        (key.replace("_", " "), str(info[key]))
        for key, value in USUAL_SAMPLING.items()
        if info.get(key, value) != value
    ]


def _further_metrics(scores: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Return a line with the means over images of every metric beside PSNR and SSIM."""
    parts = []
    for name in metrics_of(scores):
        if name in METRICS or name.startswith("input_"):
            continue
        digits, title = (REGISTRY[name].digits, REGISTRY[name].title) if name in REGISTRY else (4, name)
        text = f"{title} {_mean(scores[name], digits)}"
        if f"input_{name}" in scores:
            text += f" (input {_mean(scores[f'input_{name}'], digits)})"
        parts.append(text)
    return (("also", ", ".join(parts)),) if parts else ()


def _mean(column: "pd.Series[float]", digits: int) -> str:
    finite = column[np.isfinite(column)].to_numpy()
    return f"{finite.mean():.{digits}f}" if finite.size else "-"


def _recorded(info: dict[str, Any], key: str, form: str = "{}") -> str:
    value = info.get(key)
    return "not recorded" if value is None else form.format(value)


def table_notes(spec: TableSpec, runs: Sequence[Run], kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences below a table: what limits the comparison, then comparisons of runs and stages."""
    notes = []
    for run in runs:
        notes += [str(note) for note in run.info.get("notes") or ()]
    if "paper" in kinds and runs[0].data_kind == "sample":
        notes.append(
            "The published rows are of the real data set, yours of a sample set. They cannot be compared, and best and "
            "second are marked separately."
        )
    if any(run.blind is False for run in runs):
        notes.append("† was told the degradation (by a prompt, a list or preprocessing for it): not blind restoration.")
    protocol = runs[0].info.get("protocol")
    if spec.protocol and protocol and protocol != spec.protocol:
        notes.append(f"Scored under protocol {protocol}; such numbers are usually given under {spec.protocol}.")
    for run in runs:
        notes += _count_notes(spec, run)
    notes += spec.notes
    if "published" in kinds:
        notes.append(SURVEY)
    unit = "scenes" if spec.shared_scenes else "the images of each column"
    notes.append(
        f"95% interval: percentile bootstrap over {unit}. Protocols and the paper's averages: docs/guides/evaluation.md."
    )
    return tuple(dict.fromkeys(notes + _comparison_notes(spec, runs)))


def _count_notes(spec: TableSpec, run: Run) -> list[str]:
    notes = []
    used = [spec.key(index, run) for index in range(len(spec.columns))]
    if run.data_kind == "real":
        for column, key in zip(spec.columns, used, strict=True):
            if key is not None and column.published is not None and run.counts[key] != column.published:
                notes.append(
                    f"{run.label}: {run.counts[key]} images of {column.title}, the published test set has "
                    f"{column.published}: not comparable in this column."
                )
    outside = [f"{degradation} ({count})" for degradation, count in run.counts.items() if degradation not in used]
    if outside:
        notes.append(f"{run.label}: also scored, but not a column of this table: {', '.join(outside)}.")
    for metric in METRICS:
        left_out = int((~np.isfinite(run.scores[metric])).sum()) if metric in run.scores else 0
        if left_out:
            notes.append(f"{run.label}: {left_out} images without a finite {metric.upper()} are left out of its means.")
    return notes


def _comparison_notes(spec: TableSpec, runs: Sequence[Run]) -> list[str]:
    """Compare each further run with the first, and each run with its own stages."""
    pairs = [(runs[0].label, runs[0].scores, run.label, run.scores) for run in runs[1:]]
    for run in runs:
        for stage in run.stages:
            if not stage.reference:
                pairs.append((f"'{stage.label}'", stage.scores, run.label, run.scores))
    notes = []
    for first_label, first, second_label, second in pairs:
        parts = [_comparison(compare_scores(spec, first, second, metric), metric, spec) for metric in METRICS]
        if any(parts):
            notes.append(f"{second_label} against {first_label}: {'; '.join(filter(None, parts))}.")
    return notes


def compare_scores(spec: TableSpec, first: pd.DataFrame, second: pd.DataFrame, metric: Metric) -> Comparison | None:
    """Compare two score tables of the same images over all columns of a table; None without a finite pair."""
    parts = []
    for column, a, b in zip(spec.columns, spec.values(first, metric), spec.values(second, metric), strict=True):
        both = pd.concat([a, b], axis=1, keys=["a", "b"], join="inner").sort_index()
        parts.append(both.assign(column=column.title, scene=both.index))
    pairs = pd.concat(parts)
    if pairs.empty:
        return None
    if spec.shared_scenes:
        return compare_paired(pairs["a"], pairs["b"], list(pairs["scene"]))
    return compare_paired(pairs["a"], pairs["b"], columns=list(pairs["column"]))


def _comparison(result: Comparison | None, metric: Metric, spec: TableSpec) -> str:
    if result is None:
        return ""
    digits, unit = (2, " dB") if metric == "psnr" else (4, "")
    interval = ""
    if not math.isnan(result.low):
        interval = f" (95% {result.low:+.{digits}f} to {result.high:+.{digits}f})"
    unit_name = "scenes" if spec.shared_scenes else "images"
    return (
        f"{metric.upper()} {result.difference:+.{digits}f}{unit}{interval}, higher in {result.better} and lower in "
        f"{result.worse} of {result.count} {unit_name}, sign test "
        f"p = {result.p_value:.2g}: {result.verdict(unit_name)}"
    )
