"""Every layout is recognised automatically and gives the right pairs."""

import logging
from importlib import import_module
from pathlib import Path

import pytest

import datamodules
from tests.fake_trees import blur, cdd11, haze, lowlight, noise, rain, raindrop, udc
from tests.fake_trees.images import SHIFT
from unildiff.data.catalogue import DATASETS, dataset
from unildiff.data.tools.captioner import image_files
from unildiff.data.tools.check import check
from unildiff.data.tools.pack_writer import pack_set
from unildiff.utils.datamodules import constructor
from unildiff.utils.errors import UserError

OF = {  # which datamodule reads which fake trees
    "derain": (rain, rain.PLACES),
    "dehaze": (haze, haze.PLACES),
    "denoise": (noise, noise.CLEAN | noise.STORED),
    "deblur": (blur, blur.PLACES),
    "lowlight": (lowlight, lowlight.PLACES),
    "raindrop": (raindrop, raindrop.PLACES),
    "cdd11": (cdd11, cdd11.PLACES),
    "udc": (udc, {layout: ("train", "val", "test") if layout == "udc" else ("test",) for layout in udc.PLACES}),
}
NEW = [import_module(f"tests.fake_trees.{file.stem}") for file in Path(rain.__file__).parent.glob("[a-z]*.py")]
OF |= {tree.DATASET: (tree, tree.PLACES) for tree in NEW if hasattr(tree, "DATASET")}
CASES = [
    (name, layout, split)
    for name, (_, places) in OF.items()
    for layout, splits in places.items()
    for split in splits
    if split != "test_b"
]
# Layouts whose trees equal another layout's, so that they cannot be distinguished.
SAME_TREE = {("dehaze", "adair"): "promptir", ("dehaze", "dfpir"): "promptir", ("derain", "dfpir"): "promptir"}


FURTHER = [(name, layout) for name, layouts in noise.FURTHER.items() for layout in layouts]


def test_no_layout_of_the_catalogue_is_without_a_fake_tree():
    covered = {(s.name, layout.split()[0], split) for name, layout, split in CASES for s in dataset(name).sets}
    covered |= {
        (s.name, layout, split) for name, layout, split in CASES if name == "allweather" for s in dataset(name).also
    }
    covered |= {(name, layout, "test") for name, layout in FURTHER}
    covered |= {
        ("raindrop_b", "original", "test"),
        ("rain2800", "diffuir-test", "test"),
    }  # see further test sets, below
    known = {
        (images.name, folders.layout, folders.split)
        for data in DATASETS.values()
        for images in data.all_sets
        for folders in images.folders
    }
    assert known <= covered, sorted(known - covered)


def make(name: str, **settings):
    return constructor(name)(num_workers=0, **settings)


def found(source, root: Path) -> dict:
    """Return the contents of a source in the form of the fake trees' ``Expected``."""

    def below(path):
        return None if path is None else path.relative_to(root).as_posix()

    return {(pair.degradation, pair.name): (below(pair.lq), below(pair.gt)) for pair in source.pairs}


@pytest.mark.parametrize(("name", "layout", "split"), CASES, ids=map("-".join, CASES))
def test_each_layout_gives_the_right_pairs(name, layout, split, tmp_path, caplog):
    expected = OF[name][0].write(tmp_path, layout, split)
    caplog.set_level(logging.INFO)
    module = make(name, root=str(tmp_path))
    if split == "train":
        samples = module.train_set()
        pairs = {key: value for view in samples._sources.values() for key, value in found(view, tmp_path).items()}
    else:
        samples = module.val_set() if split == "val" else module.test_set()
        pairs = found(samples.source, tmp_path)
    assert pairs == expected
    assert f"layout {SAME_TREE.get((name, layout), layout.split()[0])} " in caplog.text


@pytest.mark.parametrize("name", ["derain", "dehaze", "cdd11"])
def test_pixels_of_a_pair_belong_together(name, tmp_path):
    OF[name][0].write(tmp_path, "moceir", "test")
    samples = make(name, root=str(tmp_path)).test_set()
    for index in range(len(samples)):
        sample = samples[index]
        assert (sample["lq"] == sample["gt"] + SHIFT).all()


