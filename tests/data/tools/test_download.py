"""Downloads from a stand-in hub on this machine: sizes said before, resumed, verified, unpacked whole or not at all."""

import contextlib
import json
import os
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.hub import SHA, Hub, cdd11_archives, png, serving, tarred, zipped
from tests.fake_trees.cdd11 import DEGRADATIONS
from unildiff.data.catalogue import image_sets
from unildiff.data.tools.download import HOMES, download, elsewhere
from unildiff.data.tools.extract import extract
from unildiff.utils.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(monkeypatch) as hub:
        yield hub


@pytest.fixture
def cdd11(hub: Hub) -> Hub:
    hub.files["gy65896/CDD-11"] = cdd11_archives()
    return hub


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fetches_unpacks_and_says_the_size_before(cdd11: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    before = lambda line: said.append(line) or (tmp_path / "root/train").exists()
    assert download("cdd11", tmp_path / "root", say=before) == ["train.zip", "test.zip"]
    sizes = [len(cdd11.files["gy65896/CDD-11"][f"{split}.zip"]) for split in ("train", "test")]
    listed = f"train.zip {sizes[0] / 1e6:.1f} MB, test.zip {sizes[1] / 1e6:.1f} MB"
    assert said == [f"gy65896/CDD-11: {listed}; {sum(sizes) / 1e6:.1f} MB to download to {tmp_path / 'root'}"]
    found = tree(tmp_path / "root")
    record = json.loads(found.pop("download.json"))
    assert set(found) == {f"{split}/{place}/1.png" for split in ("train", "test") for place in ("clear", *DEGRADATIONS)}
    assert found["test/haze/1.png"] == png(102)
    assert record["test.zip"]["revision"] == SHA and record["test.zip"]["files"] == 12
    cdd11.asked.clear()
    assert download("cdd11", tmp_path / "root", say=said.append) == []
    assert "nothing is missing" in said[-1] and cdd11.asked == ["GET /api/datasets/gy65896/CDD-11"]


def test_one_archive_only(cdd11: Hub, tmp_path: Path) -> None:
    assert download("cdd11", tmp_path / "root", only="test", say=str) == ["test.zip"]
    assert not (tmp_path / "root/train").exists()
    with pytest.raises(UserError, match=r"no archive named val in gy65896/CDD-11; it has train\.zip, test\.zip"):
        download("cdd11", tmp_path / "root", only="val", say=str)


def test_resumes_where_the_connection_broke(cdd11: Hub, tmp_path: Path) -> None:
    cdd11.cut = 5500
    with pytest.raises(UserError, match=r"cannot reach gy65896/CDD-11 at http://127.*what was fetched is kept") as e:
        download("cdd11", tmp_path / "root", say=str)
    assert "\n" not in str(e.value) and not (tmp_path / "root/train").exists()
    cdd11.cut = None
    cdd11.asked.clear()
    download("cdd11", tmp_path / "root", say=str)
    (resumed,) = [line for line in cdd11.asked if line.startswith("GET") and "train.zip" in line]
    assert int(resumed.partition("bytes=")[2].rstrip("-")) in range(4000, 5501)  # whole chunks of 1,000
    assert tree(tmp_path / "root")["train/clear/1.png"] == png(0)


def test_a_wrong_checksum_is_refused(cdd11: Hub, tmp_path: Path) -> None:
    cdd11.sums["train.zip"] = "f" * 64
    with pytest.raises(UserError, match=r"damaged download: train\.zip"):
        download("cdd11", tmp_path / "root", say=str)
    assert tree(tmp_path / "root") == {}
    del cdd11.sums["train.zip"]
    download("cdd11", tmp_path / "root", say=str)


def test_no_network_and_no_such_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="deepinv/CBSD68 does not exist any more, or needs a login"):
        download("cbsd68", tmp_path / "root", say=str)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match=r"cannot reach .* at http://127.0.0.1:9: .*; check the network") as error:
        download("cbsd68", tmp_path / "root", say=str)
    assert "\n" not in str(error.value)


