"""Curves of the runs of `make tiny-weights` as a table and a picture; by default over docs/tiny-model/curves.csv and .png.

    python -m benchmarks.tiny_curves [--runs runs/tiny] [--out docs/tiny-model/curves]

A loss is noisy from step to step: a line of the table is its mean since the line before, each of 50 stretches of a run.
"""

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unildiff.results.curves import Curve, read_curves
from unildiff.utils.files import output_folder, write_whole

LOSSES = {
    "fit_vae": "loss/reconstruction",
    "fit_unet": "loss/diffusion",
    "alignment": "loss/diffusion",
    "joint": "loss/diffusion",
    "decoder": "loss/reconstruction",
}
"""The loss that is drawn, by run; all are kept in the table."""
STRETCHES = 50


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.tiny_curves", description=__doc__.splitlines()[0])
    made.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    made.add_argument("--out", type=Path, default=Path("docs/tiny-model/curves"), help="path without suffix")
    options = made.parse_args(arguments)
    runs = {name: read_curves(options.runs / name) for name in LOSSES}
    if missing := [name for name, curves in runs.items() if LOSSES[name] not in curves]:
        print(f"tiny_curves: error: no curve of the loss of {', '.join(missing)} in {options.runs}", file=sys.stderr)
        return 2
    kept = {run: {tag: averaged(curve) for tag, curve in curves.items()} for run, curves in runs.items()}
    output_folder(options.out.parent)
    write_whole(options.out.with_suffix(".csv"), csv_text(kept).encode())
    draw(kept, options.out.with_suffix(".png"))
    print(options.out.with_suffix(".csv"), options.out.with_suffix(".png"), sep="\n")
    return 0


def averaged(curve: Curve, stretches: int = STRETCHES) -> Curve:
    """Return the mean over each of so many stretches, at its last step; a shorter curve stays as it is."""
    if len(curve.steps) <= stretches:
        return curve
    parts = np.array_split(np.arange(len(curve.steps)), stretches)
    return Curve(
        np.array([curve.steps[part[-1]] for part in parts]), np.array([curve.values[part].mean() for part in parts])
    )


def csv_text(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Return a line a run, curve and step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "curve", "step", "value"])
    for run, curves in runs.items():
        for tag, curve in curves.items():
            if tag.startswith(("loss/", "val/")):
                pairs = zip(curve.steps, curve.values, strict=True)
                writer.writerows([run, tag, int(step), f"{value:.4g}"] for step, value in pairs)
    return text.getvalue()


def draw(runs: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Draw a panel a run: its loss, and PSNR of the validation photographs on a second axis where it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(3.2 * len(runs), 2.8), squeeze=False)
    for axis, (run, curves) in zip(axes[0], runs.items(), strict=True):
        loss = curves[LOSSES[run]]
        axis.plot(loss.steps, loss.values, color="tab:blue")
        axis.set(title=run, xlabel="step")
        psnr = curves.get("val/psnr/avg") or curves.get("val/psnr")
        if psnr is not None:
            right = axis.twinx()
            right.plot(psnr.steps, psnr.values, "s--", color="tab:orange")
            right.tick_params(axis="y", colors="tab:orange")
    axes[0][0].set_ylabel("loss", color="tab:blue")
    figure.suptitle("loss (blue, left) and PSNR of validation photographs in dB (orange, right)", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
