"""Every set and data set by name: tasks, folders, published counts, where it comes from.

The folders are those that public code reads (peers.md 1.1 to 1.13 and 6, read in the code, 2026); counts are given with
their source. "unildiff" is this project's own plain layout: ``{train,val,test}/<task>/{lq,gt}``, equal names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from unildiff.data.layouts import Folders, PictureSet
from unildiff.data.pair import SUFFIXES, Split
from unildiff.utils.errors import UserError

SINGLE = ("low", "haze", "rain", "snow")
DOUBLE = ("low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow")
TRIPLE = ("low_haze_rain", "low_haze_snow")
RAW_SUFFIXES = SUFFIXES | {".npy", ".mat"}

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SUPPLEMENT = "the paper's supplement, 2.1"
_DRIVES = "linked by the PromptIR, AdaIR and InstructIR READMEs (drive folders, last seen 2025-12)"


def _own(task: str, rule: str = "same") -> Iterator[Folders]:
    for split in _SPLITS:
        yield Folders("unildiff", split, f"{split}/{task}/lq", f"{split}/{task}/gt", rule)


def _daclip(folder: str, rule: str = "same") -> Iterator[Folders]:
    places: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "test"))
    for place, split in places:
        yield Folders("daclip", split, f"{place}/{folder}/LQ", f"{place}/{folder}/GT", rule)


def _authors(train: str, test: str, rule: str = "no") -> Iterator[Folders]:
    """Their training folders are known, of their test folders only rainy1's name; the others are named alike (ours)."""
    yield Folders("unildiff-authors", "train", f"{train}/LQ", f"{train}/GT", rule)
    yield Folders("unildiff-authors", "test", f"test/{test}/LQ", f"test/{test}/GT", rule)


def _both(layout: str, place: str, lq: str, gt: str, rule: str = "same") -> Iterator[Folders]:
    """Folders whose paths differ between training and test by ``{}`` only."""
    for split in _SPLITS[::2]:
        where = place.format(split)
        yield Folders(layout, split, f"{where}/{lq}", f"{where}/{gt}", rule)


def _noise_test(name: str, promptir: str, instructir: str) -> Iterator[Folders]:
    """Clean test pictures, or InstructIR's folders of pictures with noise made beforehand."""
    yield Folders("promptir", "test", None, f"test/denoise/{promptir}")
    for sigma in (15, 25, 50):
        place = f"denoising_testsets/{instructir}"
        yield Folders("instructir", "test", f"{place}_{sigma}", place, "same", f"{name}noise_{sigma}", optional=True)
    yield Folders("instructir-clean", "test", None, f"denoising_testsets/{instructir}")


