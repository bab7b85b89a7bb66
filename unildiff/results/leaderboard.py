"""A static page that ranks the score bundles of a folder, one table per data set and protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unildiff.metrics.registry import METRICS, metric_title
from unildiff.metrics.rows import means, metrics_of
from unildiff.results.bundle import read_manifest
from unildiff.results.render import templates
from unildiff.results.runs import Run, load_run
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole


@dataclass(frozen=True)
class Entry:
    """One bundle's line.

    Attributes:
        label: Name of the method.
        file: Name of the bundle.
        blind: What is known of blindness, in words.
        values: Mean over degradations by metric, as text; "-" where it was not computed.
        images: Number of images.
        verified: Whether the restored images are in the bundle, so that anyone can score them again.
    """

    label: str
    file: str
    blind: str
    values: dict[str, str]
    images: int
    verified: bool


def write_leaderboard(folder: Path, out: Path) -> list[str]:
    """Write the page.

    Args:
        folder: Folder of bundles (.zip).
        out: The HTML file; its folder is created.

    Returns:
        One line for each bundle that could not be read.

    Raises:
        UserError: There is no readable bundle, or the page cannot be written.
    """
    bundles = sorted(folder.glob("*.zip")) if folder.is_dir() else []
    if not bundles:
        raise UserError(f"no bundles in {folder}; give a folder of zips that `unildiff score --bundle` wrote")
    failed: list[str] = []
    groups: dict[tuple[object, ...], list[tuple[Run, Path]]] = {}
    for path in bundles:
        try:
            run = load_run(path)
        except UserError as error:
            failed.append(f"{path.name}: {error}")
            continue
        key = (
            run.info.get("data") or "not recorded",
            run.data_kind,
            run.info.get("protocol"),
            tuple(sorted(run.images)),
        )
        groups.setdefault(key, []).append((run, path))
    if not groups:
        raise UserError(f"no readable bundle in {folder}: {failed[0]}")
    tables = []
    for (data, kind, protocol, images), members in groups.items():
        metrics = [name for name in METRICS if any(name in metrics_of(run.scores) for run, _ in members)]
        title = f"{data}{f' ({kind} set)' if kind else ''}, protocol {protocol}, {len(images)} images"  # type: ignore[arg-type]
        heads = [metric_title(name) for name in metrics]
        tables.append((title, metrics, heads, _entries(members, metrics)))
    page = templates().get_template("leaderboard.html.j2").render(tables=tables, failed=failed)
    write_whole(out, page.encode())
    return failed


def _entries(members: Sequence[tuple[Run, Path]], metrics: Sequence[str]) -> list[Entry]:
    """Return the lines, best mean PSNR (or the first metric) first."""
    entries = []
    for run, path in members:
        average = means(run.scores).loc["avg"].to_dict()
        found = {name: float(average[name]) for name in metrics if name in average}
        first = metrics[0]
        order = found.get(first, float("nan"))
        values = {name: f"{found[name]:.{METRICS[name].digits}f}" if name in found else "-" for name in metrics}
        blind = {True: "blind", False: "not blind", None: "not recorded"}[run.blind]
        packed = bool(read_manifest(path)["images"])
        sign = -1 if METRICS[first].higher_is_better else 1
        entries.append((sign * order, Entry(run.label, path.name, blind, values, len(run.scores), packed)))
    return [entry for _, entry in sorted(entries, key=lambda pair: (pair[0] != pair[0], pair[0]))]
