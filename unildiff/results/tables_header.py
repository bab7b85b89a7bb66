"""What stands above and below a table: how each run was made, and every sentence that a reader must not miss."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unildiff.metrics.registry import METRICS as REGISTRY
from unildiff.results.paper_rows import METRICS, Metric, Paper, TableId
from unildiff.results.statistics import Comparison, compare_paired
from unildiff.results.tables_notes import consistency_notes
from unildiff.results.tables_runs import Run, Scores
from unildiff.results.tables_specs import TableSpec

USUAL_SAMPLING = {"start": "lq", "last_timestep": 0, "guidance_interval": [0.0, 1.0], "tile_size": None}
"""The paper's settings of the sampler beside steps and guidance scale; what a run that does not say had."""


def header_block(run: Run) -> tuple[tuple[str, str], ...]:
    """Return the lines above a table for one run, (key, value); what was not recorded says so."""
    info = run.info
    kind = "the real data set" if run.data_kind == "real" else "a sample set, not the data set itself"
    counts = run.scores.counts()
    each = sorted(set(counts.values()))
    spread = f"{each[0]}" if len(each) == 1 else f"{each[0]} to {each[-1]}"
    return (
        ("model", str(info["model"])),
        ("data", f"{info['data']} ({kind})"),
        ("pictures", f"{len(run.scores)} ({len(counts)} degradations, {spread} each)"),
        ("protocol", str(info["protocol"])),
        ("seed", _recorded(info, "seed")),
        ("steps", _recorded(info, "steps")),
        ("guidance scale", _recorded(info, "guidance_scale")),
        *_unusual_sampling(info),
        ("blind", "yes" if run.blind else "no: the model was told the degradation"),
        ("time a picture", _recorded(info, "time_per_picture_s", "{:.2f} s")),
        ("peak memory", _recorded(info, "peak_memory_mib", "{:.0f} MiB")),
        ("commit", _recorded(info, "commit")),
        *_further_metrics(run.scores),
    )


