"""Cached scenes: rendered once by one process at a time, resumed after an interruption, or refused."""

import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from unildiff.deadleaves import cache as scene_cache
from unildiff.deadleaves.cache import SceneCache
from unildiff.deadleaves.renderer import render
from unildiff.utils import store
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.store import Store


@pytest.fixture(autouse=True)
def write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SECONDS", 0)


def cache(folder: Path, count: int = 5, seed: int = 0) -> SceneCache:
    return SceneCache(folder, seed, 16, count)


def is_complete(folder: Path, count: int = 5) -> bool:
    made = cache(folder, count)
    scenes = [render(sample_key("train", 0, item), 16) for item in range(count)]
    kept = [made.clean(item, 0) for item in range(count)]
    return all(
        (a.image == b.image).all() and a.caption == b.caption and abs(a.depth - b.depth).max() < 1 / 500
        for a, b in zip(scenes, kept, strict=True)
    )


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
    assert [process.exitcode for process in processes] == [0, 0, 0] and is_complete(tmp_path / "c", 60)
    assert len((tmp_path / "rendered").read_text().splitlines()) == 60  # each scene once


def test_a_second_process_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(tmp_path / "c", write=True):
        waiting = threading.Thread(target=cache(tmp_path / "c").make)
        waiting.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        assert waiting.is_alive()
    waiting.join()
    assert is_complete(tmp_path / "c")


def test_a_killed_process_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def dies(key, side):
        rendered.append(key)
        if len(rendered) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return render(key, side)

    with monkeypatch.context() as patch:
        patch.setattr(scene_cache, "render", dies)
        if (child := os.fork()) == 0:
            make(tmp_path / "c")
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        patch.setattr(scene_cache, "render", lambda key, side: rendered.append(key) or render(key, side))
        make(tmp_path / "c")
    assert len(rendered) == 57 and is_complete(tmp_path / "c", 60)  # the three rendered before the kill are kept


def test_a_complete_cache_is_read_from_a_folder_without_write_permission(tmp_path: Path) -> None:
    cache(tmp_path / "c").make()
    for path in (*(tmp_path / "c").iterdir(), tmp_path / "c"):
        path.chmod(0o555)
    cache(tmp_path / "c").make()
    assert is_complete(tmp_path / "c")
    (tmp_path / "c").chmod(0o755)


def test_a_full_disk_is_one_line_then_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
        with pytest.raises(UserError, match=r"disk full: the scenes need 0.0 MB, .* has 0.0 MB free; free space"):
            cache(tmp_path / "c").make()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # in place of a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"disk full while writing {tmp_path / 'd'}"):
            cache(tmp_path / "d", 60).make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    cache(tmp_path / "d", 60).make()
    assert is_complete(tmp_path / "d", 60)


def test_other_scenes_other_files_and_damage_are_one_line(tmp_path: Path) -> None:
    cache(tmp_path / "c").make()
    with pytest.raises(
        UserError, match=r"c was started with other settings \(seed 0, not 1\); delete it or give another"
    ):
        cache(tmp_path / "c", seed=1).make()
    with pytest.raises(UserError, match="lacks scene 5; delete it"):
        cache(tmp_path / "c", 6).clean(5, 0)
    (tmp_path / "c/data.mdb").write_bytes(b"?" * 9000)
    with pytest.raises(UserError, match=r"damaged store: .*c \(.*\); delete it and run the same command again"):
        cache(tmp_path / "c").make()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/cache.json").write_text('{"done": 5}')
    with pytest.raises(UserError, match=r"old holds other files \(cache.json\); give a new folder, or delete this one"):
        cache(tmp_path / "old").make()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match="not a folder but a file"):
            cache(folder).make()
