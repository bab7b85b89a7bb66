"""Generated scenes kept in a store (:mod:`unildiff.utils.store`): rendered once, by one process at a time.

Scene i is the value ``i``: its image (S, S, C) and its depth (S, S), both uint8, and its caption in UTF-8.

Axis letters: S side of a scene, C channels (3, RGB).
"""

from pathlib import Path

import numpy as np

from unildiff.deadleaves.renderer import VERSION, Scene, render
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.utils.parallel import progress
from unildiff.utils.store import DATABASE, Store, check_space


class SceneCache:
    """``count`` scenes on disk; a :class:`unildiff.deadleaves.dataset.SceneSource` once :meth:`make` has been called."""

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

    def scene(self, item: int, key: int) -> Scene:
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
        return Scene(image, depth.astype(np.float32) / 255, bytes(data[4 * pixels :]).decode())

    def _missing(self, store: Store) -> list[int]:
        store.begin(self.made_of)
        return [item for item in range(self.made_of["count"]) if store.get(str(item)) is None]

    def _rendered(self, item: int) -> bytes:
        scene = render(sample_key("train", self.made_of["seed"], item), self.made_of["side"])
        depth = np.rint(scene.depth * 255).astype(np.uint8)
        return b"".join((scene.image.tobytes(), depth.tobytes(), scene.caption.encode()))
