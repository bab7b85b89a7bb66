"""Packs: the same pixels as the files, whole or refused, resumed after any interruption."""

import json
import os
import pickle
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.fake_trees import cdd11, haze, noise, rain
from unildiff.data.augment import Augment
from unildiff.data.datasets import FilePairs
from unildiff.data.images import read_rgb
from unildiff.data.pack import Pack, index_bytes
from unildiff.data.pair import Pair, Split
from unildiff.data.tools import pack_writer
from unildiff.data.tools.pack_writer import PackWriter, pack_folder, pack_set
from unildiff.utils.datamodules import constructor
from unildiff.utils.errors import UserError
from unildiff.utils.store import Store


def write(path: Path, height: int, width: int, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path.name)) % 1000)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clean images of three sizes and kinds, each with two degraded ones."""
    root = tmp_path / "set"
    sizes = {"a.png": (20, 31, "RGB"), "b.png": (33, 16, "L"), "c.png": (7, 50, "RGBA")}
    for name, (height, width, mode) in sizes.items():
        write(root / "clear" / name, height, width, mode)
        for degradation in ("rain", "haze"):
            write(root / degradation / name, height, width)
    return root


def pairs(root: Path) -> FilePairs:
    return FilePairs(
        [
            Pair(degradation, degradation, stem, root / degradation / f"{stem}.png", root / "clear" / f"{stem}.png")
            for degradation in ("rain", "haze")
            for stem in "abc"
        ]
    )


def writer(root: Path, out: Path, source: FilePairs | None = None) -> PackWriter:
    return PackWriter({"train": source or pairs(root)}, out, "fake", root)


def contents(folder: Path) -> tuple[str, list[bytes]]:
    pack = Pack(folder)
    return pack.checksum, [pack.image(number).tobytes() for number in range(len(pack.files))]


def test_same_pixels_as_the_files(root: Path, tmp_path: Path) -> None:
    pack = writer(root, tmp_path / "out").run()
    packed = pack.source("train")
    assert len(packed) == 6
    for index, pair in enumerate(pairs(root).pairs):
        assert (packed.pairs[index].degradation, packed.pairs[index].name) == (pair.degradation, pair.name)
        np.testing.assert_array_equal(packed.read(index, "lq"), read_rgb(pair.lq))
        np.testing.assert_array_equal(packed.read(index, "gt"), read_rgb(pair.gt))
    # 3 clean and 6 degraded images: a ground truth that two pairs share is stored once
    assert pack.bytes == 3 * (20 * 31 + 33 * 16 + 7 * 50) * 3


def test_read_is_a_view_and_crop_a_copy(root: Path, tmp_path: Path) -> None:
    packed = writer(root, tmp_path / "out").run().source("train")
    view = packed.read(0, "lq")
    assert not view.flags.owndata and not view.flags.writeable
    assert np.shares_memory(view, packed.read(0, "lq"))
    crop = packed.crop(0, "lq", top=3, left=5, height=10, width=12)
    assert crop.flags.owndata and crop.flags.c_contiguous
    np.testing.assert_array_equal(crop, read_rgb(root / "rain" / "a.png")[3:13, 5:17])
    with pytest.raises(ValueError, match="not within"):
        packed.crop(0, "lq", top=15, left=0, height=10, width=4)


@pytest.mark.parametrize("way", ["crop", "augment"])
def test_reads_rows_not_pictures(tmp_path: Path, way: str) -> None:
    """A crop reads its own rows from the disk, whether it is asked for or cut from the view as training does."""
    root = tmp_path / "set"
    path = write(root / "tall.png", 4096, 300)  # 900 bytes a row, 3.7 MB
    source = FilePairs([Pair("x", "x", "tall", None, path)])
    packed = PackWriter({"train": source}, tmp_path / "out", "fake", root).run().source("train")
    fd = os.open(tmp_path / "out" / "data.mdb", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    before = resident(fd)
    if way == "crop":
        packed.crop(0, "gt", top=2000, left=0, height=64, width=64)
    else:
        Augment(64)([packed.read(0, "gt")], key=3)
    after = resident(fd)
    os.close(fd)
    if before:
        pytest.skip("this file system keeps its pages whatever it is told (tmpfs)")
    assert 64 * 900 // 4096 <= after <= 64  # 15 pages lie under the rows; the image has 900


def resident(fd: int) -> int:
    """Pages of a file in memory, by mincore(2)."""
    import ctypes
    import mmap

    size = os.fstat(fd).st_size
    mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.uint8)
    vector = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    assert (
        libc.mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(size), vector.ctypes.data_as(ctypes.c_void_p))
        == 0
    )
    return int((vector & 1).sum())


def test_selects_and_travels(root: Path, tmp_path: Path) -> None:
    pack = writer(root, tmp_path / "out").run()
    haze = pickle.loads(pickle.dumps(pack.source("train", keep=lambda pair: pair.degradation == "haze")))
    assert [pair.degradation for pair in haze.pairs] == ["haze"] * 3
    np.testing.assert_array_equal(haze.read(2, "lq"), read_rgb(root / "haze" / "c.png"))
    assert haze.pairs[0].lq == tmp_path / "out" / "haze" / "a.png"  # below the pack: captions.jsonl there finds it
    with pytest.raises(UserError, match="no test pairs; it has train"):
        pack.source("test")


class Interrupted(FilePairs):
    """Stops like Ctrl-C at one file, counts what was read."""

    def __init__(self, root: Path, at: str | None) -> None:
        super().__init__(pairs(root).pairs)
        self.at = at
        self.reads: list[str] = []

    def read(self, index, which):
        pair = self.pairs[index]
        path = pair.lq if which == "lq" else pair.gt
        if str(path).endswith(self.at or "\0"):
            raise KeyboardInterrupt
        self.reads.append(str(path))
        return super().read(index, which)


def killed(root: Path, out: Path, at: str) -> None:
    """Pack in another process, which kills itself when it reads a certain file."""

    class Killed(FilePairs):
        def read(self, index, which):
            pair = self.pairs[index]
            if str(pair.lq if which == "lq" else pair.gt).endswith(at):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(index, which)

    if (child := os.fork()) == 0:
        writer(root, out, Killed(pairs(root).pairs)).run()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_run_is_resumed_to_the_same_pack(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pack_writer, "_BATCH", 1)  # an image per transaction
    monkeypatch.setattr(pack_writer, "cores", lambda: 1)
    writer(root, tmp_path / "whole").run()
    killed(root, tmp_path / "out", at="haze/b.png")
    with pytest.raises(UserError, match=r"an unfinished pack: .*out; run the same `unildiff data pack` command again"):
        Pack(tmp_path / "out")
    again = Interrupted(root, at=None)
    writer(root, tmp_path / "out", again).run()
    assert 2 <= len(again.reads) < 9  # haze/b.png and haze/c.png at least, not all
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupted_run_continues_with_files_that_changed_since(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pack_writer, "_BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        writer(root, tmp_path / "out", Interrupted(root, at="haze/c.png")).run()
    write(root / "rain" / "a.png", 20, 31)
    os.utime(root / "rain" / "a.png", ns=(1, 1))
    again = Interrupted(root, at=None)
    packed = writer(root, tmp_path / "out", again).run().source("train")
    assert str(root / "rain" / "a.png") in again.reads
    np.testing.assert_array_equal(packed.read(0, "lq"), read_rgb(root / "rain" / "a.png"))


def test_a_second_run_verifies_and_changes_nothing(root: Path, tmp_path: Path) -> None:
    writer(root, tmp_path / "out").run()
    before = contents(tmp_path / "out")
    counted = Interrupted(root, at=None)
    writer(root, tmp_path / "out", counted).run()
    assert counted.reads == [] and contents(tmp_path / "out") == before
    write(root / "haze" / "b.png", 33, 17)
    with pytest.raises(UserError, match=r"another state of the data .*changed: haze/b.png"):
        writer(root, tmp_path / "out").run()


def test_a_damaged_image_is_found_and_packed_again(root: Path, tmp_path: Path) -> None:
    """The advice is followed: the same command again mends the pack."""
    pack = writer(root, tmp_path / "out").run()
    whole, place = contents(tmp_path / "out"), pack.image(1).tobytes()  # the same as rain/a.png, which lies before it
    database = tmp_path / "out" / "data.mdb"
    data = bytearray(database.read_bytes())
    data[data.index(place) + 5] ^= 1
    with open(database, "r+b") as file:  # in place: the pack is open
        file.write(data)
    with pytest.raises(
        UserError, match=r"wrong checksum of rain/a\.png; run the same `unildiff data pack` command again"
    ):
        pack.verify()
    writer(root, tmp_path / "out").run()
    assert contents(tmp_path / "out") == whole
    Pack(tmp_path / "out").verify()


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index | {"format": 3},
        lambda index: index | {"pairs": {"train": {"lq": [99]}}},
        lambda index: index | {"pairs": 5},
        lambda index: index | {"entries": [{}]},
        lambda index: {"format": 2},
        lambda index: index | {"pairs": {"train": index["pairs"]["train"] | {"lq": ["0"]}}},
    ],
)
def test_an_index_that_is_not_one_is_refused_although_its_checksum_is_right(root, tmp_path, change) -> None:
    writer(root, tmp_path / "out").run()
    with Store(tmp_path / "out", write=True) as store:
        index = json.loads(bytes(store.get("index"))[16:])
        store.put({"index": index_bytes(change(index))})
    with pytest.raises(UserError, match=r"(broken pack|packed by another version).*delete it and run") as error:
        Pack(tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_changed_index_and_lengths_that_lie_are_refused(root: Path, tmp_path: Path) -> None:
    writer(root, tmp_path / "out").run()
    with Store(tmp_path / "out", write=True) as store:
        index = bytes(store.get("index"))
        store.put({"index": index.replace(b"haze", b"snow", 1)})
    with pytest.raises(UserError, match=r"index of .* is damaged; delete it and run"):
        Pack(tmp_path / "out")
    body = json.loads(index[16:])
    body["entries"][0]["height"] = 1 << 40
    with Store(tmp_path / "out", write=True) as store:
        store.put({"index": index_bytes(body)})
    with pytest.raises(UserError, match=r"broken pack: .* lacks rain/a\.png"):
        Pack(tmp_path / "out").image(0)


def test_packs_of_earlier_versions_say_how_to_pack_again(root: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/index.json").write_text("{}")
    wanted = r"old was packed by an earlier version; delete it and run the same `unildiff data pack` command again$"
    with pytest.raises(UserError, match=wanted):
        Pack(tmp_path / "old")
    with pytest.raises(UserError, match=wanted):
        writer(root, tmp_path / "old").run()


def test_a_forked_process_reads_what_its_parent_has_open(root: Path, tmp_path: Path) -> None:
    """As loaders' workers do."""
    packed = writer(root, tmp_path / "out").run().source("train")
    expected = packed.read(0, "lq").copy()
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(packed.read(0, "lq"), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(packed.read(0, "lq"), expected)


def test_broken_pictures_are_named_and_the_rest_is_kept(root: Path, tmp_path: Path) -> None:
    path = root / "rain" / "b.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"1 of 9 images cannot be packed: .*rain/b.png"):
        writer(root, tmp_path / "out").run()
    with pytest.raises(UserError, match="unfinished pack"):
        Pack(tmp_path / "out")
    path.write_bytes(whole)
    again = Interrupted(root, at=None)
    packed = writer(root, tmp_path / "out", again).run().source("train")
    assert len(again.reads) == 1
    np.testing.assert_array_equal(packed.read(1, "lq"), read_rgb(path))


def test_refusals(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "holiday.png", 4, 4)
    with pytest.raises(UserError, match=r"not a pack: .* holds holiday.png"):
        writer(root, other).run()
    with pytest.raises(UserError, match="not a folder but a file"):
        writer(root, other / "holiday.png").run()
    with pytest.raises(UserError, match=r"not a pack: no data\.mdb"):
        Pack(other)
    with pytest.raises(UserError, match="nothing to pack"):
        PackWriter({"train": FilePairs([])}, tmp_path / "out", "fake", root).run()
    with pytest.raises(KeyboardInterrupt):
        writer(root, tmp_path / "out", Interrupted(root, at="haze/b.png")).run()
    with pytest.raises(UserError, match=r"started with other settings \(dataset fake, not other\)"):
        PackWriter({"train": pairs(root)}, tmp_path / "out", "other", root).run()
    with Store(tmp_path / "out", write=True), pytest.raises(UserError, match="another process is writing"):
        writer(root, tmp_path / "out").run()
    write(root / "rain" / "b.png", 33, 15)
    with pytest.raises(UserError, match=r"sizes differ: rain/b.png and clear/b.png \(15x33 against 16x33\)"):
        writer(root, tmp_path / "sizes").run()


def test_no_space(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"disk full: 9 images need about 0.0 GB unpacked"):
        writer(root, tmp_path / "out").run()


def test_full_disk_then_more_space(root: Path, tmp_path: Path, monkeypatch) -> None:
    """A limit on the length of files stands for the full disk; what was written before is used later."""
    monkeypatch.setattr(pack_writer, "_BATCH", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (28_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"disk full while writing {tmp_path / 'out'}"):
            writer(root, tmp_path / "out").run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(UserError, match="unfinished pack"):
        Pack(tmp_path / "out")
    again = Interrupted(root, at=None)
    packed = writer(root, tmp_path / "out", again).run().source("train")
    assert 0 < len(again.reads) < 9
    for index, pair in enumerate(pairs(root).pairs):
        np.testing.assert_array_equal(packed.read(index, "lq"), read_rgb(pair.lq))


@pytest.mark.parametrize("name", ["cdd11", "derain", "dehaze", "denoise"])
def test_datamodules_give_the_same_samples(name: str, tmp_path: Path) -> None:
    """Training crops and test images, from a pack and from the files: pixels, captions, keys and order."""
    root, out = tmp_path / "set", tmp_path / "out"
    for split in ("train", "test"):
        {
            "cdd11": lambda split: cdd11.write(root, "onerestore", split),
            "derain": lambda split: rain.write(root, "promptir", split),
            "dehaze": lambda split: haze.write(root, "promptir", split),
            "denoise": lambda split: noise.write(root, "promptir", split),
        }[name](split)
    clean = min(root.rglob("*.png"))
    (root / "captions.jsonl").write_text(json.dumps({"file": str(clean.relative_to(root)), "caption": "blocks"}))
    pack_set(name, root, out)
    settings = {"root": str(root), "crop_size": 8, "seed": 5}
    made = constructor(name)
    plain, packed = made(**settings), made(**{**settings, "root": "nowhere", "packed": str(out)})
    for get in ("train_set", "test_set"):
        expected, found = getattr(plain, get)(), getattr(packed, get)()
        assert len(expected) == len(found) > 0
        for index in range(len(expected)):
            a, b = expected[index], found[index]
            assert {key: a[key] for key in ("caption", "degradation", "name", "key")} == {
                key: b[key] for key in ("caption", "degradation", "name", "key")
            }
            assert (a["lq"] == b["lq"]).all() and (a["gt"] == b["gt"]).all()
    assert packed.fingerprint() == made(packed=str(out), crop_size=8).fingerprint()


def test_your_own_folder(root: Path, tmp_path: Path) -> None:
    from datamodules.folder import FolderDataModule

    (root / "captions.jsonl").write_text(json.dumps({"file": "clear/a.png", "caption": "blocks"}))
    patterns = {"lq": "rain/*", "gt": "clear/*", "train_lq": "haze/*", "train_gt": "clear/*"}
    both: dict[Split, tuple[str, str]] = {"test": ("rain/*", "clear/*"), "train": ("haze/*", "clear/*")}
    pack = pack_folder(root, tmp_path / "out", both)
    assert sorted(pack.splits) == ["test", "train"] and len(pack.files) == 9
    settings = {"crop_size": 8, "seed": 5, "degradation": "mine"}
    plain = FolderDataModule(root=str(root), **patterns, **settings)  # type: ignore[arg-type]
    packed = FolderDataModule(root="nowhere", packed=str(tmp_path / "out"), **settings)  # type: ignore[arg-type]
    for expected, found in ((plain.train_set(), packed.train_set()), (plain.test_set(), packed.test_set())):
        assert len(expected) == len(found) >= 2
        for index in range(len(expected)):
            a, b = expected[index], found[index]
            words = ("caption", "degradation", "name", "key")
            assert [a[word] for word in words] == [b[word] for word in words] and a["degradation"] == "mine"
            assert (a["lq"] == b["lq"]).all() and (a["gt"] == b["gt"]).all()
    assert packed.test_set()[0]["caption"] == "blocks"
    other = FolderDataModule(packed=str(tmp_path / "out"), crop_size=8, seed=5, degradation="other")
    assert other.fingerprint() != packed.fingerprint()
    writer(root, tmp_path / "foreign").run()
    with pytest.raises(UserError, match="is a pack of fake, not folder; give --data fake"):
        FolderDataModule(packed=str(tmp_path / "foreign")).train_set()
    with pytest.raises(UserError, match=r"packed: .* holds pairs; to restore files give --data.root"):
        packed.predict_set()
    with pytest.raises(UserError, match="no pairs to pack; give --lq and --gt"):
        pack_folder(root, tmp_path / "none", {})
    with pytest.raises(UserError, match="rule: no 'nearly'; choose from same"):
        pack_folder(root, tmp_path / "none", both, "nearly")
    with pytest.raises(UserError, match=r"pattern '/rain/\*': give it relative to"):
        pack_folder(root, tmp_path / "none", {"test": ("/rain/*", "clear/*")})
    (root / "clear/b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png.*; mend or move them, or narrow the patterns"):
        pack_folder(root, tmp_path / "none", both)


def test_wrong_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "other" / "x.png", 4, 4)
    for root, message in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "empty folder"),
        (tmp_path / "other" / "x.png", "not a folder but a file"),
        (tmp_path / "other", r"CDD-11 \(test\) not in"),
    ):
        with pytest.raises(UserError, match=message):
            pack_set("cdd11", root, tmp_path / "out")
    cdd11.write(tmp_path / "cdd", "moceir", "test")
    (tmp_path / "cdd/cdd11/test/low/00001.png").unlink()
    with pytest.raises(UserError, match=r"1 clean without a degraded image"):
        pack_set("cdd11", tmp_path / "cdd", tmp_path / "out")
    assert not (tmp_path / "out").exists()
