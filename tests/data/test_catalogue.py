"""The catalogue, against counts from the paper's supplement and the sets' own papers."""

import datamodules
from unildiff.data.catalogue import DATASETS, SETS
from unildiff.degradations.names import DEGRADATIONS, DOUBLE, SINGLE, TRIPLE

PUBLISHED = {
    "noise": {"train": 400 + 4744, "test": 68},  # BSD400 and WED; BSD68
    "urban100": {"test": 100},
    "kodak24": {"test": 24},
    "rain": {"train": 200, "test": 100},
    "haze": {"train": 72135, "test": 500},
    "blur": {"train": 2103, "test": 1111},
    "lowlight": {"train": 485, "test": 15},
    "cdd11": {"train": 1183, "test": 200},
    "raindrop": {"train": 861, "test": 58},
    "raindrop_b": {"test": 249},
    "toled": {"train": 240, "val": 30, "test": 30},
    "poled": {"train": 240, "val": 30, "test": 30},
    "rain2800": {"test": 2800},  # its name
    "foundir": {"test": 1500},  # github.com/House-Leo/FoundIR
    "allweather": {"train": 18069},  # github.com/jeya-maria-jose/TransWeather
    "outdoor_rain": {"test": 750},
    "snow100k_s": {"test": 16611},
    "snow100k_l": {"test": 16801},
    "raindrop_a": {"test": 58},
    "mio100": {"test": 100},
}
MADE_OF = {
    "three_task": ["noise", "rain", "haze"],
    "five_task": ["haze", "rain", "noise", "blur", "lowlight"],
    "cdd11": ["cdd11"],
    "autodir": ["haze", "rain", "noise", "blur", "lowlight", "raindrop"],
    "udc": ["toled", "poled"],
    "denoise": ["noise"],
    "derain": ["rain"],
    "dehaze": ["haze"],
    "deblur": ["blur"],
    "lowlight": ["lowlight"],
    "raindrop": ["raindrop"],
    "foundir": ["foundir"],
    "allweather": ["allweather"],
    "mio100": ["mio100"],
}


def test_counts_are_the_published_ones_and_say_who_says_so():
    sets = {images.name: images for data in DATASETS.values() for images in data.all_sets}
    assert {name: dict(sets[name].expected) for name in PUBLISHED} == PUBLISHED
    assert all(images.expected_source and images.home and images.licence for images in sets.values())


def test_each_dataset_reads_its_sets():
    assert {name: [images.name for images in DATASETS[name].sets] for name in MADE_OF} == MADE_OF
    assert datamodules.names() == sorted([*DATASETS, "folder", "deadleaves", "photographs"])


def test_cdd11s_groups():
    assert [len(group) for group in (SINGLE, DOUBLE, TRIPLE)] == [4, 5, 2]
    assert sorted((*SINGLE, *DOUBLE, *TRIPLE)) == sorted(DEGRADATIONS)
    assert {folders.gt.rpartition("/")[2] for folders in SETS["cdd11"].folders} == {"clear"}
