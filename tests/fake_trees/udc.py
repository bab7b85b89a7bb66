"""T-OLED and P-OLED as published and as the UniLDiff authors keep them."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair

PLACES = {
    "udc": {
        "toled": ("Toled_{s}/LQ/{n}.png", "Toled_{s}/HQ/{n}.png"),
        "poled": ("Poled_{s}/LQ/{n}.png", "Poled_{s}/HQ/{n}.png"),
    },
    "unildiff-authors": {
        "toled": ("TOLED_test/{n}.png", "TOLED_GT/{n}.png"),
        "poled": ("POLED/poled_images/{n}.png", "POLED/test_GT/{n}.png"),
    },
}


def write(root: Path, layout: str, split: str) -> Expected:
    """Write two pairs of each display."""
    expected: Expected = {}
    for display, (lq, gt) in PLACES[layout].items():
        for n in (1, 10):
            expected[display, str(n)] = pair(root, lq.format(s=split, n=n), gt.format(s=split, n=n), n)
    return expected
