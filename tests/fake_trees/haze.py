"""OTS and SOTS as each project keeps them: several hazy images of one clear one."""

from pathlib import Path

from tests.fake_trees.images import Expected, pair, save, scene

PLACES = {
    "promptir": {
        "train": ("Train/Dehaze/synthetic/part{part}/{id}_0.8_0.{n}.jpg", "Train/Dehaze/original/{id}.jpg"),
        "test": ("test/dehaze/input/{id}_0.8_0.{n}.jpg", "test/dehaze/target/{id}.png"),
    },
    # AdaIR's guide shows .jpg clear images, its code asks for the hazy suffix: any must do
    "adair": {
        "train": ("data/Train/Dehaze/synthetic/part{part}/{id}_0.8_0.{n}.jpg", "data/Train/Dehaze/original/{id}.png")
    },
    "dfpir": {"train": ("Train/Dehaze/synthetic/{id}_0.8_0.{n}.jpg", "Train/Dehaze/original/{id}.jpg")},
    "moceir": {
        "train": ("dehazing/RESIDE/part{part}/{id}_0.8_0.{n}.jpg", "dehazing/RESIDE/clear/{id}.jpg"),
        "test": ("dehazing/SOTS/outdoor/hazy/{id}_0.8_0.{n}.jpg", "dehazing/SOTS/outdoor/gt/{id}.png"),
    },
    "daclip": {
        "train": ("datasets/universal/train/hazy/LQ/{id}_0.8_0.{n}.png", "datasets/universal/train/hazy/GT/{id}.png"),
        "test": ("universal/val/hazy/LQ/{id}_0.8_0.{n}.png", "universal/val/hazy/GT/{id}.png"),
    },
    "daclip-test": {"test": ("universal/hazy/LQ/{id}_0.8_0.{n}.png", "universal/hazy/GT/{id}.png")},
    "diffuir": {
        "train": ("RESIDE/OTS_ALPHA/haze/OTS/{id}_0.8_0.{n}.jpg", "RESIDE/OTS_ALPHA/clear/clear_images/{id}.jpg"),
        "test": ("RESIDE/SOTS/outdoor/hazy/{id}_0.8_0.{n}.jpg", "RESIDE/SOTS/outdoor/gt/{id}.png"),
    },
    "unildiff-authors": {
        "train": ("allinone/OTS/LQ/{id}_0.8_0.{n}.jpg", "allinone/OTS/GT/{id}_0.8_0.{n}.jpg"),
        "test": ("data/test/SOTS/LQ/{id}_0.8_0.{n}.jpg", "data/test/SOTS/GT/{id}_0.8_0.{n}.jpg"),
    },
    "unildiff": {
        split: (f"{split}/haze/lq/{{id}}_0.8_0.{{n}}.png", f"{split}/haze/gt/{{id}}.png")
        for split in ("train", "val", "test")
    },
    "instructir": {"test": ("SOTS/IN/{id}_0.8_0.{n}.jpg", "SOTS/GT/{id}_0.8_0.{n}.jpg")},
}


def write(root: Path, layout: str, split: str, scenes: int = 3, each: int = 2) -> Expected:
    """Write ``scenes`` clear images with ``each`` hazy ones; names as 0025_0.8_0.1 and 0025."""
    lq, gt = PLACES[layout][split]
    expected: Expected = {}
    for number in range(scenes):
        for n in range(each):
            place = {"id": f"{number:04d}", "n": n, "part": number % 4 + 1}
            files = pair(root, lq.format(**place), gt.format(**place), number)
            expected["haze", Path(files[0]).stem] = files
    if gt.count("{n}") == 0 and split == "train":  # OTS has clear images without hazy ones in the published list
        save(root / gt.format(id="9999", n=0, part=1), scene(99))
    return expected
