"""Folders that a command is given and files that it leaves: refused by name, written whole or not at all."""

import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unildiff.utils.errors import UserError

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def input_folder(path: str | Path, holds: str) -> Path:
    """Return ``path`` if it is a folder that can be read and has something in it.

    Args:
        path: what the user gave.
        holds: what should be in it, for the message, e.g. "the pictures".

    Raises:
        UserError: no such folder, a file, no permission, or empty.
    """
    folder = Path(path)
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise UserError(f"empty folder: {folder}; give the one that holds {holds}")
    except FileNotFoundError:
        raise UserError(f"no such folder: {folder}; give the one that holds {holds}") from None
    except NotADirectoryError:
        raise UserError(f"not a folder but a file: {folder}; give the folder that holds {holds}") from None
    except PermissionError:
        raise no_permission(folder) from None
    except OSError as error:
        raise UserError(f"cannot read the folder: {folder} ({error.strerror}); give another") from None
    return folder


def png_names(names: Sequence[str]) -> list[str]:
    """Return the PNGs that pictures, named by paths, become: a.jpg is a.png, but beside an a.png each keeps its suffix."""
    plain = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    times = Counter(plain.values())
    keeping = {name for name in names if times[plain[name]] > 1}
    taken = {f"{name}.png" for name in keeping}
    while more := {name for name in names if plain[name] in taken} - keeping:
        keeping |= more
        taken |= {f"{name}.png" for name in more}
    return [f"{name}.png" if name in keeping else plain[name] for name in names]


def read_json(path: Path, what: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        what: what the file belongs to, shown first in error messages.

    Raises:
        UserError: the file is missing, cannot be read, or is not valid JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{what}: cannot read {path} ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"{what}: {path} is not valid JSON (nested too deeply)") from None
    except ValueError as error:  # syntax, encoding, an integer of thousands of digits
        raise UserError(f"{what}: {path} is not valid JSON ({error})") from None


def no_permission(folder: Path) -> UserError:
    """Return the one line for a folder that may not be read."""
    return UserError(f"no permission to read the folder: {folder}; change its rights or give another")


def output_folder(path: str | Path) -> Path:
    """Make ``path`` a folder, with its parents, and return it.

    Raises:
        UserError: a file is in the way, or there is no permission to make or to write it.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"not a folder but a file: {folder}; give a folder to write to") from None
    except OSError as error:
        raise write_failure(folder, error) from None
    return folder


def output_file(path: str | Path) -> Path:
    """Return the path of a file that can be written: known before the work whose result it will hold.

    Raises:
        UserError: it is a folder, or its folder is not there or cannot be written.
    """
    file = Path(path)
    if not file.parent.exists():
        raise UserError(f"no such folder: {file.parent}; make it, or give another file to write")
    output_folder(file.parent)
    if file.is_dir():
        raise UserError(f"not a file but a folder: {file}; give the name of a file to write")
    return file


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears with all of ``data`` in it or not at all, also when the machine goes down.

    Raises:
        UserError: it cannot be written (no permission, disk full).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where it could not even be made
            partial.unlink()
        raise write_failure(path, error) from None


def write_failure(path: Path, error: OSError) -> UserError:
    """Return the one line for a file or folder that could not be written."""
    if error.errno in _FULL:
        return UserError(
            f"disk full while writing {path} ({error.strerror}); free space and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"no permission to write {path}; change its rights or give another folder")
    return UserError(f"cannot write {path}: {error.strerror or error}; choose another folder")


def some(lines: list[str], limit: int = 5) -> str:
    """Return the first ``limit`` of many, and how many more there are: what fits a one-line message."""
    rest = f" and {len(lines) - limit:,} more" if len(lines) > limit else ""
    return ", ".join(lines[:limit]) + rest
