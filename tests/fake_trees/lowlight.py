"""LOL-v1 as each project keeps it."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

PLACES = {
    "adair": {
        "train": ("Train/Enhance/low/{}.png", "Train/Enhance/gt/{}.png"),
        "test": ("test/enhance/lol/input/{}.png", "test/enhance/lol/target/{}.png"),
    },
    "dfpir": {
        "train": ("Train/Enhance/low/{}.png", "Train/Enhance/high/{}.png"),
        "test": ("test/enhance/lol/low/{}.png", "test/enhance/lol/high/{}.png"),
    },
    "moceir": {
        "train": ("llie/LOLv1/Train/input/{}.png", "llie/LOLv1/Train/target/{}.png"),
        "test": ("llie/LOLv1/Test/input/{}.png", "llie/LOLv1/Test/target/{}.png"),
    },
    "daclip": {
        "train": ("train/low-light/LQ/{}.png", "train/low-light/GT/{}.png"),
        "test": ("val/low-light/LQ/{}.png", "val/low-light/GT/{}.png"),
    },
    "diffuir": {
        "train": ("LOL/train/low/{}.png", "LOL/train/high/{}.png"),
        "test": ("Restoration/LOL/test/low/{}.png", "Restoration/LOL/test/high/{}.png"),
    },
    "daclip-test": {"test": ("universal/low-light/LQ/{}.png", "universal/low-light/GT/{}.png")},
    "dfpir-five": {
        "train": ("data/LOLdataset/train485/low/{}.png", "data/LOLdataset/train485/high/{}.png"),
        "test": ("LOLdataset/test15/low/{}.png", "LOLdataset/test15/high/{}.png"),
    },
    "instructir": {"test": ("LOL/low/{}.png", "LOL/high/{}.png")},
    "original": {
        "train": ("our485/low/{}.png", "our485/high/{}.png"),
        "test": ("eval15/low/{}.png", "eval15/high/{}.png"),
    },
    "unildiff-authors": {
        "train": ("allinone/low-light/LQ/{}.png", "allinone/low-light/GT/{}.png"),
        "test": ("data/test/low-light/LQ/{}.png", "data/test/low-light/GT/{}.png"),
    },
    "unildiff": {
        split: (f"{split}/lowlight/lq/{{}}.png", f"{split}/lowlight/gt/{{}}.png") for split in ("train", "val", "test")
    },
}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write three pairs."""
    lq, gt = PLACES[layout][split]
    return {("lowlight", str(n)): pair(root, lq.format(n), gt.format(n), n) for n in (1, 22, 111)}
