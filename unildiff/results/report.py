"""One self-contained HTML file about runs: tables, curves, figures, a before/after slider a picture, how it was made."""

import html
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from unildiff.analysis.figures import perception_distortion_figure
from unildiff.data.images import read_rgb
from unildiff.metrics.registry import METRICS
from unildiff.results.figures import median_picture, perception_distortion_points, table_figure
from unildiff.results.report_curves import Curve, curves_html, event_files, read_curves
from unildiff.results.report_images import PictureStore, picture_side, picture_uri
from unildiff.results.report_tables import fitting_table, tables_html
from unildiff.results.tables_build import distinct_names, with_distinct_labels
from unildiff.results.tables_runs import PictureKind, Run, load_run
from unildiff.results.tables_specs import SPECS
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_file, output_folder, write_whole

_ASSETS = Path(__file__).parent / "assets"
_KINDS: tuple[PictureKind, ...] = ("input", "restored", "truth")
_FIGURE_SIDE = 1600
_MAX_DOCUMENT = 256 * 1024


@dataclass(frozen=True)
class _Source:
    """One folder that the user named, what sets it apart from the others; scored runs and curves in it, if any."""

    folder: Path
    name: str
    runs: tuple[Run, ...]
    curves: dict[str, Curve]


def write_report(run_dirs: Sequence[Path], out: Path) -> None:
    """Write the report.

    A run's folder may hold scored pictures (``scores.csv`` with ``run.json``, see ``tables_runs``; also in folders below
    it), TensorBoard's event files, or both. Figures (``figures/*.png``) and documents (``*.yaml``, ``*.json``) in it are
    shown. Nothing in the file asks the network for anything.

    Args:
        run_dirs: folders of runs.
        out: the HTML file; its folder is made.

    Raises:
        UserError: no folder given, one that is no run, or a run that is broken.
    """
    if not run_dirs:
        raise UserError("no run: report needs at least one run's folder, e.g. `unildiff report runs/joint`")
    output_folder(out.parent)
    output_file(out)
    names = distinct_names(run_dirs)
    sources = [_read_source(folder, name) for folder, name in zip(run_dirs, names, strict=True)]
    runs = with_distinct_labels([run for source in sources for run in source.runs])
    curves = {source.name: source.curves for source in sources if source.curves}
    data, size_note = _picture_data(runs)
    sections = {
        "Tables": tables_html(runs),
        "Curves": f'<div class="curves">{curves_html(curves)}</div>' if curves else "",
        "Figures": _figures_html(sources, runs),
        "Pictures": _asset("report_pictures.html").substitute(size_note=size_note) if runs else "",
        "How it was made": _documents_html(sources),
    }
    kept = {title: body for title, body in sections.items() if body}
    anchors = {title: title.lower().replace(" ", "-") for title in kept}
    page = _asset("report.html").substitute(
        title=html.escape("UniLDiff report: " + ", ".join(names)),
        navigation=" ".join(f'<a href="#{anchors[title]}">{title}</a>' for title in kept),
        sections="\n".join(f'<h2 id="{anchors[title]}">{title}</h2>\n{body}' for title, body in kept.items()),
        css=(_ASSETS / "report.css").read_text(encoding="utf-8"),
        script=(_ASSETS / "report.js").read_text(encoding="utf-8"),
        data=json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    )
    write_whole(out, page.encode())


def _asset(name: str) -> Template:
    return Template((_ASSETS / name).read_text(encoding="utf-8"))


def _read_source(folder: Path, name: str) -> _Source:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}, give the folder of a run")
    scored = [path.parent for path in sorted(folder.rglob("scores.csv"))]
    curves = read_curves(folder) if event_files(folder) else {}
    if not scored and not curves:
        raise UserError(
            f"no run: {folder} has neither scores.csv nor TensorBoard's event files, give a folder that "
            "`unildiff fit` or `unildiff test` wrote"
        )
    return _Source(folder, name, tuple(load_run(path) for path in scored), curves)


