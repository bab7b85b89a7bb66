"""FoundIR's test set: a folder per kind of degradation, each with its ground truth."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

DATASET = "foundir"
PLACES = {"foundir": {"test": ("FoundIR/{kind}/LQ/{n:04d}.png", "FoundIR/{kind}/GT/{n:04d}.png")}}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write two pairs of three kinds; the names of the files are the same in all of them."""
    lq, gt = PLACES[layout][split]
    (root / "FoundIR").mkdir(parents=True)
    (root / "FoundIR" / "Testset_meta_info.txt").write_text("01Blur/GT/0001.png, 01Blur/LQ/0001.png\n")
    return {
        (kind, f"{n:04d}"): pair(root, lq.format(kind=kind, n=n), gt.format(kind=kind, n=n), 10 * number + n)
        for number, kind in enumerate(("01Blur", "02Noise", "20Lowlight_Noise_JPEG"))
        for n in (1, 2)
    }
