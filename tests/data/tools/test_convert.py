"""Option files of BasicSR, read by our own parser and then by the datamodule that they describe."""

import json
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.folder import FolderDataModule
from tests.fake_trees.images import pair
from unildiff.cli.arguments import TrainerArguments
from unildiff.cli.main import main
from unildiff.data.pair import Split
from unildiff.data.png import encode_png
from unildiff.data.sources import FilePairs
from unildiff.data.tools.check import check_folder
from unildiff.data.tools.pack_writer import pack_folder
from unildiff.utils.errors import UserError

OPTIONS = """
name: restore
datasets:
  train:
    name: mine
    type: PairedImageDataset
    dataroot_gt: {root}/train/GT
    dataroot_lq: {root}/train/LQ
    filename_tmpl: '{{}}_x1'
    io_backend: {{type: disk}}
    gt_size: 8
    use_hflip: true
    use_rot: false
    batch_size_per_gpu: 2
    num_worker_per_gpu: 0
  val:
    name: mine
    type: PairedImageDataset
    dataroot_gt: {root}/val/GT
    dataroot_lq: {root}/val/LQ
    filename_tmpl: '{{}}_x1'
"""


def test_an_option_file_becomes_a_config_that_reads_its_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (split, name) in enumerate((("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"))):
        pair(tmp_path, f"{split}/LQ/{name}_x1.png", f"{split}/GT/{name}.png", number)
    (tmp_path / "options.yml").write_text(OPTIONS.format(root=tmp_path))
    assert main(["data", "convert", str(tmp_path / "options.yml")]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["class_path"] == "datamodules.folder.FolderDataModule"
    assert {key: config["init_args"][key] for key in ("crop_size", "hflip", "rotate", "batch_size", "num_workers")} == {
        "crop_size": 8,
        "hflip": True,
        "rotate": False,
        "batch_size": 2,
        "num_workers": 0,
    }
    directly = TrainerArguments.parse("fit", ["--data", str(tmp_path / "options.yml")]).ordered()
    assert json.loads(directly[-1].removeprefix("--data=")) == config
    data = FolderDataModule(**config["init_args"], on_error="raise")
    data.setup("fit")
    assert {(p.lq.name, p.gt.name) for p in data.training_samples().pairs} == {
        (f"{n}_x1.png", f"{n}.png") for n in "abc"
    }
    assert [p.gt.name for p in data._made("val").pairs] == ["d.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: mine\n    type", "scale: 4\n    type"), "scale 4"),
        (("dataroot_lq: {root}/train/LQ", "dataroot_lq: [a, b]"), "2 dataroot_lq, 1 dataroot_gt; give equally many"),
        (("dataroot_lq: {root}/train/LQ", "dataroot_lq: {{}}"), r"dataroot_lq is \{\}; give a folder or a list"),
        (("dataroot_lq: {root}/train/LQ", "dataroot_lq: a"), "all folders by absolute or all by relative paths"),
        (("dataroot", "folder"), "has no dataset with dataroot_lq"),
        (("name: restore", "name: ["), "cannot read"),
        (("  val:", "  train_2:"), "several train datasets"),
    ],
)
def test_what_is_not_supported_is_one_line(tmp_path: Path, change, message, capsys) -> None:
    (tmp_path / "options.yml").write_text(OPTIONS.replace(*change).format(root=tmp_path))
    assert main(["data", "convert", str(tmp_path / "options.yml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(error)


def made_by_basicsr(folder: Path, images: dict[str, bytes]) -> None:
    """Write an LMDB folder as BasicSR's make_lmdb_from_imgs does."""
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for name, data in images.items():
            transaction.put(name.encode("ascii"), data)
    (folder / "meta_info.txt").write_text("".join(f"{name}.png (5,6,3) 1\n" for name in images))


@pytest.mark.parametrize("kind", ["folders", "lmdb"])
def test_lists_of_roots_and_of_names_and_lmdb(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two roots that hold equal names; of one image nothing is listed."""
    for number, (root, name) in enumerate((("one", "a"), ("one", "b"), ("two", "a"), ("two", "c"))):
        pair(tmp_path, f"{root}/LQ/{name}.png", f"{root}/GT/{name}.png", number)
    suffix = ""
    if kind == "lmdb":
        suffix = ".lmdb"
        for folder in [*tmp_path.glob("*/LQ"), *tmp_path.glob("*/GT")]:
            made_by_basicsr(folder.with_suffix(suffix), {path.stem: path.read_bytes() for path in folder.iterdir()})
    roots = {half: [f"{tmp_path}/{root}/{half}{suffix}" for root in ("one", "two")] for half in ("LQ", "GT")}
    (tmp_path / "names.txt").write_text("a.png (5,6,3)\nc.png (5,6,3)\n")
    block = {"dataroot_lq": roots["LQ"], "dataroot_gt": roots["GT"], "meta_info_file": f"{tmp_path}/names.txt"}
    (tmp_path / "options.yml").write_text(yaml.safe_dump({"datasets": {"train": block}}))
    assert main(["data", "convert", str(tmp_path / "options.yml")]) == 0
    arguments = yaml.safe_load(capsys.readouterr().out)["init_args"]
    data = FolderDataModule(**arguments, val_scenes=0, crop_size=4, num_workers=0, on_error="raise")
    data.setup("fit")
    train = data.training_samples()
    shown = {(p.lq.relative_to(tmp_path).as_posix(), p.gt.relative_to(tmp_path).as_posix()) for p in train.pairs}
    wanted = (("one", "a"), ("two", "a"), ("two", "c"))
    assert shown == {(f"{root}/LQ{suffix}/{n}.png", f"{root}/GT{suffix}/{n}.png") for root, n in wanted}
    source = FilePairs(train.pairs)
    for index, found in enumerate(train.pairs):
        for which, path in (("lq", found.lq), ("gt", found.gt)):
            plain = Path(str(path).replace(".lmdb", ""))
            assert (source.read(index, which) == np.asarray(Image.open(plain).convert("RGB"))).all()
    assert {train[position]["lq"].shape for position in range(6)} == {(3, 4, 4)}
    (tmp_path / "names.txt").write_text("d.png (5,6,3)\n")
    with pytest.raises(UserError, match=r"names\.txt lists images without a pair: d\.png"):
        FolderDataModule(**arguments).train_set()


def test_another_content_of_an_lmdb_folder_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the record of a run, by a second check and by a pack."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for name in ("a", "b"):
        pair(root, f"lq/{name}.png", f"gt/{name}.png", 1)
    for half in ("lq", "gt"):
        files = sorted((root / half).iterdir())
        made_by_basicsr(root / f"{half}.lmdb", {path.stem: path.read_bytes() for path in files})
    patterns: dict[Split, tuple[str, str]] = {"test": ("lq.lmdb", "gt.lmdb")}

    def seen() -> tuple[str, int]:
        data = FolderDataModule(str(root), lq="lq.lmdb", gt="gt.lmdb", num_workers=0)
        return data.fingerprint(), check_folder(root, patterns).looked_at

    first = seen()
    pack_folder(root, tmp_path / "pack", patterns)
    assert first[1] == 4 and seen() == (first[0], 0)
    for half in ("lq", "gt"):
        shutil.rmtree(root / f"{half}.lmdb")
        noise = {name: encode_png(np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)) for name in "ab"}
        made_by_basicsr(root / f"{half}.lmdb", noise)
    again = seen()
    assert again[0] != first[0] and again[1] == 4
    with pytest.raises(UserError, match="pack of another state of the data"):
        pack_folder(root, tmp_path / "pack", patterns)
