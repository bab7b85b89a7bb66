"""CDD-11 as each project keeps it."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

DEGRADATIONS = [
    "low",
    "haze",
    "rain",
    "snow",
    "low_haze",
    "low_rain",
    "low_snow",
    "haze_rain",
    "haze_snow",
    "low_haze_rain",
    "low_haze_snow",
]
PLACES = {
    "onerestore": {"train": "CDD-11_train", "test": "CDD-11_test"},
    "moceir": {"train": "cdd11/train", "test": "cdd11/test"},
    "moceir inside": {"train": "train", "test": "test"},
    "unildiff-authors": {"test": "CDD11_test"},
}


def write(root: Path, layout: str, split: str, scenes: int = 2) -> Expected:
    """Write ``scenes`` clear images under 11 degradations, the same file names in every folder."""
    place = PLACES[layout][split]
    expected: Expected = {}
    for number in range(1, scenes + 1):
        for degradation in DEGRADATIONS:
            name = f"{number:05d}"
            expected[degradation, name] = pair(
                root, f"{place}/{degradation}/{name}.png", f"{place}/clear/{name}.png", number
            )
    return expected
