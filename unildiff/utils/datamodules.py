"""Finds the datamodules: ``datamodules/`` at the top of a checkout, ``unildiff/datamodules/`` in an installed copy.

Configs and checkpoints name their classes ``datamodules.cdd11.CDD11DataModule``. :class:`Finder` makes that name, and
``unildiff.datamodules.cdd11.CDD11DataModule``, work in both places, also beside a folder ``datamodules`` of the user's own.
"""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from unildiff.utils.errors import UserError
from unildiff.utils.paths import configs_folder

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = (_PACKAGE / "datamodules").is_dir()
FOLDER = (_PACKAGE if _INSTALLED else _PACKAGE.parent) / "datamodules"
PREFIX = "unildiff.datamodules" if _INSTALLED else "datamodules"
_ALIAS = "datamodules" if _INSTALLED else "unildiff.datamodules"


def names() -> list[str]:
    """Return the short names of all datasets, sorted: each has a datamodule of its own, a config, or both."""
    return sorted({*_modules(), *(file.stem for file in (configs_folder() / "data").glob("*.yaml"))})


def _modules() -> list[str]:
    return [file.stem for file in FOLDER.glob("[a-z]*.py")]


def known_name(name: str) -> str:
    """Return the short name of a datamodule as its file spells it.

    Args:
        name: short name; capitals, hyphens and underscores do not matter.

    Raises:
        UserError: no datamodule has this name; the message names the nearest one and all others.
    """
    known = {_plain(each): each for each in names()}
    if (found := known.get(_plain(name))) is not None:
        return found
    near = get_close_matches(_plain(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {known[near[0]]}? " if near else ""
    raise UserError(f"unknown dataset: {name!r}; {hint}Choose from {', '.join(names())}")


def class_path(name: str) -> str:
    """Return the import path of a datamodule, e.g. ``"datamodules.cdd11.CDD11DataModule"`` for ``"cdd11"``.

    This imports the module. Of a dataset without a datamodule of its own the config is returned, which names a class, too.

    Args:
        name: short name; capitals, hyphens and underscores do not matter.

    Raises:
        UserError: no datamodule has this name.
    """
    name = known_name(name)
    if name not in _modules():
        return str(configs_folder() / "data" / f"{name}.yaml")
    module = import_module(f"{PREFIX}.{name}")
    found = next(each for each in vars(module) if _plain(each) == _plain(f"{name}DataModule"))
    return f"{module.__name__}.{found}"


def constructor(name: str) -> Callable[..., Any]:
    """Return what makes the datamodule of a short name, see :func:`class_path`; it takes the class's arguments."""
    path, fixed = class_path(name), {}
    if path.endswith(".yaml"):
        import yaml

        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        path, fixed = config["class_path"], config["init_args"]
    module, _, found = path.rpartition(".")
    return partial(getattr(import_module(module), found), **fixed)


class Finder:
    """Finds a datamodule under its other name, or one that a folder of the same name hides; asked last by ``import``.

    It does not derive from the classes of ``importlib.abc``, which take long to import.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for ``datamodules``, ``datamodules.NAME`` and the same below ``unildiff``."""
        package, _, module = name.removeprefix("unildiff.").partition(".")
        if package != "datamodules" or (module and module not in _modules()):
            return None
        if name == _ALIAS or name.startswith(f"{_ALIAS}."):
            return ModuleSpec(name, self, is_package=not module)  # type: ignore[arg-type]
        return spec_from_file_location(name, FOLDER / f"{module or '__init__'}.py")

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module that an alias stands for, the same object; an empty package for ``datamodules`` itself."""
        module = spec.name.removeprefix(_ALIAS)
        if not module:
            return None
        found = import_module(PREFIX + module)
        spec.loader_state = found.__spec__
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Give an alias back its own spec, which ``import`` has replaced."""
        state = module.__spec__.loader_state if module.__spec__ else None
        if state is not None:
            module.__spec__ = state


def install() -> None:
    """Ask :class:`Finder` after all other finders."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
