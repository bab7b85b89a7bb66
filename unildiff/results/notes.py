"""The text around a table: how each run was made, and what limits the comparison."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unildiff.metrics.rows import metrics_of
from unildiff.results.compare import Pairs
from unildiff.results.runs import Run
from unildiff.results.specs import METRICS, SURVEY, Metric, TableSpec
from unildiff.results.statistics import Comparison

USUAL_SAMPLING = {"start": "lq", "last_timestep": 0, "guidance_interval": [0.0, 1.0], "tile_size": None}
"""The paper's settings of the sampler beside steps and guidance scale; the settings of a run that does not record them."""


def header_block(run: Run) -> tuple[tuple[str, str], ...]:
    """Return the lines above a table for one run, (key, value)."""
    info = run.info
    kinds = {"real": " (the real dataset)", "sample": " (a sample set, not the dataset itself)", "": ""}
    kind = "" if info.get("published") is False and run.data_kind == "real" else kinds[run.data_kind]
    each = sorted(set(run.counts.values()))
    spread = f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}"
    blind = {True: "yes", False: "no: the model was told the degradation", None: "not recorded"}[run.blind]
    return (
        ("model", _recorded(info, "model")),
        ("data", f"{_recorded(info, 'data')}{kind}"),
        ("images", f"{len(run.scores)} ({len(run.counts)} degradation{'s' * (len(run.counts) != 1)}, {spread} each)"),
        ("protocol", _recorded(info, "protocol")),
        ("seed", _recorded(info, "seed")),
        *([] if info.get("stage") == "rival" else _sampler(info)),
        ("blind", blind),
        ("time per image", _recorded(info, "time_per_picture_s", "{:.2f} s")),
        ("peak memory", _recorded(info, "peak_memory_mib", "{:.0f} MiB")),
        ("commit", _recorded(info, "commit")),
        *_further_metrics(run),
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


def _sampler(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines on sampler and captions: usual settings always, the others if they differ from the paper's."""
    lines = [("steps", _steps(info)), ("guidance scale", _recorded(info, "guidance_scale"))]
    if isinstance(share := info.get("captioned_share"), int | float):
        lines.append(("captions", f"{share:.0%} of the images"))
    if isinstance(used := info.get("effective_guidance"), int | float) and used != info.get("guidance_scale"):
        lines.append(("guidance used", f"{used:g}"))
    changed = {key: info[key] for key, value in USUAL_SAMPLING.items() if info.get(key, value) != value}
    return lines + [(key.replace("_", " "), str(value)) for key, value in changed.items()]


def _further_metrics(run: Run) -> tuple[tuple[str, str], ...]:
    """Return a line with the means over images of every metric beside PSNR and SSIM."""
    parts = []
    found = run.scores[metrics_of(run.scores)].replace([math.inf, -math.inf], math.nan).mean()
    for name in [name for name in found.index if name not in METRICS and not name.startswith("input_")]:
        info = run.metric(name)
        mean, before = (
            "-" if math.isnan(value) else f"{value:.{info.digits}f}" for value in found.reindex([name, f"input_{name}"])
        )
        parts.append(f"{info.title} {mean}" + (f" (input {before})" if f"input_{name}" in found else ""))
    return (("also", ", ".join(parts)),) if parts else ()


def _recorded(info: dict[str, Any], key: str, form: str = "{}") -> str:
    value = info.get(key)
    return "not recorded" if value is None else form.format(value)


def table_notes(spec: TableSpec, runs: Sequence[Run], kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences below a table: what limits the comparison, then comparisons of runs and stages."""
    notes = []
    for run in runs:
        notes += [str(note) for note in run.info.get("notes") or ()]
    if "paper" in kinds and any(run.has_other_images for run in runs):
        what = "a sample set" if any(run.data_kind == "sample" for run in runs) else "other images"
        notes.append(
            f"The published rows are of the real dataset, yours of {what}. They cannot be compared, and best and second are "
            "marked separately."
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
    used = spec.keys(run.counts)
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
        stages = [stage for stage in run.stages if not stage.reference]
        pairs += [(f"'{stage.label}'", stage.scores, run.label, run.scores) for stage in stages]
    notes = []
    for first_label, first, second_label, second in pairs:
        parts = []
        for metric in METRICS:
            if metric in first and metric in second:
                compared = Pairs.of(spec.in_columns(first), spec.in_columns(second), metric, spec.shared_scenes)
                parts.append(_comparison(compared.compare(), metric, spec))
        if any(parts):
            notes.append(f"{second_label} against {first_label}: {'; '.join(filter(None, parts))}.")
    return notes


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
