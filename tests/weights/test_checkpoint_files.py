"""Damaged, crafted and other files are refused as checkpoints in one line, and never executed."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unildiff.utils.errors import UserError
from unildiff.weights.checkpoint_files import load_file_safely, newest_whole


def save(path: Path, **changed: Any) -> Path:
    content = {"state_dict": {"a": torch.arange(5000.0)}, "global_step": 3, "hyper_parameters": {"width": 4}}
    torch.save(content | changed, path)
    return path


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        attempt()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_flipped_bit_is_found_anywhere(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    with zipfile.ZipFile(path) as archive:
        entry = next(info for info in archive.infolist() if info.file_size == 20000)
    for offset in torch.randint(200, 19000, (20,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[entry.header_offset + offset + 64] ^= 0x40
        path.write_bytes(damaged)
        os.utime(path, ns=(offset, offset))  # another modification time: a file is checked once per version
        assert "damaged" in refusal(lambda: load_file_safely(path))
    path.write_bytes(whole)
    assert load_file_safely(path)["global_step"] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"state_dict": [1, 2]}, "state_dict must map names to tensors"),
        ({"state_dict": {"a": 1}}, "state_dict must map names to tensors"),
        ({"ema_state_dict": {"a": "x"}}, "ema_state_dict must map names to tensors"),
        ({"hyper_parameters": 3}, "hyper_parameters is a int"),
        ({"global_step": "x"}, "global_step must be a whole number"),
        ({"global_step": -1}, "global_step must be a whole number"),
        ({"hyper_parameters": {"optimizer": {"class_path": "os.system"}}}, "names a class to import"),
    ],
)
def test_parts_of_another_type_are_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: load_file_safely(save(tmp_path / "a.ckpt", **changed)))


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert "no file" in refusal(lambda: load_file_safely(path))
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    assert "written by torch before 1.6" in refusal(lambda: load_file_safely(path))
    path.write_bytes(save(path).read_bytes()[:3000])
    assert "truncated" in refusal(lambda: load_file_safely(path))
    path.write_bytes(b"text")
    assert "not a checkpoint" in refusal(lambda: load_file_safely(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 10_000_000)  # a bomb would unpack to much more
    assert "compressed or encrypted" in refusal(lambda: load_file_safely(path))
    torch.save([1], path)
    assert "holds a list" in refusal(lambda: load_file_safely(path))
    assert "is a folder" in refusal(lambda: load_file_safely(tmp_path))


def test_a_file_without_read_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.ckpt").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above may be closed to others
    root = os.geteuid() == 0
    try:
        if root:  # who may read everything
            os.seteuid(65534)
        assert "no permission to read" in refusal(lambda: load_file_safely(Path("a.ckpt")))
    finally:
        if root:
            os.seteuid(0)


def test_the_newest_complete_checkpoint_is_used(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None and newest_whole(tmp_path / "none") is None
    first, second = save(tmp_path / "step-000009.ckpt"), save(tmp_path / "step-000010.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step-000011.ckpt")  # the file was deleted, or never complete
    assert newest_whole(tmp_path) == second
    second.write_bytes(second.read_bytes()[:-300])
    assert newest_whole(tmp_path) == first
    first.write_bytes(b"")
    assert "no checkpoint in" in refusal(lambda: newest_whole(tmp_path))
