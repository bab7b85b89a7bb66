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

from tests.fake_trees import cdd11
from unildiff.data.images import read_rgb
from unildiff.data.pack import Pack
from unildiff.data.pair import Pair, Split
from unildiff.data.sources import FilePairs
from unildiff.data.tools import pack_writer
from unildiff.data.tools.pack_writer import pack_folder, pack_set, write_pack
from unildiff.utils import store
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


def write_fake(root: Path, out: Path, source: FilePairs | None = None) -> Pack:
    return write_pack({"train": source or pairs(root)}, out, "fake", root)


def contents(folder: Path) -> tuple[str, list[bytes]]:
    pack = Pack(folder)
    return pack.checksum, [pack.image(number).tobytes() for number in range(len(pack.files))]


def test_same_pixels_as_the_files(root: Path, tmp_path: Path) -> None:
    pack = write_fake(root, tmp_path / "out")
    packed = pack.source("train")
    assert len(packed) == 6
    for index, pair in enumerate(pairs(root).pairs):
        assert (packed.pairs[index].degradation, packed.pairs[index].name) == (pair.degradation, pair.name)
        np.testing.assert_array_equal(packed.read(index, "lq"), read_rgb(pair.lq))
        np.testing.assert_array_equal(packed.read(index, "gt"), read_rgb(pair.gt))
    # 3 clean and 6 degraded images: a ground truth that two pairs share is stored once
    assert pack.bytes == 3 * (20 * 31 + 33 * 16 + 7 * 50) * 3


def test_read_is_a_view_of_the_file(root: Path, tmp_path: Path) -> None:
    packed = write_fake(root, tmp_path / "out").source("train")
    view = packed.read(0, "lq")
    assert not view.flags.owndata and not view.flags.writeable
    assert np.shares_memory(view, packed.read(0, "lq"))