def _unusual_sampling(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a line for each setting of the sampler that is recorded and not as in the paper."""
    return [
        (key.replace("_", " "), str(info[key]))
        for key, value in USUAL_SAMPLING.items()
        if info.get(key, value) != value
    ]


def _further_metrics(scores: Scores) -> tuple[tuple[str, str], ...]:
    """Return a line with what was measured beside PSNR and SSIM, means over pictures; none where nothing was."""
    parts = []
    for name, info in REGISTRY.items():
        if name in METRICS or name not in scores.metrics:
            continue
        text = f"{info.title} {_mean(scores, name, info.digits)}"
        if f"input_{name}" in scores.metrics:
            text += f" (input {_mean(scores, f'input_{name}', info.digits)})"
        parts.append(text)
    return (("also", ", ".join(parts)),) if parts else ()


def _mean(scores: Scores, column: str, digits: int) -> str:
    finite = scores.metrics[column][np.isfinite(scores.metrics[column])]
    return f"{finite.mean():.{digits}f}" if finite.size else "-"


def _recorded(info: dict[str, Any], key: str, form: str = "{}") -> str:
    value = info.get(key)
    return "not recorded" if value is None else form.format(value)


def table_notes(table_id: TableId, spec: TableSpec, runs: Sequence[Run], paper: Paper) -> tuple[str, ...]:
    """Return the sentences below a table, in order: what limits the comparison, then the statistics, then the paper."""
    notes = []
    for run in runs:
        notes += [str(note) for note in run.info.get("notes") or ()]
    if table_id in paper.tables and runs[0].data_kind == "sample":
        notes.append(
            "The paper's rows are of the real data set, ours of a sample set: they cannot be compared. "
            "Best and second are marked apart, and the difference to the paper's row shows the form alone."
        )
    if not all(run.blind for run in runs):
        notes.append("† was told the degradation (by a prompt, a list or preprocessing for it): not blind restoration.")
    if runs[0].info["protocol"] != spec.protocol:
        notes.append(
            f"Scored under protocol {runs[0].info['protocol']}; such numbers are usually given under {spec.protocol}."
        )
    for run in runs:
        notes += _count_notes(spec, run)
    notes += spec.notes
    printed = paper.tables.get(table_id)
    if printed and printed.rows[0].average:
        notes.append("'printed' is the average that the paper prints; 'all' and its parts are means of the columns.")
    unit = "scenes, the same draw for all degradations" if spec.shared_scenes else "pictures of each column"
    notes.append(f"95% interval: percentile bootstrap over {unit}, 2000 draws, seed 0.")
    notes += _comparison_notes(spec, runs)
    return tuple(dict.fromkeys(notes + consistency_notes(paper, table_id)))


def _count_notes(spec: TableSpec, run: Run) -> list[str]:
    notes = []
    counts = run.scores.counts()
    used = [spec.key(index, run.scores) for index in range(len(spec.columns))]
    if run.data_kind == "real":
        for column, key in zip(spec.columns, used, strict=True):
            if key and column.published is not None and counts[key] != column.published:
                notes.append(
                    f"{run.label}: {counts[key]} pictures of {column.title}, the published test set has {column.published}: "
                    "not comparable in this column."
                )
    outside = [f"{degradation} ({count})" for degradation, count in counts.items() if degradation not in used]
    if outside:
        notes.append(f"{run.label}: scored too, but no column of this table: {', '.join(outside)}.")
    for metric in METRICS:
        left_out = int((~np.isfinite(run.scores.metrics[metric])).sum())
        if left_out:
            notes.append(
                f"{run.label}: {left_out} pictures without a finite {metric.upper()} are left out of its means."
            )
    return notes


def _comparison_notes(spec: TableSpec, runs: Sequence[Run]) -> list[str]:
    """Each further run against the first; within each run, its result against its stages (what each is worth)."""
    pairs = [(runs[0].label, runs[0].scores, run.label, run.scores) for run in runs[1:]]
    for run in runs:
        for stage in run.stages:
            if not stage.reference:
                pairs.append((f"'{stage.label}'", stage.scores, run.label, run.scores))
    notes = []
    for first_label, first, second_label, second in pairs:
        parts = [_comparison(compare_scores(spec, first, second, metric), metric, spec) for metric in METRICS]
        notes.append(f"{second_label} against {first_label}: {'; '.join(part for part in parts if part)}.")
    return notes


def compare_scores(spec: TableSpec, first: Scores, second: Scores, metric: Metric) -> Comparison | None:
    """Compare two sets of scores of the same pictures over all columns of a table; ``None`` without a finite pair."""
    a: list[float] = []
    b: list[float] = []
    scenes: list[str] = []
    columns: list[str] = []
    values = zip(spec.columns, spec.values(first, metric), spec.values(second, metric), strict=True)
    for column, ours, theirs in values:
        for name in sorted(ours.keys() & theirs.keys()):
            a.append(ours[name])
            b.append(theirs[name])
            scenes.append(name)
            columns.append(column.title)
    if not a:
        return None
    return compare_paired(a, b, scenes) if spec.shared_scenes else compare_paired(a, b, columns=columns)


def _comparison(result: Comparison | None, metric: Metric, spec: TableSpec) -> str:
    if result is None:
        return ""
    digits, unit = (2, " dB") if metric == "psnr" else (4, "")
    interval = ""
    if not math.isnan(result.low):
        interval = f" (95% {result.low:+.{digits}f} to {result.high:+.{digits}f})"
    unit_name = "scenes" if spec.shared_scenes else "pictures"
    return (
        f"{metric.upper()} {result.difference:+.{digits}f}{unit}{interval}, higher in {result.better} and lower in "
        f"{result.worse} of {result.count} {unit_name}, sign test "
        f"p = {result.p_value:.2g}: {result.verdict(unit_name)}"
    )
