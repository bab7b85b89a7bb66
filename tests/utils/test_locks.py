"""Locks between processes, and file systems that have none."""

import errno
import fcntl

import pytest

from unildiff.utils.locks import lock


def test_a_file_system_without_locks_is_reported_once_and_used(tmp_path, monkeypatch, caplog):
    faults = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO]

    def flock(file, how):
        raise OSError(faults.pop(0), "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(3):
        with open(tmp_path / "lock", "ab") as file:
            assert lock(file)
    assert caplog.text.count(f"{tmp_path}: no locks there") == 1
    with open(tmp_path / "lock", "ab") as file, pytest.raises(OSError):
        lock(file)
