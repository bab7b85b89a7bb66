"""The photographs and the sample sets made of them."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

import datamodules
from datamodules.cdd11 import CDD11DataModule
from datamodules.derain import DerainDataModule
from datamodules.five_task import FiveTaskDataModule
from datamodules.folder import FolderDataModule
from datamodules.udc import UDCDataModule
from tests.fake_trees import rain
from unildiff.data.catalogue import DATASETS
from unildiff.data.images import read_rgb
from unildiff.data.shipped_photographs import PHOTOGRAPHS, load, photographs
from unildiff.data.tools.pack_writer import pack_set
from unildiff.data.tools.samples import write_sample
from unildiff.utils.errors import UserError

TEST = ["astronaut", "chelsea", "coffee", "motorcycle", "rocket"]


@pytest.fixture(scope="module")
def cdd11(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "cdd11"
    assert write_sample("cdd11", root) == 60
    return root


def state(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_each_photograph_has_one_role():
    assert [photo.name for photo in photographs("test")] == TEST
    assert [photo.name for photo in photographs("val")] == ["china", "flower", "grace_hopper"]
    assert len({photo.name for photo in PHOTOGRAPHS}) == len({photo.file for photo in PHOTOGRAPHS}) == 8
    words = {"rain", "snow", "haze", "hazy", "fog", "dark", "noise", "noisy", "blur", "blurry", "dim", "low", "light"}
    assert not words & {word for photo in PHOTOGRAPHS for word in photo.caption.replace(",", "").split()}


def test_photographs_are_the_packages_own():
    small = {photo.name: photo for photo in PHOTOGRAPHS}
    image, depth = load(small["chelsea"], 9999)
    assert (image == skimage.data.chelsea()).all() and depth is None
    image, _ = load(small["coffee"], 384)
    assert image.shape == (256, 384, 3)
    expected = np.asarray(Image.fromarray(skimage.data.coffee()).resize((384, 256), Image.Resampling.LANCZOS))
    assert (image == expected).all()
    image, _ = load(small["grace_hopper"], 256, multiple=8)
    assert image.shape == (256, 216, 3)  # 606x512 to 256x216


def test_the_motorcycles_depth_is_its_disparity_near_is_bright():
    photo = next(photo for photo in PHOTOGRAPHS if photo.name == "motorcycle")
    _, depth = load(photo, 9999)
    disparity = skimage.data.stereo_motorcycle()[2]
    known = np.isfinite(disparity)
    assert depth is not None and depth.shape == disparity.shape and depth.dtype == np.float32
    # scaled, not turned round: exactly linear where the disparity is known, and filled where it is not
    assert np.corrcoef(depth[known], disparity[known])[0, 1] > 0.999999
    assert depth.min() == 0 and depth.max() == 1


def test_the_sample_set_is_read_by_its_datamodule(cdd11):
    data = CDD11DataModule(str(cdd11), num_workers=0)
    assert data.counts() == dict.fromkeys(data.degradations, 5) and len(data.counts()) == 11
    assert data.data_kind == "sample" and "sample" in (cdd11 / "README.md").read_text()
    samples = data.test_set()
    assert {samples[index]["name"] for index in range(5)} == set(TEST) and all(samples[i]["caption"] for i in range(5))
    clear = {path.stem: read_rgb(path) for path in (cdd11 / "test/clear").iterdir()}
    assert max(max(image.shape) for image in clear.values()) == 384
    for path in (cdd11 / "test").rglob("*.png"):
        assert path.parent.name == "clear" or (read_rgb(path) != clear[path.stem]).any()
    with pytest.raises(UserError, match="is a sample set of cdd11 without train images; train with --data deadleaves"):
        data.train_set()


def test_restoring_a_folder_draws_the_noise_of_the_test(cdd11, tmp_path):
    test = CDD11DataModule(str(cdd11)).test_set()
    keys = {test[i]["name"]: test[i]["key"] for i in range(len(test)) if test[i]["degradation"] == "snow"}
    alone = FolderDataModule(str(cdd11 / "test/snow")).predict_set()
    assert {alone[i]["name"]: alone[i]["key"] for i in range(5)} == {f"{name}.png": key for name, key in keys.items()}
    assert len({test[i]["key"] for i in range(len(test))}) == 55


def test_a_sample_is_one_also_packed_and_as_a_folder_of_its_own(cdd11, tmp_path, monkeypatch):
    monkeypatch.setattr("unildiff.data.tools.samples.LONGEST", 48)
    write_sample("derain", tmp_path / "sample")
    rain.write(tmp_path / "real", "unildiff", "test")
    for name, kind in (("sample", True), ("real", False)):
        pack_set("derain", tmp_path / name, tmp_path / f"{name}-packed")
        assert DerainDataModule(packed=str(tmp_path / f"{name}-packed")).data_kind == ("sample" if kind else "real")
        assert DerainDataModule(folders={"rain": str(tmp_path / name)}).data_kind == ("sample" if kind else "real")
    assert DerainDataModule(root=str(tmp_path / "sample"), folders={"rain": str(tmp_path / "real")}).data_kind == "real"


def test_writing_again_gives_the_same_bytes_and_nothing_else_is_touched(cdd11):
    before = state(cdd11)
    write_sample("cdd11", cdd11)
    assert state(cdd11) == before
    assert [path.name for path in cdd11.parent.iterdir()] == ["cdd11"]


def test_a_folder_it_did_not_write_is_never_overwritten(cdd11, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds files that `unildiff data sample` did not write"):
        write_sample("cdd11", mine)
    with pytest.raises(UserError, match="not a folder but a file"):
        write_sample("cdd11", mine / "thesis.txt")
    before = state(cdd11)
    (cdd11 / "test/extra.png").write_bytes(b"mine")
    try:
        with pytest.raises(UserError, match=r"holds test/extra\.png, which the sample set did not write"):
            write_sample("cdd11", cdd11)
    finally:
        (cdd11 / "test/extra.png").unlink()
    assert state(cdd11) == before and (mine / "thesis.txt").read_text() == "years of work"


def test_the_folder_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for root in (Path("."), Path(".."), tmp_path / "inner", Path("/")):
        with pytest.raises(UserError, match=r"--root .* is the folder you are in, or one above it; give a new one"):
            write_sample("derain", root)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def full_disk(path, data):
        calls.append(path)
        if len(calls) == 3:
            raise UserError("disk full while writing")
        path.write_bytes(data)

    monkeypatch.setattr("unildiff.data.images.writer.write_whole", full_disk)
    with pytest.raises(UserError, match="disk full"):
        write_sample("cdd11", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def closed(tmp_path):
    """A folder without any rights, for someone without root's, which are above them."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)


