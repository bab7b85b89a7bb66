"""The cache of scenes: one process at a time, nothing shifted or black, a full disk and damage in one line."""

import json
import logging
import multiprocessing
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unildiff.deadleaves import cache as scene_cache
from unildiff.deadleaves.cache import SceneCache
from unildiff.deadleaves.renderer import render
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.locks import lock


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_cache, "_CHUNK", 2)


def cache(folder: Path, count: int = 5) -> SceneCache:
    return SceneCache(folder, 0, 16, count)


def is_whole(folder: Path, count: int = 5) -> bool:
    made = cache(folder, count)
    scenes = [render(sample_key("train", 0, item), 16) for item in range(count)]
    kept = [made.scene(item, 0) for item in range(count)]
    return all((a.image == b.image).all() and a.caption == b.caption for a, b in zip(scenes, kept, strict=True))


def interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch, after: int, count: int = 5) -> None:
    """Make a cache until so many scenes are rendered."""
    calls: list[int] = []

    def failing(key, side):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(key)
        return render(key, side)

    with monkeypatch.context() as patch:
        patch.setattr(scene_cache, "render", failing)
        with pytest.raises(KeyboardInterrupt):
            cache(folder, count).make()


def make(folder: Path) -> None:
    cache(folder, 60).make()


def test_processes_at_one_folder_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(key, side):
        with open(tmp_path / "rendered", "a") as file:
            file.write(f"{key}\n")
        return render(key, side)

    monkeypatch.setattr(scene_cache, "render", noted)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=make, args=(tmp_path / "c",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and is_whole(tmp_path / "c", 60)
    assert len((tmp_path / "rendered").read_text().splitlines()) == 60  # each scene once


def test_a_second_process_waits_and_renders_nothing_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    held = open(folder / ".lock", "ab")  # noqa: SIM115  # closed when the other has done its work
    assert lock(held)
    locked = scene_cache.lock

    def other(file, wait=False):
        if wait:
            assert not locked(file)  # still held
            held.close()
            cache(tmp_path / "whole").make()
            for path in (tmp_path / "whole").iterdir():
                path.rename(folder / path.name)
        return locked(file, wait)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(scene_cache, "lock", other)
        cache(folder).make()
    assert "another process renders scenes" in caplog.text and is_whole(folder)


def test_captions_and_note_are_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the captions and the note: the captions of scenes that are not done are written again."""
    whole, calls = scene_cache.write_whole, []

    def killed(path, data):
        calls.append(path.name)
        if calls.count("cache.json") == 3:  # none, 2 and then 4 scenes
            raise KeyboardInterrupt
        whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(scene_cache, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            cache(tmp_path / "c").make()
    assert json.loads((tmp_path / "c/cache.json").read_text())["done"] == 2
    assert len((tmp_path / "c/captions.txt").read_text().splitlines()) == 4
    cache(tmp_path / "c").make()
    assert is_whole(tmp_path / "c")


def test_a_cache_stopped_in_its_first_chunk_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path / "c", monkeypatch, after=1)
    cache(tmp_path / "c").make()
    assert is_whole(tmp_path / "c")


def test_an_old_cache_opens_and_one_that_may_only_be_read(tmp_path: Path) -> None:
    """As it was laid out before there was a lock."""
    folder = tmp_path / "c"
    cache(folder).make()
    (folder / ".lock").unlink()
    assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "captions.txt", "depths.npy", "images.npy"]
    assert list(json.loads((folder / "cache.json").read_text())) == ["done", "seed", "side", "count", "version"]
    folder.chmod(0o555)
    cache(folder).make()
    assert not (folder / ".lock").exists() and is_whole(folder)
    folder.chmod(0o755)


@pytest.mark.parametrize("resumed", [False, True])
def test_disk_space_is_taken_before_it_is_written_to(tmp_path: Path, monkeypatch, resumed: bool) -> None:
    """A map of a file without its space ends the process where the disk is full."""
    folder = tmp_path / "c"
    if resumed:  # as an older version left it: long, but without space beyond what is done
        interrupt(folder, monkeypatch, after=2, count=130)
        for path in folder.glob("*.npy"):
            data = path.read_bytes()
            path.write_bytes(data[:2000])
            os.truncate(path, len(data))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(UserError, match=r"disk full: the scenes need 0.0 GB more, .* has 0.0 GB free; free space"):
            cache(folder, 130).make()
    interrupt(folder, monkeypatch, after=0, count=130)
    for path in folder.glob("*.npy"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 30_000
    cache(folder, 130).make()
    assert is_whole(folder, 130)


def test_a_full_disk_is_one_line_then_there_is_space(tmp_path: Path) -> None:
    """A limit on the length of files stands for the full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"disk full while writing {tmp_path / 'c'}"):
            cache(tmp_path / "c").make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    cache(tmp_path / "c").make()
    assert is_whole(tmp_path / "c")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cache.json", b'{"done": 2, "se', r"cannot read cache\.json"),
        ("cache.json", b"[1]", r"cannot read cache\.json"),
        ("cache.json", b'{"seed": 0}', r"cannot read cache\.json \('done'\)"),
        ("captions.txt", b"one\n", r"captions\.txt has 1 lines, 2 scenes are done"),
        ("captions.txt", b"\xff\n", r"cannot read captions\.txt"),
        ("captions.txt", None, r"cannot read captions\.txt"),
        ("images.npy", None, r"cannot map images\.npy"),
        ("images.npy", b"?", r"cannot map images\.npy"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, monkeypatch, file: str, content: bytes | None, message: str) -> None:
    folder = tmp_path / "c"
    interrupt(folder, monkeypatch, after=3)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"cache: .*c is damaged: {message}.*; delete it") as error:
        cache(folder).make()
    assert "\n" not in str(error.value)


def test_a_finished_cache_with_too_few_captions_is_not_read(tmp_path: Path) -> None:
    cache(tmp_path / "c").make()
    (tmp_path / "c/captions.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"captions\.txt has 2 lines, 5 scenes are done"):
        cache(tmp_path / "c").scene(0, 0)
    np.save(tmp_path / "c/depths.npy", np.zeros((5, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"depths\.npy holds uint8 \(5, 8, 8\)"):
        cache(tmp_path / "c")._pictures("depths", "r")


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="not a folder but a file"):
            cache(folder).make()
