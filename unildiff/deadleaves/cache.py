"""Dead-leaves scenes rendered once and kept on disk, by one process at a time and to be taken up after any interruption.

A cache is a folder with ``images.npy`` (N, S, S, C) and ``depths.npy`` (N, S, S), both uint8 and written in place,
``captions.txt``, a line a scene, and ``cache.json``: what it was made of, and how many scenes are ``done``.

Axis letters: N scenes, S side of a scene, C channels.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unildiff.deadleaves.renderer import VERSION, Scene, render
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_failure, write_whole
from unildiff.utils.keys import sample_key
from unildiff.utils.locks import lock

_CHUNK = 64  # scenes rendered between two notes of how far the cache is
_NOTE, _CAPTIONS, _LOCK = "cache.json", "captions.txt", ".lock"
_LOG = logging.getLogger(__name__)


class SceneCache:
    """A cache of ``count`` scenes; a :class:`unildiff.deadleaves.dataset.SceneSource` once :meth:`make` has been called."""

    def __init__(self, folder: Path, seed: int, side: int, count: int) -> None:
        """Args: folder of the cache, seed and side of its scenes, how many."""
        self.folder = folder
        self.made_of = {"seed": seed, "side": side, "count": count, "version": VERSION}
        self._opened: tuple[np.ndarray, np.ndarray, list[str]] | None = None

    def make(self, progress: Callable[[range], Iterable[int]] = lambda steps: steps) -> None:
        """Render what is missing; an interrupted cache is continued, one made of something else is refused.

        Where another process is at it, also on another machine, this one waits for it.

        Args:
            progress: wraps the chunks that are to be rendered, e.g. in a progress bar.

        Raises:
            UserError: the folder holds another cache, a damaged one or other files, or cannot be written; the disk is full.
        """
        try:
            if self._done() >= self.made_of["count"]:
                return  # also on a disk that may only be read
            output_folder(self.folder)
            with self._locked():
                self._render(self._done(), progress)
        except OSError as error:
            raise write_failure(self.folder, error) from None

    def scene(self, item: int, key: int) -> Scene:
        """Return scene ``item``; the depth is exact to 1/255.

        Raises:
            UserError: the cache is damaged.
        """
        if self._opened is None:  # opened in each worker, so that nothing is copied to it
            captions = self._captions(self.made_of["count"])
            self._opened = (self._pictures("images", "r"), self._pictures("depths", "r"), captions)
        images, depths, captions = self._opened
        return Scene(images[item], depths[item].astype(np.float32) / 255, captions[item])

    def _done(self) -> int:
        """Return how many scenes stand."""
        note = self.folder / _NOTE
        if not note.is_file():
            if self.folder.is_dir() and any(map(_is_foreign, self.folder.iterdir())):
                raise UserError(f"cache: {self.folder} holds other files; give a new folder")
            return 0
        try:
            state = json.loads(note.read_text(encoding="utf-8"))
            done = int(state["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"cannot read {_NOTE} ({' '.join(str(error).split())})") from None
        if {name: state.get(name) for name in self.made_of} != self.made_of:
            raise UserError(f"cache: {self.folder} was made of {state}, wanted {self.made_of}; give another folder")
        return done

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / _LOCK, "ab") as file:
            if not lock(file):
                _LOG.warning("cache: another process renders scenes to %s; waiting for it", self.folder)
                lock(file, wait=True)
            yield

    def _render(self, done: int, progress: Callable[[range], Iterable[int]]) -> None:
        count, side, seed = self.made_of["count"], self.made_of["side"], self.made_of["seed"]
        if done >= count:
            return  # by the process that was waited for
        captions = self._captions(done) if done else []
        if not done:
            self._note(0)  # first of all: by it the files below are known as a cache's
            for name, shape in (("images", (count, side, side, 3)), ("depths", (count, side, side))):
                np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", np.uint8, shape)
        images, depths = (self._pictures(name, "r+") for name in ("images", "depths"))
        self._allocate()
        for first in progress(range(done, count, _CHUNK)):
            items = range(first, min(first + _CHUNK, count))
            for item in items:
                scene = render(sample_key("train", seed, item), side)
                images[item] = scene.image
                depths[item] = np.rint(scene.depth * 255)
                captions.append(scene.caption)
            images.flush()
            depths.flush()
            write_whole(self.folder / _CAPTIONS, ("\n".join(captions) + "\n").encode())
            self._note(items.stop)

    def _note(self, done: int) -> None:
        write_whole(self.folder / _NOTE, json.dumps({"done": done, **self.made_of}).encode())

    def _allocate(self) -> None:
        """Take the disk space of both arrays: where it is missing, writing to their maps would be a crash (SIGBUS)."""
        files = [self.folder / f"{name}.npy" for name in ("images", "depths")]
        sizes = [path.stat() for path in files]
        needed = sum(max(0, size.st_size - 512 * getattr(size, "st_blocks", 0)) for size in sizes)
        if needed > (free := shutil.disk_usage(self.folder).free):
            raise UserError(
                f"disk full: the scenes need {needed / 1e9:.1f} GB more, {self.folder} has {free / 1e9:.1f} GB free; free "
                "space or give another --data.cache"
            )
        if not hasattr(os, "posix_fallocate"):  # as on macOS and Windows
            return
        for path, size in zip(files, sizes, strict=True):
            with open(path, "r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size.st_size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
                        raise

    def _pictures(self, name: str, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
        path = self.folder / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(f"cannot map {path.name} ({' '.join(str(error).split())})") from None
        side = self.made_of["side"]
        if array.dtype != np.uint8 or array.shape[:3] != (self.made_of["count"], side, side):
            raise self._damaged(f"{path.name} holds {array.dtype} {array.shape}")
        return array

    def _captions(self, done: int) -> list[str]:
        try:
            captions = (self.folder / _CAPTIONS).read_text(encoding="utf-8").splitlines()[:done]
        except (OSError, ValueError) as error:
            raise self._damaged(f"cannot read {_CAPTIONS} ({' '.join(str(error).split())})") from None
        if len(captions) < done:
            raise self._damaged(f"{_CAPTIONS} has {len(captions)} lines, {done} scenes are done")
        return captions

    def _damaged(self, what: str) -> UserError:
        return UserError(f"cache: {self.folder} is damaged: {what}; delete it, or give another --data.cache")


def _is_foreign(path: Path) -> bool:
    return path.name != _LOCK and not path.name.startswith(f".{_NOTE}.")  # what a killed write of the note leaves
