"""RainDrop as published and as DA-CLIP keeps it."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

PLACES = {
    "original": {
        "train": ("train/data/{}_rain.png", "train/gt/{}_clean.png"),
        "test": ("RainDrop/test_a/data/{}_rain.png", "RainDrop/test_a/gt/{}_clean.png"),
        "test_b": ("RainDrop/test_b/data/{}_rain.jpg", "RainDrop/test_b/gt/{}_clean.jpg"),
    },
    "daclip": {
        "train": ("train/raindrop/LQ/{}_rain.png", "train/raindrop/GT/{}_clean.png"),
        "test": ("val/raindrop/LQ/{}.png", "val/raindrop/GT/{}.png"),
    },
    "daclip-test": {"test": ("universal/raindrop/LQ/{}.png", "universal/raindrop/GT/{}.png")},
    "unildiff": {
        split: (f"{split}/raindrop/lq/{{}}.png", f"{split}/raindrop/gt/{{}}.png") for split in ("train", "val", "test")
    },
}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write three pairs; split "test_b" is the second test set."""
    lq, gt = PLACES[layout][split]
    label = "raindrop_b" if split == "test_b" else "raindrop"
    files = [pair(root, lq.format(n), gt.format(n), n) for n in (0, 2, 10)]
    return {(label, Path(lq).stem): (lq, gt) for lq, gt in files}
