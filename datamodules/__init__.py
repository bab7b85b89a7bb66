"""Dataset modules, one file each: ``datamodules/cdd11.py`` holds ``CDD11DataModule``, whose short name is ``cdd11``.

Importing this package imports none of them: short names are read off the files.
"""

import ast
import difflib
from pathlib import Path

from unildiff.utils.errors import UserError

_SUFFIX = "DataModule"


def names() -> list[str]:
    """Return the short names of all datamodules, sorted: the names of their files."""
    return sorted(_table())


def class_path(name: str) -> str:
    """Return the import path of a datamodule, e.g. ``"datamodules.cdd11.CDD11DataModule"`` for ``"cdd11"``.

    Args:
        name: short name; capitals and underscores do not matter.

    Raises:
        UserError: there is no such datamodule; the message lists all and the nearest.
    """
    table = _table()
    plain = {_plain(known): path for known, path in table.items()}
    if (path := plain.get(_plain(name))) is not None:
        return path
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.4)
    hint = f"; did you mean {next(known for known in table if _plain(known) == near[0])}?" if near else ""
    raise UserError(f"unknown dataset: {name!r}; there are {', '.join(sorted(table))}{hint}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _table() -> dict[str, str]:
    """Return class path by short name; the file's name is the short name, the class in it must agree."""
    table = {}
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and _plain(node.name) == _plain(file.stem + _SUFFIX):
                table[file.stem] = f"{__name__}.{file.stem}.{node.name}"
    return table
