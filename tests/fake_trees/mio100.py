"""MiO100 under mixtures of degradations, as AgenticIR's synthesis script writes it: one folder of ground truth for all."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

DATASET = "mio100"
PLACES = {"agenticir": {"test": ("dataset/LQ/d{count}/{kind}/{n:03d}.png", "dataset/HQ/{n:03d}.png")}}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write two images under three mixtures."""
    lq, gt = PLACES[layout][split]
    return {
        (kind, f"{n:03d}"): pair(root, lq.format(kind=kind, n=n, count=1 + kind.count("+")), gt.format(n=n), n)
        for kind in ("rain+haze", "dark+noise", "haze+motion blur+low resolution")
        for n in (1, 2)
    }
