"""A static page that ranks the score bundles of a folder, one table per dataset and protocol."""

import math
from pathlib import Path

from unildiff.metrics.names import METRICS, MetricInfo
from unildiff.metrics.rows import means, metrics_of
from unildiff.results.render import templates
from unildiff.results.runs import Run, load_run
from unildiff.utils.errors import UserError
from unildiff.utils.files import write_whole

_BLIND = {True: "blind", False: "not blind", None: "not recorded"}


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
    groups: dict[tuple[object, ...], list[Run]] = {}
    for path in bundles:
        try:
            run = load_run(path)
        except UserError as error:
            failed.append(f"{path.name}: {error}")
            continue
        key = run.info.get("data") or "not recorded", run.data_kind, run.info.get("protocol"), run.images
        groups.setdefault(key, []).append(run)
    if not groups:
        raise UserError(f"no readable bundle in {folder}: {failed[0]}")
    tables = []
    for (data, kind, protocol, _), members in groups.items():
        found = {name: run.metric(name) for run in members for name in metrics_of(run.scores) if "input_" not in name}
        metrics = {name: found[name] for name in sorted(found, key=[*METRICS, *found].index)}
        title = f"{data}{f' ({kind} set)' if kind else ''}, protocol {protocol}, {len(members[0].images)} images"
        tables.append((title, [info.title for info in metrics.values()], _lines(members, metrics)))
    page = templates().get_template("leaderboard.html.j2").render(tables=tables, failed=failed)
    write_whole(out, page.encode())
    return failed


def _lines(runs: list[Run], metrics: dict[str, MetricInfo]) -> list[list[str]]:
    """Return the cells of each run's line, best mean PSNR (or first metric) first."""
    lines = []
    sign = -1 if next(iter(metrics.values())).higher_is_better else 1
    for run in runs:
        found = [float(value) for value in means(run.scores).reindex(columns=list(metrics)).iloc[-1]]
        shown = [
            "-" if math.isnan(value) else f"{value:.{info.digits}f}"
            for info, value in zip(metrics.values(), found, strict=True)
        ]
        images = "included" if run.has_images else "hashes only"
        order = sign * found[0]
        lines.append((math.isnan(order), order, [run.label, *shown, _BLIND[run.blind], images, run.where.name]))
    return [line for *_, line in sorted(lines, key=lambda each: each[:2])]