def _picture_data(runs: Sequence[Run]) -> tuple[dict[str, Any], str]:
    """Return what the script shows, and a sentence on the size of the pictures."""
    metrics = _shown_metrics(runs)
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Path]] = []
    for number, run in enumerate(runs):
        for index, (degradation, name) in enumerate(zip(run.scores.degradations, run.scores.names, strict=True)):
            values = [_value(run, metric["key"], index) for metric in metrics]
            rows.append({"run": number, "degradation": degradation, "name": name, "values": values})
            paths.append({kind: path for kind in _KINDS if (path := run.picture(kind, index))})
    store = PictureStore(picture_side(len({path for kinds in paths for path in kinds.values()})))
    console = Console(stderr=True)
    for row, kinds in track(list(zip(rows, paths, strict=True)), "Embedding pictures", console=console, transient=True):
        row["pictures"] = {}
        for kind, path in kinds.items():
            row["pictures"][kind], *row["size"] = store.add(path)
    note = (
        f"Pictures stand here with at most {store.side} pixels a side, compressed; the scores are of the files."
        if store.uris
        else "The runs kept no pictures."
    )
    data = {"runs": [run.label for run in runs], "metrics": metrics, "rows": rows, "pictures": store.uris}
    return data, note


def _shown_metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    psnr = METRICS["psnr"]
    shown = [
        {"key": "psnr", "title": "PSNR", "digits": psnr.digits, "higher": True},
        {"key": "gain", "title": "PSNR gain", "digits": psnr.digits, "higher": True},
    ]
    present = {metric for run in runs for metric in run.scores.metrics}
    for prefix in ("", "input_"):
        for name, info in METRICS.items():
            key = prefix + name
            if key in present and key != "psnr":
                title = f"input {info.title}" if prefix else info.title
                shown.append({"key": key, "title": title, "digits": info.digits, "higher": info.higher_is_better})
    return shown


def _value(run: Run, key: str, index: int) -> float | None:
    if key == "gain":
        value = float(run.scores.metrics["psnr"][index] - run.scores.metrics["input_psnr"][index])
    else:
        value = float(run.scores.metrics[key][index]) if key in run.scores.metrics else math.nan
    return value if math.isfinite(value) else None


def _figures_html(sources: Sequence[_Source], runs: Sequence[Run]) -> str:
    parts = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, run in enumerate(runs):
            table_id = fitting_table(run)
            if table_id and any(median_picture(run, degradation) is not None for degradation in run.scores.counts()):
                png = table_figure(table_id, run, Path(scratch) / str(number))[1]
                caption = f"{SPECS[table_id].title}, {run.label}: the picture of median PSNR of each degradation"
                parts.append(_figure_html(png, caption))
        points = perception_distortion_points(runs)
        if points:
            png = perception_distortion_figure(points, Path(scratch) / "plane", perception=METRICS["lpips"].title)[1]
            parts.append(_figure_html(png, "Perception against distortion, means over all pictures"))
    for source in sources:
        for path in sorted(source.folder.rglob("figures/*.png")):
            parts.append(_figure_html(path, f"{source.name}: {path.stem.replace('_', ' ')}"))
    return "\n".join(parts)


def _figure_html(path: Path, caption: str) -> str:
    image = Image.fromarray(read_rgb(path))
    text = html.escape(caption, quote=True)
    uri = picture_uri(image, _FIGURE_SIDE)
    return f'<figure class="figure"><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _documents_html(sources: Sequence[_Source]) -> str:
    parts = []
    for source in sources:
        found = [path for suffix in ("yaml", "json") for path in sorted(source.folder.rglob(f"*.{suffix}"))]
        for path in found:
            if path.stat().st_size <= _MAX_DOCUMENT:
                text = path.read_text(encoding="utf-8", errors="replace")
                if path.name == "run.json":
                    text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
                summary = html.escape(f"{source.name}: {path.relative_to(source.folder)}")
                parts.append(f"<details><summary>{summary}</summary><pre>{html.escape(text)}</pre></details>")
    return "\n".join(parts)
