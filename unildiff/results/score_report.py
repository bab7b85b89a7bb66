"""The output of `unildiff score`: text tables, CSV rows, JSON, a run's folder, a bundle."""

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from unildiff.metrics.names import metric_info, metric_settings
from unildiff.metrics.rows import LABELS, Row, count_identical, csv_text
from unildiff.results.bundle import ScoredFile, write_bundle
from unildiff.results.file_pairs import ScoredPair
from unildiff.results.score import Scored
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole
from unildiff.utils.provenance import package_versions


def format_text(scored: Sequence[Scored]) -> str:
    """Return the tables (one per metric if there are several protocols), then protocols, settings and omissions."""
    first = scored[0]
    if len(scored) == 1:
        columns = {metric_info(name).title: _column(first, name) for name in first.metrics}
        tables = [_table("", columns, first)]
    else:
        tables = [
            _table(metric_info(name).title, {each.protocol.name: _column(each, name) for each in scored}, first)
            for name in first.metrics
        ]
    notes = []
    for each in scored:
        same = count_identical(each.rows, each.protocol) if "psnr" in each.metrics else 0
        notes.append(f"protocol {each.protocol}" + (f" ({same} of {len(each.rows)} here)" if same else ""))
    notes += metric_settings(first.metrics)
    notes += [f"{name}: left empty, {reason}" for name, reason in first.unavailable.items()]
    return "\n\n".join([*tables, "\n".join(notes)])


def _column(scored: Scored, metric: str) -> list[str]:
    digits = metric_info(metric).digits
    found = (entry.get(metric) for entry in scored.summary.values())
    return ["-" if value is None else f"{value:.{digits}f}" for value in found]


def _table(title: str, columns: dict[str, list[str]], scored: Scored) -> str:
    """Lay out one table; a single nameless degradation has no line of its own beside the average."""
    names = [key for key in scored.summary if key != "avg"]
    labels = [*names, "average over degradations" if len(names) > 1 else "average"]
    counts = [f"{entry['count']:.0f}" for entry in scored.summary.values()]
    frame = pd.DataFrame({**columns, "images": counts}, index=pd.Index(labels))
    frame = frame.iloc[-1:] if names == [""] else frame
    width = max(len(title), *map(len, labels))
    frame.index = pd.Index([label.ljust(width) for label in frame.index])
    lines = frame.to_string(col_space=2).splitlines()
    return "\n".join([title.ljust(width) + lines[0][width:], *lines[1:]])


def merge_rows(scored: Sequence[Scored]) -> list[Row]:
    """Return one row per image; metrics are called `PROTOCOL/METRIC` if there are several protocols."""
    if len(scored) == 1:
        return scored[0].rows
    merged: list[Row] = []
    for members in zip(*(result.rows for result in scored), strict=True):
        row: Row = {label: members[0][label] for label in LABELS}
        for result, member in zip(scored, members, strict=True):
            row |= {f"{result.protocol.name}/{key}": value for key, value in member.items() if key not in LABELS}
        merged.append(row)
    return merged


def write_json(scored: Sequence[Scored], restored: Path, gt: Path, path: Path) -> None:
    """Write everything: protocols with all their choices, means, counts, per-image values.

    An infinite PSNR, of an image equal to its ground truth, is null, as JSON has no infinity.

    Raises:
        UserError: The file cannot be written.
    """
    content = {
        "restored": str(restored),
        "gt": str(gt),
        "count": len(scored[0].rows),
        "results": [
            {
                "protocol": asdict(result.protocol),
                "metrics": result.metrics,
                "unavailable": result.unavailable,
                "identical": count_identical(result.rows, result.protocol),
                "summary": {key: _finite(entry) for key, entry in result.summary.items()},
                "images": [_finite(row) for row in result.rows],
            }
            for result in scored
        ],
    }
    write_whole(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _finite(entry: Row | dict[str, float | None]) -> Row:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }


class Method(NamedTuple):
    """Facts about scored images beyond the images, recorded in `run.json`: `data_kind` is `real` or `sample`."""

    label: str
    data: str | None = None
    data_kind: str | None = None
    blind: bool | None = None


def provenance(scored: Scored, method: Method) -> dict[str, Any]:
    """Return the content of `run.json` for scored images."""
    counts = {key: int(entry["count"] or 0) for key, entry in scored.summary.items() if key != "avg"}
    return {
        "model": method.label,
        **method._asdict(),
        "count": counts,
        "protocol": scored.protocol.name,
        "metric_settings": metric_settings(scored.metrics),
        "notes": [f"{metric_info(name).title} is left empty: {reason}." for name, reason in scored.unavailable.items()],
        "command": shlex.join(["unildiff", *sys.argv[1:]]),
        "versions": package_versions(),
    }


def write_run(scored: Scored, method: Method, pairs: Sequence[ScoredPair], run_dir: Path, images: bool) -> None:
    """Write a folder that `unildiff table`, `compare` and `report` read like a tested run.

    Args:
        scored: The scores.
        method: Provenance.
        pairs: The scored files.
        run_dir: The folder; it is created.
        images: Also copy the images (PNGs only), for figures and the report.

    Raises:
        UserError: The folder holds another run, or cannot be written.
    """
    output_folder(run_dir)
    if (run_dir / "run.json").exists():
        raise UserError(f"--run_dir {run_dir} already holds a run; give another folder")
    for name, text in _texts(scored, method).items():
        write_whole(run_dir / name, text.encode())
    for kind, name, source in _files(pairs) if images else ():
        if source.suffix.lower() == ".png":
            target = (run_dir / ("truth" if kind == "gt" else kind) / name).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def bundle_scores(scored: Scored, method: Method, pairs: Sequence[ScoredPair], out: Path, images: bool) -> None:
    """Write a score bundle, see :func:`unildiff.results.bundle.write_bundle`."""
    write_bundle(out, _texts(scored, method), scored.protocol, list(_files(pairs)), images)


def _texts(scored: Scored, method: Method) -> dict[str, str]:
    about = provenance(scored, method)
    return {"scores.csv": csv_text(scored.rows), "run.json": json.dumps(about, indent=2) + "\n"}


def _files(pairs: Sequence[ScoredPair]) -> Iterator[ScoredFile]:
    for pair in pairs:
        for kind, path in (("restored", pair.restored), ("gt", pair.gt), ("input", pair.input)):
            if path is not None:
                yield ScoredFile(kind, "/".join(filter(None, (pair.degradation, f"{pair.name}{path.suffix}"))), path)