def test_selects_and_travels(root: Path, tmp_path: Path) -> None:
    pack = write_fake(root, tmp_path / "out")
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
        write_fake(root, out, Killed(pairs(root).pairs))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_run_is_resumed_to_the_same_pack(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "_BATCH", 1)  # an image per transaction
    monkeypatch.setattr(pack_writer, "cores", lambda: 1)
    write_fake(root, tmp_path / "whole")
    killed(root, tmp_path / "out", at="haze/b.png")
    with pytest.raises(UserError, match=r"an unfinished pack: .*out; run the same `unildiff data pack` command again"):
        Pack(tmp_path / "out")
    again = Interrupted(root, at=None)
    write_fake(root, tmp_path / "out", again)
    assert 2 <= len(again.reads) < 9  # haze/b.png and haze/c.png at least, not all
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupted_run_continues_with_files_that_changed_since(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "_BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        write_fake(root, tmp_path / "out", Interrupted(root, at="haze/c.png"))
    write(root / "rain" / "a.png", 20, 31)
    os.utime(root / "rain" / "a.png", ns=(1, 1))
    again = Interrupted(root, at=None)
    packed = write_fake(root, tmp_path / "out", again).source("train")
    assert str(root / "rain" / "a.png") in again.reads
    np.testing.assert_array_equal(packed.read(0, "lq"), read_rgb(root / "rain" / "a.png"))


def test_a_second_run_verifies_and_changes_nothing(root: Path, tmp_path: Path) -> None:
    write_fake(root, tmp_path / "out")
    before = contents(tmp_path / "out")
    counted = Interrupted(root, at=None)
    write_fake(root, tmp_path / "out", counted)
    assert counted.reads == [] and contents(tmp_path / "out") == before
    write(root / "haze" / "b.png", 33, 17)
    with pytest.raises(UserError, match=r"another state of the data .*changed: haze/b.png"):
        write_fake(root, tmp_path / "out")


def test_a_damaged_image_is_found_and_packed_again(root: Path, tmp_path: Path) -> None:
    """The advice is followed: the same command again mends the pack."""
    pack = write_fake(root, tmp_path / "out")
    whole, place = contents(tmp_path / "out"), pack.image(1).tobytes()  # the same as rain/a.png, which lies before it
    database = tmp_path / "out" / "data.mdb"
    data = bytearray(database.read_bytes())
    data[data.index(place) + 5] ^= 1
    with open(database, "r+b") as file:  # in place: the pack is open
        file.write(data)
    with pytest.raises(UserError, match=r"broken pack: \S+\.png in .* is missing or damaged; run the same"):
        opened = Pack(tmp_path / "out")
        for number in range(len(opened.files)):
            opened.image(number)
    write_fake(root, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_changed_index_and_another_version_are_refused(root: Path, tmp_path: Path) -> None:
    write_fake(root, tmp_path / "out")
    with Store(tmp_path / "out", write=True) as opened:
        index = bytes(opened.get("index") or b"")
        opened.add({"index": index.replace(b"haze", b"snow", 1)})
    with pytest.raises(UserError, match=r"index of .* is damaged; delete it and run"):
        Pack(tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("unildiff.data.tools.pack_writer", "unildiff.data.pack"):
            patch.setattr(f"{module}.FORMAT", 2)
        write_fake(root, tmp_path / "older")
    with pytest.raises(UserError, match=r"older was packed by another version; delete it and run"):
        Pack(tmp_path / "older")
    with pytest.raises(UserError, match=r"older was started with other settings \(format 2, not 3\); delete it"):
        write_fake(root, tmp_path / "older")


def test_packs_of_earlier_versions_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/index.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"not a pack of this version: no data.mdb in .*old; run the same .* command again"
    ):
        Pack(tmp_path / "old")
    with pytest.raises(UserError, match=r"old holds other files \(index.json\); give a new folder, or delete this one"):
        write_fake(root, tmp_path / "old")


def test_a_forked_process_reads_what_its_parent_has_open(root: Path, tmp_path: Path) -> None:
    """As loaders' workers do."""
    packed = write_fake(root, tmp_path / "out").source("train")
    expected = packed.read(0, "lq").copy()
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(packed.read(0, "lq"), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(packed.read(0, "lq"), expected)


def test_broken_images_are_named_and_the_rest_is_kept(root: Path, tmp_path: Path) -> None:
    path = root / "rain" / "b.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"1 of 9 images cannot be packed: .*rain/b.png"):
        write_fake(root, tmp_path / "out")
    with pytest.raises(UserError, match="unfinished pack"):
        Pack(tmp_path / "out")
    path.write_bytes(whole)
    again = Interrupted(root, at=None)
    packed = write_fake(root, tmp_path / "out", again).source("train")
    assert len(again.reads) == 1
    np.testing.assert_array_equal(packed.read(1, "lq"), read_rgb(path))


def test_refusals(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "holiday.png", 4, 4)
    with pytest.raises(UserError, match=r"holds other files \(holiday.png\); give a new folder"):
        write_fake(root, other)
    with pytest.raises(UserError, match="not a folder but a file"):
        write_fake(root, other / "holiday.png")
    with pytest.raises(UserError, match=r"not a pack of this version: no data\.mdb"):
        Pack(other)
    with pytest.raises(UserError, match="nothing to pack"):
        write_pack({"train": FilePairs([])}, tmp_path / "out", "fake", root)
    with pytest.raises(KeyboardInterrupt):
        write_fake(root, tmp_path / "out", Interrupted(root, at="haze/b.png"))
    with pytest.raises(UserError, match=r"started with other settings \(dataset fake, not other\)"):
        write_pack({"train": pairs(root)}, tmp_path / "out", "other", root)
    with Store(tmp_path / "out", write=True), pytest.raises(UserError, match="another process is writing"):
        write_fake(root, tmp_path / "out")
    write(root / "rain" / "b.png", 33, 15)
    with pytest.raises(UserError, match=r"sizes differ: rain/b.png and clear/b.png \(15x33 against 16x33\)"):
        write_fake(root, tmp_path / "sizes")


def test_no_space(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"disk full: 9 images, decoded, need 0.0 MB, .* has 0.0 MB free"):
        write_fake(root, tmp_path / "out")


def test_full_disk_then_more_space(root: Path, tmp_path: Path, monkeypatch) -> None:
    """A limit on the length of files stands for the full disk; what was written before is used later."""
    monkeypatch.setattr(store, "_BATCH", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (28_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"disk full while writing {tmp_path / 'out'}"):
            write_fake(root, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(UserError, match="unfinished pack"):
        Pack(tmp_path / "out")
    again = Interrupted(root, at=None)
    packed = write_fake(root, tmp_path / "out", again).source("train")
    assert 0 < len(again.reads) < 9
    for index, pair in enumerate(pairs(root).pairs):
        np.testing.assert_array_equal(packed.read(index, "lq"), read_rgb(pair.lq))


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
    (tmp_path / "names.txt").write_text("a.png (8,8,3)\n")
    listed = {"meta_info": {"train": str(tmp_path / "names.txt")}, **settings}
    for each in (
        FolderDataModule(root=str(root), **patterns, **listed),  # type: ignore[arg-type]
        FolderDataModule(packed=str(tmp_path / "out"), **listed),  # type: ignore[arg-type]
    ):
        assert [pair.name for pair in each.train_set().pairs] == ["a"] and len(each.test_set()) == 3
    other = FolderDataModule(packed=str(tmp_path / "out"), crop_size=8, seed=5, degradation="other")
    assert other.fingerprint() != packed.fingerprint()
    write_fake(root, tmp_path / "foreign")
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
    with pytest.raises(UserError, match=r"1 ground truth without a degraded image"):
        pack_set("cdd11", tmp_path / "cdd", tmp_path / "out")
    assert not (tmp_path / "out").exists()