def test_five_tasks_from_the_folders_of_five_projects(tmp_path):
    expected = {}
    expected |= haze.write(tmp_path / "haze", "diffuir", "test")
    expected |= rain.write(tmp_path / "all", "moceir", "test")
    expected |= noise.write(tmp_path / "all", "moceir", "test", sigmas=(25,))
    expected |= blur.write(tmp_path / "all", "adair", "test")
    expected |= lowlight.write(tmp_path / "low", "instructir", "test")
    folders = {"haze": str(tmp_path / "haze"), "lowlight": str(tmp_path / "low")}
    module = make("five_task", root=str(tmp_path / "all"), folders=folders)
    assert {(p.degradation, p.name) for p in module.test_set().source.pairs} == set(expected)
    assert module.counts() == {"haze": 6, "rain": 12, "noise_25": 2, "blur": 3, "lowlight": 3}


def test_each_task_alone(tmp_path):
    rain.write(tmp_path, "promptir", "test")
    assert make("three_task", root=str(tmp_path), tasks=["rain"]).counts() == {"rain": 12}
    with pytest.raises(UserError, match=r"tasks: no snow; choose from noise, rain, haze"):
        make("three_task", tasks=["snow"])


@pytest.mark.parametrize(("name", "layout"), FURTHER, ids=map("-".join, FURTHER))
def test_further_test_sets_in_each_layout(name, layout, tmp_path):
    first = noise.write(tmp_path, layout, "test")
    expected = noise.write_further(tmp_path, name, layout)
    module = make("denoise", root=str(tmp_path), also_test=[name])
    assert found(module.test_set().source, tmp_path) == first | expected


def test_autodirs_six_tasks_have_a_folder_each(tmp_path):
    """Its public code has no data lists, so its own root is not known."""
    trees = {"haze": haze, "rain": rain, "blur": blur, "lowlight": lowlight}
    expected = {}
    for task, tree in trees.items():
        expected |= tree.write(tmp_path / task, "instructir", "test")
    expected |= noise.write(tmp_path / "noise", "promptir", "test", sigmas=(25,))
    expected |= raindrop.write(tmp_path / "raindrop", "original", "test")
    expected |= raindrop.write(tmp_path / "raindrop", "original", "test_b")
    folders = {task: str(tmp_path / task) for task in (*trees, "noise", "raindrop")} | {
        "raindrop_b": str(tmp_path / "raindrop")
    }
    module = make("autodir", folders=folders, also_test=["raindrop_b"])
    assert {(p.degradation, p.name) for p in module.test_set().source.pairs} == set(expected)
    assert len(module.counts()) == 7 and "no data lists" in " ".join(type(module).__doc__.split())


def test_further_test_sets_are_averaged_separately(tmp_path):
    noise.write(tmp_path, "promptir", "test")
    (tmp_path / "test/denoise/urban100").mkdir()
    (tmp_path / "test/denoise/bsd68/8023.png").rename(tmp_path / "test/denoise/urban100/img_001.png")
    module = make("denoise", root=str(tmp_path), also_test=["urban100"], test_sigmas=[15])
    assert module.counts() == {"noise_15": 2, "urban100_noise_15": 1}
    assert make("denoise", root=str(tmp_path), test_sigmas=[15]).counts() == {"noise_15": 2, "urban100_noise_15": 1}
    assert make("denoise", root=str(tmp_path), test_sigmas=[15], also_test=[]).counts() == {"noise_15": 2}
    rain.write(tmp_path, "diffuir", "test")
    expected = rain.write_2800(tmp_path)
    module = make("derain", root=str(tmp_path), also_test=["rain2800"])
    assert module.counts() == {"rain": 12, "rain2800": 2}
    assert expected.items() <= found(module.test_set().source, tmp_path).items()
    raindrop.write(tmp_path, "original", "test")
    expected = raindrop.write(tmp_path, "original", "test_b")
    module = make("raindrop", root=str(tmp_path), test_b=True)
    assert module.counts() == {"raindrop": 3, "raindrop_b": 3}
    assert expected.items() <= found(module.test_set().source, tmp_path).items()


@pytest.mark.parametrize(
    ("degradations", "count"),
    [("single", 4), ("double", 5), ("triple", 2), ("low_haze", 1), (["single", "haze_snow", "low"], 5)],
)
def test_subsets_of_cdd11(degradations, count, tmp_path):
    cdd11.write(tmp_path, "onerestore", "test", scenes=1)
    counts = make("cdd11", root=str(tmp_path), degradations=degradations).counts()
    assert len(counts) == count and set(counts.values()) == {1}


