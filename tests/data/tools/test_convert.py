"""Option files of BasicSR, read by our own parser and then by the datamodule that they describe."""

from pathlib import Path

import pytest
import yaml

from datamodules.folder import FolderDataModule
from tests.fake_trees.pictures import pair
from unildiff.cli.main import main
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
    data = FolderDataModule(**config["init_args"], on_error="raise")
    data.setup("fit")
    assert {(p.lq.name, p.gt.name) for p in data.training_samples().pairs} == {
        (f"{n}_x1.png", f"{n}.png") for n in "abc"
    }
    assert [p.gt.name for p in data._made("val").pairs] == ["d.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("filename_tmpl: '{{}}_x1'\n    io", "meta_info_file: names.txt\n    io"), "meta_info_file is not supported"),
        (("type: disk", "type: lmdb"), "LMDB is not supported"),
        (("name: mine\n    type", "scale: 4\n    type"), "scale 4"),
        (("dataroot_lq: {root}/train/LQ", "dataroot_lq: [a, b]"), r"dataroot_lq is \['a', 'b'\]; give one folder"),
        (("dataroot", "folder"), "has no dataset with dataroot_lq"),
        (("name: restore", "name: ["), "cannot read"),
        (("  val:", "  train_2:"), "several train datasets"),
    ],
)
def test_what_is_not_supported_is_said_in_one_line(tmp_path: Path, change, message, capsys) -> None:
    (tmp_path / "options.yml").write_text(OPTIONS.replace(*change).format(root=tmp_path))
    assert main(["data", "convert", str(tmp_path / "options.yml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(error)
