"""One self-contained HTML file about runs: tables, curves, figures, a before/after slider per image, how it was made."""

import base64
import contextlib
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unildiff.data.images import read_rgb
from unildiff.metrics.names import METRICS
from unildiff.metrics.rows import metrics_of
from unildiff.results.curves import Curves, curves_by_folder, drawn_curves
from unildiff.results.figures import (
    median_image,
    perception_distortion_figure,
    perception_distortion_points,
    table_figure,
)
from unildiff.results.render import cells, templates
from unildiff.results.runs import ImageKind, Run, distinct_names, load_run, with_distinct_labels
from unildiff.results.specs import fitting_table
from unildiff.results.tables import Table, build_table
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_file, parse_json, write_whole
from unildiff.utils.parallel import progress

_ASSETS = Path(__file__).parent / "assets"
_KINDS: tuple[ImageKind, ...] = ("input", "restored", "truth")
_FIGURE_SIDE = 1600
_BUDGET = 48 * 2**20  # bytes of images in one file that a phone's browser still opens
_BYTES_PER_PIXEL = 0.3  # WebP at this quality, on photographs with rain and noise
_SIDES = (160, 640)
_QUALITY = 85
_MAX_DOCUMENT = 256 * 1024


@dataclass(frozen=True)
class _Source:
    """A folder that the user named, its short name, and the scored runs and curves in it."""

    folder: Path
    name: str
    runs: tuple[Run, ...]
    curves: dict[str, Curves]

    def files(self, pattern: str) -> list[Path]:
        """Return files below the folder; links to places outside it are left out."""
        root = self.folder.resolve()
        return [
            path
            for path in sorted(self.folder.rglob(pattern))
            if path.resolve().is_relative_to(root) and path.is_file()
        ]


def write_report(run_dirs: Sequence[Path], out: Path, roots: Sequence[Path] = ()) -> None:
    """Write the report.

    A run's folder may hold scored images (`scores.csv`, see `runs`; also in folders below it), TensorBoard's event files,
    or both. Figures (`figures/*.png`) and documents (`*.yaml`, `*.json`) in it are shown. Only files inside the folders or
    below `roots` are embedded, and the page requests nothing from the network.

    Args:
        run_dirs: Folders of runs.
        out: The HTML file; its folder is created.
        roots: Further folders from which the scores may name images, e.g. the dataset's.

    Raises:
        UserError: No folder is given, one is not a run, or a run is damaged.
    """
    if not run_dirs:
        raise UserError("no run: report needs at least one run's folder, e.g. `unildiff report runs/joint`")
    output_file(out)
    names = distinct_names(run_dirs)
    sources = [_read_source(folder, name, roots) for folder, name in zip(run_dirs, names, strict=True)]
    runs = with_distinct_labels([run for source in sources for run in source.runs])
    data, size_note = _image_data(runs)
    curves = {name: found for source in sources for name, found in source.curves.items()}
    parts: dict[str, Any] = {
        "Tables": [(table, _marked(table)) for table in _tables(runs)],
        "Curves": drawn_curves(curves),
        "Figures": _figures(sources, runs),
        "Images": runs,
        "How it was made": _documents(sources),
    }
    page = (
        templates()
        .get_template("report.html.j2")
        .render(
            title="UniLDiff report: " + ", ".join(names),
            parts=parts,
            size_note=size_note,
            css=(_ASSETS / "report.css").read_text(encoding="utf-8"),
            script=(_ASSETS / "report.js").read_text(encoding="utf-8"),
            data=json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        )
    )
    write_whole(out, page.encode())


def _read_source(folder: Path, name: str, roots: Sequence[Path]) -> _Source:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give the folder of a run")
    scored = [path.parent for path in sorted(folder.rglob("scores.csv"))]
    curves = curves_by_folder(folder, name)
    if not scored and not curves:
        raise UserError(
            f"not a run: {folder} has neither scores.csv nor TensorBoard's event files; give a folder that "
            "`unildiff fit` or `unildiff test` wrote"
        )
    return _Source(folder, name, tuple(load_run(path, roots) for path in scored), curves)


def _tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table for each group of runs that can be compared."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        key = (fitting_table(run), run.info.get("protocol"), run.data_kind, run.images)
        groups.setdefault(key, []).append(run)
    return [build_table(fitting_table(members[0]), members) for members in groups.values()]


def _marked(table: Table) -> list[list[str]]:
    """Return the cells of each row as HTML."""
    shown = cells(table, ("{}", "<b>{}</b>", "<u>{}</u>"))
    return [[str(cell) for cell in row] for row in shown.itertuples(index=False, name=None)]


