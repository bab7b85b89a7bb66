"""Clean pictures for noise, and noisy ones made beforehand, as each project keeps them."""

from pathlib import Path

from tests.fake_trees.pictures import Expected, pair, save, scene

# layout -> split -> clean files; names are given with each
CLEAN = {
    "promptir": {
        "train": [
            "Train/Denoise/00001.bmp",
            "Train/Denoise/00002.bmp",
            "Train/Denoise/117025.jpg",
            "Train/Denoise/a8143.jpg",
        ],
        "test": ["test/denoise/bsd68/101085.png", "test/denoise/bsd68/8023.png", "test/denoise/bsd68/test9.png"],
    },
    "moceir": {
        "train": ["denoising/WaterlooED/00001.bmp", "denoising/WaterlooED/00002.bmp", "denoising/BSD400/117025.jpg"],
        "test": ["denoising/cBSD68/original_png/0000.png", "denoising/cBSD68/original_png/0001.png"],
    },
    "instructir-clean": {"test": ["test-data/denoising_testsets/CBSD68/0000.png"]},
    "unildiff": {"train": ["train/noise/gt/a.png"], "test": ["test/noise/gt/a.png"]},
}
# (degraded, clean) with {s} the sigma
STORED = {
    "instructir": {"test": ("denoising_testsets/CBSD68_{s}/{n}.png", "denoising_testsets/CBSD68/{n}.png")},
    "unildiff-authors": {"train": ("allinone/BSDWED{s}/LQ/{n}.png", "allinone/BSDWED{s}/GT/a{n}.png")},
}


def write(root: Path, layout: str, split: str, sigmas: tuple[int, ...] = (15, 25, 50)) -> Expected:
    """Write the tree; in tests, clean pictures are expected once for each sigma."""
    expected: Expected = {}
    if layout in CLEAN:
        for number, file in enumerate(CLEAN[layout][split]):
            save(root / file, scene(number, (32, 48)))
            for label in [f"noise_{sigma}" for sigma in sigmas] if split == "test" else ["noise"]:
                expected[label, Path(file).stem] = (None, file)
        return expected
    lq, gt = STORED[layout][split]
    for sigma in sigmas:
        for number in (8143, 117025):
            files = pair(root, lq.format(s=sigma, n=number), gt.format(s=sigma, n=number), number % 200)
            expected[f"noise_{sigma}", str(number)] = files
    return expected
