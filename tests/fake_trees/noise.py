"""Clean images for noise, and noisy ones made beforehand, as each project keeps them."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair, save, scene

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
    "deepinv": {
        "train": [
            "BSDS500-master/BSDS500/data/images/train/100075.jpg",
            "BSDS500-master/BSDS500/data/images/test/100007.jpg",
        ],
        "test": ["BSDS500-master/BSDS500/data/images/val/101085.jpg"],
    },
    "unildiff": {split: [f"{split}/noise/gt/a.png"] for split in ("train", "val", "test")},
}
# (degraded, clean) with {s} the sigma, where it is known
STORED = {
    "instructir": {"test": ("denoising_testsets/CBSD68_{s}/{n}.png", "denoising_testsets/CBSD68/{n}.png")},
    "unildiff-authors": {
        "train": ("allinone/BSDWED{s}/LQ/{n}.png", "allinone/BSDWED{s}/GT/a{n}.png"),
        "test": ("data/test/BSD68_{s}/LQ/{n}.png", "data/test/BSD68_{s}/GT/{n}.png"),
    },
    "daclip-test": {"test": ("universal/noisy/LQ/{n}.png", "universal/noisy/GT/{n}.png")},
    "daclip": {
        "train": ("universal/train/noisy/LQ/{n}.png", "universal/train/noisy/GT/{n}.png"),
        "test": ("universal/val/noisy/LQ/{n}.png", "universal/val/noisy/GT/{n}.png"),
    },
}
# further test sets -> layout -> folder
FURTHER = {
    name: {
        "promptir": f"test/denoise/{name}",
        "instructir": f"test-data/denoising_testsets/{title}",
        "instructir-clean": f"denoising_testsets/{title}",
        "deepinv": deepinv,
    }
    for name, title, deepinv in (
        ("urban100", "urban100", "Urban100_HR"),
        ("kodak24", "Kodak24", "Kodak-Lossless-True-Color-Image-Suite-master/PhotoCD_PCD0992"),
    )
}


def write(root: Path, layout: str, split: str, sigmas: tuple[int, ...] = (15, 25, 50)) -> Expected:
    """Write the tree; clean images are expected once for each sigma, but in training, where it is drawn."""
    expected: Expected = {}
    if layout in CLEAN:
        for number, file in enumerate(CLEAN[layout][split]):
            save(root / file, scene(number, (32, 48)))
            for label in [f"noise_{sigma}" for sigma in sigmas] if split != "train" else ["noise"]:
                expected[label, Path(file).stem] = (None, file)
        return expected
    lq, gt = STORED[layout][split]
    for sigma in sigmas:
        for number in (8143, 117025):
            files = pair(root, lq.format(s=sigma, n=number), gt.format(s=sigma, n=number), number % 200)
            expected[f"noise_{sigma}" if "{s}" in lq else "noise", str(number)] = files
    return expected


def write_further(root: Path, name: str, layout: str) -> Expected:
    """Write two images of a further test set."""
    place = FURTHER[name][layout]
    expected: Expected = {}
    for sigma in (15, 25, 50):
        for number in (1, 2):
            clean, noisy = f"{place}/img_{number:03d}.png", f"{place}_{sigma}/img_{number:03d}.png"
            if layout == "instructir":
                files: tuple[str | None, str] = pair(root, noisy, clean, number)
            else:
                save(root / clean, scene(number, (32, 48)))
                files = (None, clean)
            expected[f"{name}_noise_{sigma}", f"img_{number:03d}"] = files
    return expected
