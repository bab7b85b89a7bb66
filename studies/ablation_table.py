"""The results of `ablation` as JSON, CSV and a page with one table per question, compared with the paper's claims."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.ablation_plan import AS_IN_GROUP, BALANCE, DROPOUT, PAPER, TABLES, VARIANTS, Variant
from unildiff.results.statistics import compare_paired
from unildiff.utils.files import output_folder, write_whole

METRICS = (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 4), ("gmsd", "GMSD", 4))
THEIRS = {
    "none": (23.12, 41.31),
    "text": (25.87, 50.12),
    "DAFF": (27.14, 61.35),
    "DAFF + text": (27.36, 62.77),
    "DAFF + text + DAEM": (30.27, 63.06),
}
"""PSNR and MUSIQ of the paper, its five tasks (arXiv 2507.23685, ablation table): other model, other images; compare the order only."""
CLAIMED_DROPOUT = "dropout 0.2"  # supplement 2.2

Result = Mapping[str, Any]


def write_results(results: Sequence[Result], out: Path) -> None:
    """Write results.json, and results.csv with a line per variant, seed, set of images and degradation."""
    output_folder(out)
    write_whole(out / "results.json", (json.dumps(list(results), indent=1) + "\n").encode())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "pictures", "degradation", *(name for name, _, _ in METRICS)])
    for each in results:
        for which, summary in each["scores"].items():
            for degradation, values in summary.items():
                numbers = [f"{values[name]:.6g}" for name, _, _ in METRICS]
                writer.writerow([each["variant"], each["seed"], which, degradation, *numbers])
    write_whole(out / "results.csv", text.getvalue().encode())


def ablation_markdown(results: Sequence[Result], about: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        results: finished variants, one an entry and seed.
        about: steps, base, inference_steps, guidance and images, as `ablation` collects them.
    """
    steps, images = about["steps"], about["pictures"]
    lines = [
        "# Ablation of the tiny model",
        "",
        f"Written by `make ablation`. Every variant starts from {about['base']} and trains {steps[0]} alignment, {steps[1]}",
        f"joint and, where its decoder is tuned, {steps[2]} decoder steps on the same samples. Scores: protocol",
        f"`onerestore`, {about['inference_steps']} steps, guidance {about['guidance']:g}, mean of the degradations; with several",
        "seeds the mean and, behind ±, half their range.",
    ]
    for which, number in images.items():
        lines += ["", f"## {which.capitalize()} photographs ({number} images)"]
        found = [each for each in results if which in each["scores"]]
        if found:
            before = found[0]["input"][which]["avg"]
            lines += ["", "Input: " + ", ".join(f"{title} {before[name]:.{d}f}" for name, title, d in METRICS) + "."]
        for group in TABLES.values():
            runs = [(v, runs_of(found, v.name, which)) for v in VARIANTS if group in v.group]
            members = [variant for variant, its_runs in runs if its_runs]
            rows = {label(variant, group): its_runs for variant, its_runs in runs if its_runs}
            # A single row compares nothing; it is in its first table.
            if len(rows) > 1 or any(variant.group[0] == group for variant in members):
                lines += ["", f"### {group}", "", *_table(rows, group == PAPER), "", verdict(group, rows)]
    return "\n".join(lines) + "\n"


def label(variant: Variant, group: str) -> str:
    """Return the name of a variant in a table."""
    return AS_IN_GROUP.get((group, variant.name), variant.name)


def runs_of(results: Sequence[Result], name: str, which: str) -> list[Result]:
    """Return a variant's means, one entry per seed: metrics, ``seconds``, experts in use, and the PSNRs by image."""
    return [
        {
            **each["scores"][which]["avg"],
            "seconds": each["seconds"],
            "experts": each.get("experts", {}).get(which, []),
            "images": {(name, kind): psnr for name, kind, psnr in each.get("images", {}).get(which, [])},
        }
        for each in results
        if each["variant"] == name
    ]


def interval(first: Sequence[Result], second: Sequence[Result]) -> str:
    """Return the 95% interval of the second variant's gain in PSNR, means over seeds, photographs as units; or nothing."""
    keys = sorted(first[0]["images"].keys() & second[0]["images"].keys())
    if not keys or len(first) != len(second):
        return ""
    values = [[sum(run["images"][key] for run in runs) / len(runs) for key in keys] for runs in (first, second)]
    found = compare_paired(values[0], values[1], [name for name, _ in keys])
    return "" if found is None else f" ({found.low:+.2f} to {found.high:+.2f})"


def mean(runs: Sequence[Result], metric: str) -> float:
    """Return the mean over seeds."""
    return float(sum(run[metric] for run in runs) / len(runs))


def verdict(group: str, rows: Mapping[str, Sequence[Result]]) -> str:
    """Return in one sentence whether a table confirms the paper's claim, given the differences between seeds."""
    psnr = {name: mean(runs, "psnr") for name, runs in rows.items()}
    ranges = [_half_range(runs, "psnr") for runs in rows.values() if len(runs) > 1]
    noise = f"half the range over seeds is at most {max(ranges):.2f} dB" if ranges else "one seed: no noise is known"
    best = max(psnr, key=lambda name: psnr[name])
    if group == PAPER:
        ours, theirs = sorted(psnr, key=lambda name: psnr[name]), sorted(psnr, key=lambda name: THEIRS[name][0])
        same = "the paper's order" if ours == theirs else f"another order than the paper's ({' < '.join(theirs)})"
        return f"By PSNR: {' < '.join(ours)}: {same}; {noise}."
    if group == DROPOUT:
        if CLAIMED_DROPOUT not in psnr:
            return f"Best: {best}; {noise}."
        return f"Best: {best}, {psnr[best] - psnr[CLAIMED_DROPOUT]:.2f} dB above 0.2, which the supplement calls best; {noise}."
    if group == BALANCE:
        spread = max(psnr.values()) - min(psnr.values())
        return f"PSNR differs by {spread:.2f} dB over the weights, best {best}; the supplement claims no sensitivity; {noise}."
    names = list(psnr)
    gains = [f"{n} {psnr[n] - psnr[names[0]]:+.2f} dB{interval(rows[names[0]], rows[n])}" for n in names[1:]]
    return f"Against {names[0]}: {', '.join(gains) or 'nothing yet'}; {noise}."


def _table(rows: Mapping[str, Sequence[Result]], paper: bool) -> list[str]:
    head = ["variant", *(title for _, title, _ in METRICS), "seeds", "processor min"]
    routed = any(run["experts"] for runs in rows.values() for run in runs)
    head += ["experts in use, by level"] if routed else []
    head += ["paper's PSNR", "paper's MUSIQ"] if paper else []
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, runs in rows.items():
        cells = [name, *(_cell(runs, metric, digits) for metric, _, digits in METRICS)]
        cells += [str(len(runs)), f"{mean(runs, 'seconds') / 60:.1f}"]
        if routed:
            levels = zip(*(run["experts"] for run in runs), strict=False)
            cells.append(", ".join(f"{sum(level) / len(level):.1f}" for level in levels))
        cells += [f"{value:.2f}" for value in THEIRS[name]] if paper else []
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(runs: Sequence[Result], metric: str, digits: int) -> str:
    spread = f" ± {_half_range(runs, metric):.{digits}f}" if len(runs) > 1 else ""
    return f"{mean(runs, metric):.{digits}f}{spread}"


def _half_range(runs: Sequence[Result], metric: str) -> float:
    values = [run[metric] for run in runs]
    return float(max(values) - min(values)) / 2
