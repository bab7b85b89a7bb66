"""Generated scenes kept in a store (:mod:`unildiff.utils.store`): rendered once, by one process at a time.

Scene i is the value ``i``: its image (S, S, C) and its depth (S, S), both uint8, and its caption in UTF-8.

Axis letters: S side of a scene, C channels (3, RGB).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unildiff.data.clean_images import Clean
from unildiff.data.pair import Pair
from unildiff.deadleaves.renderer import VERSION, render
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.parallel import progress
from unildiff.utils.store import DATABASE, Store, check_space


class Rendered:
    """Scenes rendered on demand: each key its own, so no two samples of a run share a scene."""

    pairs: Sequence[Pair] = ()

    def __init__(self, side: int) -> None:
        """Args: side of the scenes in pixels."""
        self._side = side

    def clean(self, item: int, key: int) -> Clean:
        """See :class:`unildiff.data.clean_images.CleanSource`."""
        scene = render(sample_key("train", key), self._side)
        return Clean(scene.image, scene.depth, scene.caption)


class SceneCache:
    """``count`` scenes on disk; a :class:`unildiff.data.clean_images.CleanSource` once :meth:`make` has been called."""

    pairs: Sequence[Pair] = ()

    def __init__(self, folder: Path, seed: int, side: int, count: int) -> None:
        """Args: folder of the cache, seed and side of its scenes, number of scenes."""
        self.folder = folder
        self.made_of = {"seed": seed, "side": side, "count": count, "version": VERSION}
        self._store: Store | None = None

    def make(self) -> None:
        """Render the missing scenes; another process that is rendering them is waited for.

        Raises:
            UserError: the folder holds other scenes, other files or a damaged store, or cannot be written; the disk is full.
        """
        if (self.folder / DATABASE).is_file():
            with Store(self.folder) as store:  # a complete cache may be on a disk that can only be read
                if store.header is not None and not self._missing(store):
                    return
        with Store(self.folder, write=True, wait=True) as store:
            missing = self._missing(store)
            check_space(self.folder, len(missing) * 4 * self.made_of["side"] ** 2, "the scenes")
            for item in progress(missing, len(missing), "Rendering scenes"):
                store.add({str(item): self._rendered(item)})

    def clean(self, item: int, key: int) -> Clean:
        """Return scene ``item``; the depth is exact to 1/255.

        Raises:
            UserError: the scene is missing.
        """
        self._store = self._store or Store(self.folder)
        side = self.made_of["side"]
        pixels = side * side
        data = self._store.get(str(item))
        if data is None or len(data) <= 4 * pixels:
            raise UserError(f"damaged scenes: {self.folder} lacks scene {item}; delete it, or give another folder")
        image = np.frombuffer(data, np.uint8, 3 * pixels).reshape(side, side, 3)
        depth = np.frombuffer(data, np.uint8, pixels, 3 * pixels).reshape(side, side)
        return Clean(image, depth.astype(np.float32) / 255, bytes(data[4 * pixels :]).decode())

    def _missing(self, store: Store) -> list[int]:
        store.begin(self.made_of)
        return [item for item in range(self.made_of["count"]) if store.get(str(item)) is None]

    def _rendered(self, item: int) -> bytes:
        scene = render(sample_key("train", self.made_of["seed"], item), self.made_of["side"])
        depth = np.rint(scene.depth * 255).astype(np.uint8)
        return b"".join((scene.image.tobytes(), depth.tobytes(), scene.caption.encode()))
