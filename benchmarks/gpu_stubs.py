"""Stand-ins for packages that a rented machine may lack and that the GPU check does not call."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PACKAGES = (
    "cv2",
    "isal",
    "scipy",
    "skimage",
    "piq",
    "pytorch_msssim",
    "lpips",
    "lmdb",
    "matplotlib",
    "jinja2",
    "pandas",
)
PACKAGES += ("tensorboard", "tifffile", "imagecodecs", "sklearn", "torchvision")


class _Anything(ModuleType):
    """A module whose attributes exist until they are called."""

    __path__: list[str] = []  # noqa: RUF012  # what makes it a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise ModuleNotFoundError(f"{self.__name__} is needed here, but its package is not installed")

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (object,)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = missing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.missing:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def stub_missing_packages() -> list[str]:
    """Make those of ``PACKAGES`` that are not installed importable; return their names.

    The large libraries come first: they ask which packages are there, and must not find stand-ins.
    """
    import diffusers.models  # noqa: F401
    import lightning.pytorch  # noqa: F401

    missing = [name for name in PACKAGES if name not in sys.modules and importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.insert(0, _Finder(missing))
    return missing