def test_images_of_small_sets_go_where_the_layouts_look(hub: Hub, tmp_path: Path) -> None:
    hub.files["deepinv/CBSD68"] = {"CBSD68.tar.gz": tarred({f"CBSD68/0/{n:04}.png": png(n, 8) for n in range(3)})}
    hub.files["eugenesiow/Urban100"] = {
        "data/Urban100_HR.tar.gz": tarred({"Urban100_HR/img_001.png": png(9, 8)}),
        "data/Urban100_LR_x2.tar.gz": tarred({"Urban100_LR_x2/img_001.png": png(8, 4)}),
    }
    for name in ("cbsd68", "urban100"):
        download(name, tmp_path / "root", say=str)
    found = {name for name in tree(tmp_path / "root") if name.endswith(".png")}
    assert found == {f"test/denoise/bsd68/{n:04}.png" for n in range(3)} | {"test/denoise/urban100/img_001.png"}
    for home in HOMES.values():
        assert image_sets(home.check)


def test_a_full_disk(cdd11: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(UserError, match="disk full while writing"):
            download("cdd11", tmp_path / "root", say=str)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "root/train").exists()
    from types import SimpleNamespace

    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match=r"disk full: the archives and their images need 0\.\d MB"):
            download("cdd11", tmp_path / "root", say=str)
    download("cdd11", tmp_path / "root", say=str)
    assert len(tree(tmp_path / "root")) == 25


def test_archives_without_a_folder_get_one(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(zipped({"clear/1.png": png(0), "haze/1.png": png(1)}))
    assert extract(tmp_path / "train.zip", tmp_path / "root") == 2
    assert set(tree(tmp_path / "root")) == {"train/clear/1.png", "train/haze/1.png"}


def test_unpacking_resumes_and_repairs(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({f"a/{n}.png": png(n) for n in range(3)}))
    extract(tmp_path / "a.zip", tmp_path / "root")
    whole = tree(tmp_path / "root")
    os.utime(tmp_path / "root/a/0.png", ns=(5, 5))
    (tmp_path / "root/a/1.png").write_bytes(b"half")
    (tmp_path / "root/a/2.png").unlink()
    extract(tmp_path / "a.zip", tmp_path / "root")
    assert tree(tmp_path / "root") == whole
    assert (tmp_path / "root/a/0.png").stat().st_mtime_ns == 5  # left alone


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "a\\out.png"])
def test_nothing_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.tar.gz").write_bytes(tarred({name: png(0)}))
    with pytest.raises(UserError, match="leads out of its folder"):
        extract(tmp_path / "bad.tar.gz", tmp_path / "root")
    assert not (tmp_path / "out.png").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    data = tarred({f"a/{n}.png": png(n) for n in range(3)})
    bent = bytearray(zipped({"a/1.png": png(1)}))
    bent[60] ^= 1
    for name, content in (
        ("cut.tar.gz", data[: len(data) // 2]),
        ("bent.zip", bytes(bent)),
        ("none.zip", b"hello"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged archive"):
            extract(tmp_path / name, tmp_path / "root")
    left = tree(tmp_path / "root") if (tmp_path / "root").exists() else {}
    assert all(data in (png(0), png(1), png(2)) for data in left.values())  # what is there is whole
    (tmp_path / "text.zip").write_bytes(zipped({"a/readme.txt": b""}))
    with pytest.raises(UserError, match="no images in"):
        extract(tmp_path / "text.zip", tmp_path / "root")


def test_an_encrypted_archive_is_reported(tmp_path: Path) -> None:
    data = bytearray(zipped({"a/1.png": png(1)}))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the general purpose flags
        data[data.index(header) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"encrypted archive: .*unpack it yourself"):
        extract(tmp_path / "a.zip", tmp_path / "root")


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("a/1.png", "w") as member:
        for _ in range(130):
            member.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"bomb\.zip claims 0\.1 GB of images in 1\.0 MB; do not use"):
        extract(tmp_path / "bomb.zip", tmp_path / "root")
    assert not list((tmp_path / "root").rglob("*.png"))


def test_no_change_of_an_archive_ends_in_a_traceback(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for make in (zipped, tarred):
        whole = make({f"a/{n}.png": png(n, 8) for n in range(3)})
        for number in range(150):
            data = bytearray(whole)
            for place in draw.integers(0, len(data), 1 + number % 4):
                data[place] = draw.integers(256)
            if number % 10 == 0:
                del data[int(draw.integers(len(data))) :]
            (tmp_path / "bent").write_bytes(data)
            with contextlib.suppress(UserError):
                extract(tmp_path / "bent", tmp_path / f"{make.__name__}{number}")


def test_other_sets_say_where_they_are(tmp_path: Path) -> None:
    text = elsewhere(image_sets("derain"))
    assert "Rain100L (rain): linked by" in text and "Train/Derain/rainy + Train/Derain/gt" in text
    assert "`unildiff data download cbsd68`" in elsewhere(image_sets("denoise"))