def test_no_permission_is_one_line(closed):
    with pytest.raises(UserError, match="no permission to write"):
        write_sample("cdd11", closed / "set")
    with pytest.raises(UserError, match="no permission to read"):
        CDD11DataModule(str(closed)).setup("test")


def test_other_sets_are_read_by_their_datamodules(tmp_path, monkeypatch):
    monkeypatch.setattr("unildiff.data.tools.samples.LONGEST", 96)
    five = tmp_path / "five_task"
    write_sample("five_task", five)
    data = FiveTaskDataModule(root=str(five), num_workers=0)
    assert data.counts() == dict.fromkeys(["haze", "rain", "noise_25", "blur", "lowlight"], 5)
    udc = tmp_path / "udc"
    write_sample("udc", udc)
    assert UDCDataModule(root=str(udc)).counts() == {"toled": 5, "poled": 5}
    lines = [json.loads(line) for line in (five / "captions.jsonl").read_text().splitlines()]
    assert all((five / line["file"]).is_file() and line["caption"] for line in lines) and len(lines) == 45


def test_every_name_with_a_sample_is_a_datamodule():
    assert set(DATASETS) <= set(datamodules.names())
    with pytest.raises(UserError, match="no dataset 'deadleaves' in the catalogue; choose from three_task"):
        write_sample("deadleaves", Path("nowhere"))