def _image_data(runs: Sequence[Run]) -> tuple[dict[str, Any], str]:
    """Return the data of the page's script, and a sentence on the size of the images."""
    metrics = _shown_metrics(runs)
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Path]] = []
    for number, run in enumerate(runs):
        values = {metric["key"]: _values(run, metric["key"]) for metric in metrics}
        for index, (degradation, name) in enumerate(zip(run.scores["degradation"], run.scores["name"], strict=True)):
            line = [values[metric["key"]][index] for metric in metrics]
            rows.append({"run": number, "degradation": degradation, "name": name, "values": line})
            paths.append({kind: path for kind in _KINDS if (path := run.image(kind, index))})
    side = image_side(len({path for kinds in paths for path in kinds.values()}))
    uris: dict[str, str] = {}
    add = cache(partial(_embed, uris, side))
    for row, kinds in progress(zip(rows, paths, strict=True), len(rows), "embedding images"):
        row["images"] = {}
        for kind, path in kinds.items():
            row["images"][kind], *row["size"] = add(path.resolve())
    note = (
        f"Images are shown with at most {side} pixels per side, compressed; the scores are of the files."
        if uris
        else "The runs kept no images."
    )
    data = {"runs": [run.label for run in runs], "metrics": metrics, "rows": rows, "images": uris}
    return data, note


def image_side(count: int) -> int:
    """Return how long the longer side of each of ``count`` images may be, in pixels, to stay within the budget."""
    side = math.sqrt(_BUDGET / max(count, 1) / _BYTES_PER_PIXEL)
    return int(min(max(side, _SIDES[0]), _SIDES[1]))


def _embed(uris: dict[str, str], side: int, path: Path) -> tuple[str, int, int]:
    """Add an image to ``uris``, equal pixels only once; return its identifier and the width and height of the file."""
    pixels = read_rgb(path)
    name = hashlib.blake2b(pixels.tobytes() + bytes(str(pixels.shape), "ascii"), digest_size=8).hexdigest()
    if name not in uris:
        uris[name] = _uri(pixels, side)
    return name, pixels.shape[1], pixels.shape[0]


def _uri(pixels: np.ndarray, side: int = _FIGURE_SIDE) -> str:
    """Return a WebP data URI of an image (H, W, 3), reduced so that its longer side has at most ``side`` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown_metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    present = list(dict.fromkeys(metric for run in runs for metric in metrics_of(run.scores)))
    order = [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]
    shown = []
    for key in sorted(order, key=lambda name: (name != "psnr", name.startswith("input_"))):
        info = next(run for run in runs if key in run.scores).metric(key.removeprefix("input_"))
        title = f"{'input ' * key.startswith('input_')}{info.title}"
        shown.append({"key": key, "title": title, "digits": info.digits, "higher": info.higher_is_better})
    if {"psnr", "input_psnr"} <= set(present):
        shown.insert(1, {"key": "gain", "title": "PSNR gain", "digits": METRICS["psnr"].digits, "higher": True})
    return shown


def _values(run: Run, key: str) -> list[float | None]:
    scores = run.scores
    if key == "gain" and {"psnr", "input_psnr"} <= set(scores.columns):
        values = (scores["psnr"] - scores["input_psnr"]).to_list()
    else:
        values = scores[key].to_list() if key in scores else [math.nan] * len(scores)
    return [value if math.isfinite(value) else None for value in values]


def _figures(sources: Sequence[_Source], runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (data URI, caption) of every figure."""
    found: list[tuple[Path, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, run in enumerate(runs):
            if any(median_image(run, degradation) is not None for degradation in run.counts):
                png = table_figure(fitting_table(run), run, Path(scratch) / str(number))[1]
                found.append((png, f"{run.label}: the image of median PSNR of each degradation"))
        if points := perception_distortion_points(runs):
            png = perception_distortion_figure(points, Path(scratch) / "plane", perception=METRICS["lpips"].title)[1]
            found.append((png, "Perception against distortion, means over all images"))
        for source in sources:
            for path in source.files("figures/*.png"):
                found.append((path, f"{source.name}: {path.stem.replace('_', ' ')}"))
        return [(_uri(read_rgb(path)), caption) for path, caption in found]


def _documents(sources: Sequence[_Source]) -> list[tuple[str, str]]:
    """Return (name, text) of every configuration and record."""
    parts = []
    for source in sources:
        for path in [path for suffix in ("yaml", "json") for path in source.files(f"*.{suffix}")]:
            if path.stat().st_size <= _MAX_DOCUMENT:
                text = path.read_text(encoding="utf-8", errors="replace")
                if path.name == "run.json":
                    with contextlib.suppress(ValueError):
                        text = json.dumps(parse_json(text), indent=2, ensure_ascii=False)
                parts.append((f"{source.name}: {path.relative_to(source.folder)}", text))
    return parts
