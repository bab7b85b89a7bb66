"""Rain100L as each project keeps it."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

# layout -> split -> (degraded, clean), {} being the number
PLACES = {
    "promptir": {
        "train": ("Train/Derain/rainy/rain-{}.png", "Train/Derain/gt/norain-{}.png"),
        "test": ("test/derain/Rain100L/input/{}.png", "test/derain/Rain100L/target/{}.png"),
    },
    "dfpir": {
        "test": ("data/test/derain/Rain100L/input/rain-{}.png", "data/test/derain/Rain100L/target/norain-{}.png")
    },
    "moceir": {
        "train": ("deraining/RainTrainL/rainy/rain-{}.png", "deraining/RainTrainL/gt/norain-{}.png"),
        "test": ("deraining/Rain100L/rainy/{}.png", "deraining/Rain100L/gt/{}.png"),
    },
    "daclip": {
        "train": ("datasets/universal/train/rainy/LQ/{}.png", "datasets/universal/train/rainy/GT/{}.png"),
        "test": ("datasets/universal/val/rainy/LQ/{}.png", "datasets/universal/val/rainy/GT/{}.png"),
    },
    "diffuir": {
        "train": ("Restoration/syn_rain/train/input/{}.jpg", "Restoration/syn_rain/train/target/{}.jpg"),
        "test": ("Restoration/syn_rain/test/input/{}.png", "Restoration/syn_rain/test/target/{}.png"),
    },
    "daclip-test": {"test": ("datasets/universal/rainy/LQ/{}.png", "datasets/universal/rainy/GT/{}.png")},
    "instructir": {"test": ("test-data/Rain100L/input/{}.png", "test-data/Rain100L/target/{}.png")},
    "unildiff-authors": {
        "train": ("allinone/Rain100L/LQ/rain-{}.png", "allinone/Rain100L/GT/norain-{}.png"),
        "test": ("data/test/rainy1/LQ/rain-{}.png", "data/test/rainy1/GT/norain-{}.png"),
    },
    "unildiff": {
        split: (f"{split}/rain/lq/{{}}.png", f"{split}/rain/gt/{{}}.png") for split in ("train", "val", "test")
    },
}


def write(root: Path, layout: str, split: str, count: int = 12) -> Expected:
    """Write ``count`` pairs, numbered from 1 without leading zeros, so that sorted lists are not in number's order."""
    lq, gt = PLACES[layout][split]
    expected: Expected = {}
    for number in range(1, count + 1):
        files = pair(root, lq.format(number), gt.format(number), number)
        expected["rain", Path(files[0]).stem] = files
    return expected


def write_2800(root: Path) -> Expected:
    """Write two pairs of Test2800 as DiffUIR keeps it."""
    place = "Restoration/syn_rain/test/Test2800"
    return {
        ("rain2800", f"{n}_1"): pair(root, f"{place}/input/{n}_1.png", f"{place}/target/{n}_1.png", n - 900)
        for n in (901, 902)
    }
