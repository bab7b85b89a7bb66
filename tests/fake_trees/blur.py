"""GoPro as each project keeps it."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

PLACES = {
    "adair": {
        "train": ("data/Train/Deblur/blur/{}.png", "data/Train/Deblur/sharp/{}.png"),
        "test": ("test/deblur/gopro/input/{}.png", "test/deblur/gopro/target/{}.png"),
    },
    "moceir": {
        "train": ("deblurring/GoPro/crop/train/input_crops/{}.png", "deblurring/GoPro/crop/train/target_crops/{}.png"),
        "test": ("deblurring/GoPro/test/input/{}.png", "deblurring/GoPro/test/target/{}.png"),
    },
    "dfpir": {"test": ("test/deblur/gopro/blur/{}.png", "test/deblur/gopro/sharp/{}.png")},
    "daclip": {
        "train": ("train/motion-blurry/LQ/{}.png", "train/motion-blurry/GT/{}.png"),
        "test": ("universal/val/motion-blurry/LQ/{}.png", "universal/val/motion-blurry/GT/{}.png"),
    },
    "diffuir": {
        "train": ("Restoration/Deblur/train/input/{}.png", "Restoration/Deblur/train/target/{}.png"),
        "test": ("Deblur/test/input/{}.png", "Deblur/test/target/{}.png"),
    },
    "daclip-test": {"test": ("universal/motion-blurry/LQ/{}.png", "universal/motion-blurry/GT/{}.png")},
    "diffuir-test": {
        "test": ("Restoration/Deblur/test/GoPro/input/{}.png", "Restoration/Deblur/test/GoPro/target/{}.png")
    },
    "dfpir-five": {
        split: (f"GOPRO_Large/{split}/blur/{{}}.png", f"GOPRO_Large/{split}/sharp/{{}}.png")
        for split in ("train", "test")
    },
    "instructir": {"test": ("GoPro/input/{}.png", "GoPro/target/{}.png")},
    "unildiff-authors": {
        "train": ("motion-blurry/LQ/{}.png", "motion-blurry/GT/{}.png"),
        "test": ("data/test/motion-blurry/LQ/{}.png", "data/test/motion-blurry/GT/{}.png"),
    },
    "unildiff": {
        split: (f"{split}/blur/lq/{{}}.png", f"{split}/blur/gt/{{}}.png") for split in ("train", "val", "test")
    },
}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write three pairs named as GoPro's frames are."""
    lq, gt = PLACES[layout][split]
    names = ["GOPR0384_11_00-000001", "GOPR0384_11_00-000010", "GOPR0871_11_00-000002"]
    return {("blur", name): pair(root, lq.format(name), gt.format(name), n) for n, name in enumerate(names)}
