"""A checkpoint file is complete or absent, and reading one never executes its contents."""

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from tests.processes import own_memory
from unildiff.callbacks import AtomicCheckpointIO
from unildiff.utils.errors import UserError

CONTENT = {"state_dict": {"w": torch.arange(4.0)}, "epoch": 3}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(read["state_dict"]["w"], CONTENT["state_dict"]["w"])
    assert read["epoch"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("size", [100, 100_000])  # fails when the buffer is flushed, and inside torch.save
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        with pytest.raises(UserError, match=r"was not written \(File too large\); .* make room"):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(size)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="was not written"):
        AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "file" / "a.ckpt")


def test_our_own_errors_are_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": lambda: None}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


class Evil:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


def test_reading_runs_no_code_even_on_request(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "x": Evil(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()  # without our protection


def test_reading_takes_no_memory_for_the_tensors_and_survives_the_file(tmp_path: Path) -> None:
    path, size = tmp_path / "a.ckpt", 1 << 24
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(size)}}, path)
    before = own_memory()
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert own_memory() - before < size  # a copy would take four times that
    read["state_dict"]["w"][:2] = 5.0
    again = AtomicCheckpointIO().load_checkpoint(path)
    assert again["state_dict"]["w"][:3].tolist() == [1.0, 1.0, 1.0]  # the file was not written to
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(size)}}, path)  # replaces the file
    path.unlink()
    assert read["state_dict"]["w"][:3].tolist() == [5.0, 5.0, 1.0] and float(again["state_dict"]["w"].sum()) == size