def test_a_subset_needs_only_its_own_folders(tmp_path):
    cdd11.write(tmp_path, "onerestore", "test", scenes=1)
    for path in (tmp_path / "CDD-11_test/snow").iterdir():
        path.unlink()
    (tmp_path / "CDD-11_test/snow").rmdir()
    assert make("cdd11", root=str(tmp_path), degradations="triple").counts() == {"low_haze_rain": 1, "low_haze_snow": 1}
    with pytest.raises(UserError, match=r"layout onerestore lacks CDD-11_test/snow; found CDD-11_test/"):
        make("cdd11", root=str(tmp_path)).counts()


def test_two_layouts_in_one_folder_are_refused_or_chosen_from(tmp_path):
    rain.write(tmp_path, "promptir", "test")
    rain.write(tmp_path, "moceir", "test", count=3)
    with pytest.raises(UserError, match=r"several layouts in .*: moceir, promptir; keep one of them, or choose"):
        make("derain", root=str(tmp_path)).counts()
    assert make("derain", root=str(tmp_path), layout="moceir").counts() == {"rain": 3}
    for refused in (  # commands without the option do not mention it
        lambda: pack_set("derain", tmp_path, tmp_path / "out"),
        lambda: image_files(tmp_path, "clean", "derain"),
        lambda: check("derain", tmp_path),
    ):
        with pytest.raises(UserError, match=r"several layouts in .*: moceir, promptir; keep one of them$"):
            refused()
    with pytest.raises(UserError, match=r"has no layout 'moce'; did you mean 'moceir'\? choose from promptir"):
        make("derain", root=str(tmp_path), layout="moce").counts()


def test_a_mixed_layout_lists_missing_folders(tmp_path):
    rain.write(tmp_path, "moceir", "test")
    (tmp_path / "deraining/Rain100L/gt").rename(tmp_path / "deraining/Rain100L/target")
    with pytest.raises(UserError) as error:
        make("derain", root=str(tmp_path)).counts()
    assert "layout moceir lacks deraining/Rain100L/gt; found deraining/" in str(error.value)
    assert "\n" not in str(error.value)


def test_users_mistakes_get_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other"
    (other / "stuff").mkdir(parents=True)
    for root, message in [
        (
            tmp_path / "absent",
            "no data: .*absent does not exist; run `unildiff data sample cdd11 --root .*absent` to create",
        ),
        (file, "not a folder but a file: .*file"),
        (empty, "empty folder: .*empty"),
        (other, "CDD-11 .test. not in .*other: expected onerestore: CDD-11_test/low .* found stuff/; see"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            make("cdd11", root=str(root)).setup("test")
        assert "\n" not in str(error.value)


def test_unknown_names_are_answered_with_the_list():
    with pytest.raises(
        UserError, match=r"unknown dataset: 'cdd12'; did you mean cdd11\? Choose from allweather, autodir"
    ):
        datamodules.class_path("cdd12")
    assert datamodules.class_path("CDD11") == "datamodules.cdd11.CDD11DataModule"
    with pytest.raises(UserError, match="folders: derain has no set haze; it has rain"):
        make("derain", folders={"haze": "x"})
    with pytest.raises(UserError, match="degradations: no fog; choose from single, double"):
        make("cdd11", degradations="fog")


def test_displays_without_test_ground_truth_are_tested_on_validation_images(tmp_path):
    """The public test split of the challenge has no ground truth."""
    expected = udc.write(tmp_path, "udc", "val")
    module = make("udc", root=str(tmp_path), test_split="val")
    assert found(module.test_set().source, tmp_path) == expected
    with pytest.raises(UserError, match=r"T-OLED .test. not in"):
        make("udc", root=str(tmp_path)).test_set()


def test_a_set_with_a_folder_per_degradation_travels_in_a_pack(tmp_path):
    tree = import_module("tests.fake_trees.mio100")
    expected = tree.write(tmp_path / "set", "agenticir", "test")
    pack_set("mio100", tmp_path / "set", tmp_path / "packed")
    module = make("mio100", packed=str(tmp_path / "packed"))
    assert {(pair.degradation, pair.name) for pair in module.test_set().pairs} == set(expected)