NOISE = PictureSet(
    "noise",
    "noise",
    "noise",
    "BSD400 + WED / BSD68",
    (
        Folders("promptir", "train", None, "Train/Denoise"),
        Folders("moceir", "train", None, "denoising/WaterlooED"),
        Folders("moceir", "train", None, "denoising/BSD400"),
        Folders("moceir", "test", None, "denoising/cBSD68/original_png"),
        *(
            Folders("unildiff-authors", "train", f"BSDWED{s}/LQ", f"BSDWED{s}/GT", "bsd", f"noise_{s}", optional=True)
            for s in (15, 25, 50)
        ),
        *(
            Folders("unildiff-authors", "test", f"test/BSD68_{s}/LQ", f"test/BSD68_{s}/GT", "bsd", f"noise_{s}", True)
            for s in (15, 25, 50)
        ),
        *_daclip("noisy"),
        *_noise_test("", "bsd68", "CBSD68"),
        *(Folders("unildiff", split, None, f"{split}/noise/gt") for split in _SPLITS),
    ),
    {"train": 5144, "test": 68},
    "4,744 WED + 400 BSD names in PromptIR's denoise.txt; BSD68 as named",
    "WED; BSD400 and BSD68 from BSDS500 (github.com/BIDS/BSDS500); CBSD68: huggingface.co/datasets/deepinv/CBSD68",
    "BSD: non-commercial research and education, says Berkeley's page; WED: not known",
)
URBAN100 = PictureSet(
    "urban100",
    "noise",
    "urban100_noise",
    "Urban100",
    tuple(_noise_test("urban100_", "urban100", "urban100")),
    {"test": 100},
    "as named",
    "huggingface.co/datasets/eugenesiow/Urban100",
    "CC BY 4.0, says that repository's card",
)
KODAK24 = PictureSet(
    "kodak24",
    "noise",
    "kodak24_noise",
    "Kodak24",
    tuple(_noise_test("kodak24_", "kodak24", "Kodak24")),
    {"test": 24},
    "as named",
    _DRIVES,
)
RAIN = PictureSet(
    "rain",
    "rain",
    "rain",
    "Rain100L",
    (
        Folders("promptir", "train", "Train/Derain/rainy", "Train/Derain/gt", "no"),
        Folders("promptir", "test", "test/derain/Rain100L/input", "test/derain/Rain100L/target", "no"),
        Folders("moceir", "train", "deraining/RainTrainL/rainy", "deraining/RainTrainL/gt", "no"),
        Folders("moceir", "test", "deraining/Rain100L/rainy", "deraining/Rain100L/gt", "no"),
        *_daclip("rainy", "no"),
        *_both("diffuir", "syn_rain/{}", "input", "target", "no"),
        Folders("instructir", "test", "Rain100L/input", "Rain100L/target", "no"),
        *_authors("Rain100L", "rainy1"),
        *_own("rain", "no"),
    ),
    {"train": 200, "test": 100},
    _SUPPLEMENT,
    _DRIVES,
)
HAZE = PictureSet(
    "haze",
    "haze",
    "haze",
    "OTS / SOTS-outdoor",
    (
        Folders("promptir", "train", "Train/Dehaze/synthetic/**", "Train/Dehaze/original", "prefix"),
        Folders("promptir", "test", "test/dehaze/input", "test/dehaze/target", "prefix"),
        Folders("moceir", "train", "dehazing/RESIDE/part[1-4]", "dehazing/RESIDE/clear", "prefix"),
        Folders("moceir", "test", "dehazing/SOTS/outdoor/hazy", "dehazing/SOTS/outdoor/gt", "prefix"),
        *_daclip("hazy", "prefix"),
        Folders("diffuir", "train", "RESIDE/OTS_ALPHA/haze/OTS", "RESIDE/OTS_ALPHA/clear/clear_images", "prefix"),
        Folders("diffuir", "test", "RESIDE/SOTS/outdoor/hazy", "RESIDE/SOTS/outdoor/gt", "prefix"),
        Folders("instructir", "test", "SOTS/IN", "SOTS/GT", "same"),
        *_authors("OTS", "SOTS", "prefix"),
        *_own("haze", "prefix"),
    ),
    {"train": 72135, "test": 500},
    f"{_SUPPLEMENT}; hazy_outside.txt of PromptIR and AdaIR lists 72,135 from 2,061 clear pictures",
    f"RESIDE; {_DRIVES}",
)
BLUR = PictureSet(
    "blur",
    "blur",
    "blur",
    "GoPro",
    (
        Folders("adair", "train", "Train/Deblur/blur", "Train/Deblur/sharp"),
        Folders("adair", "test", "test/deblur/gopro/input", "test/deblur/gopro/target"),
        Folders("dfpir", "test", "test/deblur/gopro/blur", "test/deblur/gopro/sharp"),
        Folders(
            "moceir", "train", "deblurring/GoPro/crop/train/input_crops", "deblurring/GoPro/crop/train/target_crops"
        ),
        Folders("moceir", "test", "deblurring/GoPro/test/input", "deblurring/GoPro/test/target"),
        *_daclip("motion-blurry"),
        *_both("diffuir", "Deblur/{}", "input", "target"),
        Folders("instructir", "test", "GoPro/input", "GoPro/target"),
        *_authors("motion-blurry", "motion-blurry"),
        *_own("blur"),
    ),
    {"train": 2103, "test": 1111},
    f"{_SUPPLEMENT}; MoCE-IR's crops are more",
    _DRIVES,
)
LOWLIGHT = PictureSet(
    "lowlight",
    "lowlight",
    "lowlight",
    "LOL-v1",
    (
        Folders("adair", "train", "Train/Enhance/low", "Train/Enhance/gt"),
        Folders("dfpir", "train", "Train/Enhance/low", "Train/Enhance/high"),
        Folders("adair", "test", "test/enhance/lol/input", "test/enhance/lol/target"),
        Folders("dfpir", "test", "test/enhance/lol/low", "test/enhance/lol/high"),
        Folders("moceir", "train", "llie/LOLv1/Train/input", "llie/LOLv1/Train/target"),
        Folders("moceir", "test", "llie/LOLv1/Test/input", "llie/LOLv1/Test/target"),
        *_daclip("low-light"),
        *_both("diffuir", "LOL/{}", "low", "high"),
        Folders("instructir", "test", "LOL/low", "LOL/high"),
        Folders("original", "train", "our485/low", "our485/high"),
        Folders("original", "test", "eval15/low", "eval15/high"),
        *_authors("low-light", "low-light"),
        *_own("lowlight"),
    ),
    {"train": 485, "test": 15},
    _SUPPLEMENT,
    _DRIVES,
)
RAINDROP = PictureSet(
    "raindrop",
    "raindrop",
    "raindrop",
    "RainDrop, test a",
    (
        Folders("original", "train", "train/data", "train/gt", "raindrop"),
        Folders("original", "test", "test_a/data", "test_a/gt", "raindrop"),
        *_daclip("raindrop", "raindrop"),
        *_own("raindrop", "raindrop"),
    ),
    {"train": 861, "test": 58},
    "as reported",
    "DeRaindrop's drive folder (last seen 2024)",
)
RAINDROP_B = PictureSet(
    "raindrop_b",
    "raindrop",
    "raindrop_b",
    "RainDrop, test b",
    (Folders("original", "test", "test_b/data", "test_b/gt", "raindrop"),),
    {"test": 249},
    "as reported",
    "DeRaindrop's drive folder (last seen 2024)",
)


