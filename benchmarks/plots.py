"""The growth curves as one image."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import Row

AXES = ("side of the image, pixels (tiles of 512)", "names", "experts (top-1)", "processes")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each row that has a curve: seconds, and MiB on a second axis where memory was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = [row.curve for row in rows if row.curve]
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), squeeze=False)
    for axis, curve, label in zip(axes[0], curves, AXES, strict=False):
        wide = max(curve["x"]) / min(curve["x"]) > 10
        axis.plot(curve["x"], curve["seconds"], "o-", color="tab:blue")
        axis.set(xlabel=label, ylabel="seconds")
        axis.yaxis.label.set_color("tab:blue")
        axis.set_xscale("log", base=10 if wide and curve["x"][0] % 10 == 0 else 2)
        if wide:
            axis.set_yscale("log")
        axis.set_xticks(curve["x"], [f"{x:g}" if x < 1e4 else f"{x:,.0f}" for x in curve["x"]])
        axis.minorticks_off()
        if not wide:
            axis.set_ylim(bottom=0)
        if "MiB" in curve:
            memory = axis.twinx()
            memory.plot(curve["x"], curve["MiB"], "s--", color="tab:orange")
            memory.set_ylabel("peak MiB", color="tab:orange")
            memory.set_ylim(bottom=0)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
