"""Where packaged files are, in a checkout and in an installed copy, from any folder."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unildiff.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Return the folder of the shipped configs: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Return the names of the shipped configs as they are given on the command line, e.g. ``configs/tiny/joint.yaml``."""
    folder = configs_folder()
    return sorted(f"configs/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.yaml"))


def config_path(name: str | Path) -> Path:
    """Return the config file that ``name`` means: as a path first, then among the shipped ones.

    Args:
        name: e.g. ``my.yaml``, ``configs/joint.yaml`` (with or without the leading ``configs/`` when it is shipped).

    Raises:
        UserError: there is none; the message names the nearest shipped one.
    """
    if Path(name).is_file():
        return Path(name).resolve()
    text = Path(name).as_posix().removeprefix("./")
    shipped = configs_folder() / text.removeprefix("configs/")
    if shipped.is_file():
        return shipped
    near = get_close_matches(text, config_names(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(config_names())}"
    raise UserError(f"config: no file {name}, neither in {Path.cwd()} nor in {configs_folder()}; {hint}")


def weights_path(name: str) -> Path:
    """Return the folder of shipped weights, e.g. ``tiny``; it need not exist."""
    return PACKAGE / "weights" / name


def with_home(value: Any) -> Any:
    """Return a value with ``~`` replaced by the home folder in every text that is ``~`` or begins with ``~/``, at any depth.

    Shells replace it only where it begins an argument, and never in a file.

    Raises:
        UserError: there is no home folder.
    """
    if isinstance(value, Mapping):
        return {key: with_home(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_home(each) for each in value]
    if not isinstance(value, str) or not (value == "~" or value.startswith("~/")):
        return value
    path = os.path.expanduser(value)
    if not os.path.isabs(path):
        raise UserError(f"{value}: the home folder is not known (HOME is {os.environ.get('HOME')!r}); give a full path")
    return path


def cache_folder() -> Path | None:
    """Return the folder for what may be lost, of the XDG base directory specification; None where none is named by a full path."""
    for folder in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(folder):
            return Path(folder) / "unildiff"
    return None
