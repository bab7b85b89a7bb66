"""All-Weather: Outdoor-Rain, Snow100K and RainDrop mixed for training, each alone for testing."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

DATASET = "allweather"
PLACES = {
    "transweather": {
        "train": {"allweather": ("data/train/allweather/input/{}.png", "data/train/allweather/gt/{}.png")},
        "test": {
            "outdoor_rain": ("data/test/test1/input/im_{}_s80_a04.png", "data/test/test1/gt/im_{}.png"),
            "snow100k_s": ("data/test/Snow100K-S/input/{}.jpg", "data/test/Snow100K-S/gt/{}.jpg"),
            "snow100k_l": ("data/test/Snow100K-L/input/{}.jpg", "data/test/Snow100K-L/gt/{}.jpg"),
            "raindrop_a": ("data/test/raindrop_a/input/{}_rain.png", "data/test/raindrop_a/gt/{}_clean.png"),
        },
    },
    "allweather": {
        "train": {"allweather": ("allweather/input/{}.png", "allweather/gt/{}.png")},
        "test": {
            "outdoor_rain": ("test1/input/im_{}_s80_a04.png", "test1/gt/im_{}.png"),
            "snow100k_s": ("Snow100K-S/synthetic/{}.jpg", "Snow100K-S/gt/{}.jpg"),
            "snow100k_l": ("Snow100K-L/synthetic/{}.jpg", "Snow100K-L/gt/{}.jpg"),
            "raindrop_a": ("test_a/data/{}_rain.png", "test_a/gt/{}_clean.png"),
        },
    },
}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write two pairs of each set."""
    expected: Expected = {}
    for kind, (lq, gt) in PLACES[layout][split].items():
        for n in ("0001", "0002"):
            files = pair(root, lq.format(n), gt.format(n), int(n))
            expected[kind, Path(files[0]).stem] = files
    return expected