def _cdd11() -> Iterator[Folders]:
    for split in _SPLITS[::2]:
        for degradation in (*SINGLE, *DOUBLE, *TRIPLE):
            for layout, place in (("onerestore", f"CDD-11_{split}"), ("moceir", split)):
                yield Folders(layout, split, f"{place}/{degradation}", f"{place}/clear", "same", degradation)
    for degradation in (*SINGLE, *DOUBLE, *TRIPLE):
        place = "CDD11_test"
        yield Folders("unildiff-authors", "test", f"{place}/{degradation}", f"{place}/clear", "same", degradation)


def _udc(name: str, authors_lq: str, authors_gt: str) -> Iterator[Folders]:
    for split in _SPLITS:
        yield Folders("udc", split, f"{name}_{split}/LQ", f"{name}_{split}/HQ")
    yield Folders("unildiff-authors", "test", authors_lq, authors_gt)


CDD11 = PictureSet(
    "cdd11",
    "",  # each degradation is a task of its own
    "",
    "CDD-11",
    tuple(_cdd11()),
    {"train": 1183, "test": 200},
    "scenes, 11 degradations each, as reported",
    "huggingface.co/datasets/gy65896/CDD-11",
    "not stated: that repository's page names none",
)
TOLED = PictureSet(
    "toled",
    "toled",
    "toled",
    "T-OLED",
    tuple(_udc("Toled", "TOLED_test", "TOLED_GT")),
    {"train": 240, "val": 30, "test": 30},
    "as reported for the ECCV 2020 challenge",
    "the challenge's page; its test split came without truths",
    suffixes=RAW_SUFFIXES,
)
POLED = PictureSet(
    "poled",
    "poled",
    "poled",
    "P-OLED",
    tuple(_udc("Poled", "POLED/poled_images", "POLED/test_GT")),
    {"train": 240, "val": 30, "test": 30},
    "as reported for the ECCV 2020 challenge",
    "the challenge's page; its test split came without truths",
    suffixes=RAW_SUFFIXES,
)


@dataclass(frozen=True)
class DataSet:
    """What one datamodule reads: its sets, and those that only join the test when asked for."""

    name: str
    title: str
    sets: tuple[PictureSet, ...]
    optional: tuple[PictureSet, ...] = ()


DATASETS: Mapping[str, DataSet] = {
    data.name: data
    for data in (
        DataSet("three_task", "noise, rain and haze", (NOISE, RAIN, HAZE), (URBAN100, KODAK24)),
        DataSet(
            "five_task",
            "haze, rain, noise, blur and low light",
            (HAZE, RAIN, NOISE, BLUR, LOWLIGHT),
            (URBAN100, KODAK24),
        ),
        DataSet("cdd11", "CDD-11, eleven single and combined degradations", (CDD11,)),
        DataSet(
            "autodir",
            "AutoDIR's six tasks",
            (HAZE, RAIN, NOISE, BLUR, LOWLIGHT, RAINDROP),
            (RAINDROP_B, URBAN100, KODAK24),
        ),
        DataSet("udc", "under-display cameras, T-OLED and P-OLED", (TOLED, POLED)),
        DataSet("denoise", "noise alone", (NOISE,), (URBAN100, KODAK24)),
        DataSet("derain", "rain alone", (RAIN,)),
        DataSet("dehaze", "haze alone", (HAZE,)),
        DataSet("deblur", "motion blur alone", (BLUR,)),
        DataSet("lowlight", "low light alone", (LOWLIGHT,)),
        DataSet("raindrop", "raindrops on the lens alone", (RAINDROP,), (RAINDROP_B,)),
    )
}


def dataset(name: str) -> DataSet:
    """Return the data set of that name.

    Raises:
        UserError: there is none; the message lists all.
    """
    if name not in DATASETS:
        raise UserError(f"no folder layout for {name!r}; choose from {', '.join(DATASETS)}")
    return DATASETS[name]
