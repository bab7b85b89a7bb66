"""Folders that a command is given and files that it leaves: refused by name, written whole or not at all."""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from unildiff.utils.errors import UserError

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_PART = re.compile(r"\..*\.\d+(-\d+)?\.part")
_FRESH = 60
"""Seconds during which a part file counts as being written even if no process holds it."""
_NUMBERS = itertools.count()


def input_folder(path: str | Path, holds: str) -> Path:
    """Return ``path`` if it is a folder that can be read and has something in it.

    Args:
        path: what the user gave.
        holds: what should be in it, for the message, e.g. "the images".

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
    """Return the names of PNGs for images: a.jpg becomes a.png, but beside an a.png both keep their suffix."""
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
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{what}: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{what}: {path} is not valid JSON ({error})") from None


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object that a file holds; see :func:`read_json`."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{what}: {path} holds a {type(content).__name__}, not a JSON object")
    return content


def parse_json(text: str | bytes) -> Any:
    """Return the content of a JSON document that anybody may have written.

    Raises:
        ValueError: it is not valid JSON, in another encoding, nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


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
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"not a folder but a file: {folder}; give a folder to write to") from None
    except OSError as error:
        raise write_failure(folder, error) from None
    return folder


def output_file(path: str | Path) -> Path:
    """Return the path of a file that can be written: known before the work whose result it will hold.

    Raises:
        UserError: it is a folder, or its folder cannot be made or written.
    """
    file = Path(path)
    if file.exists() and not file.is_file() and not file.is_dir():
        return file  # a device or a pipe
    target = Path(os.path.realpath(file))
    output_folder(target.parent)
    if file.is_dir():
        raise UserError(f"not a file but a folder: {file}; give the name of a file to write")
    return file


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears with all of ``data`` in it or not at all; see :func:`writing`."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears whole when the block ends, or not at all, also when the machine goes down.

    A link is followed: its target is replaced, and the link stays. What is not a regular file (a device, a pipe,
    ``/dev/stdout``) is written to directly and never replaced.

    Args:
        path: the file to write; its folder is created.

    Raises:
        UserError: it cannot be written (no permission, disk full, a folder).
    """
    try:
        if (stream := _open_stream(path)) is not None:
            with stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_old_parts(target.parent)
        partial = part_of(target)
        try:
            with open(partial, "wb") as file:
                _hold(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            os.replace(partial, target)
            _flush_folder(target.parent)
        finally:
            with contextlib.suppress(OSError):  # it is gone once it was renamed
                partial.unlink()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise write_failure(path, error) from None


def part_of(target: Path) -> Path:
    """Return the name under which ``target`` is written before it is complete; unique in this process."""
    return target.with_name(f".{target.name[:100]}.{os.getpid()}-{next(_NUMBERS)}.part")


def _open_stream(path: Path) -> IO[bytes] | None:
    """Return ``path`` open for writing if it exists and is not a regular file, else None."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    own = _own_descriptor(path)
    if own is not None:  # it may have been opened for appending, or have an offset: use it as it is
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
        return os.fdopen(os.dup(own), "wb")
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return os.fdopen(os.open(path, os.O_WRONLY), "wb")  # without O_CREAT, which some systems refuse on pipes


def _own_descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that ``path`` names (``/dev/stdout``), else None."""
    place = Path(os.path.abspath(path))
    for _ in range(40):
        folder = os.path.realpath(place.parent)
        if folder == f"/proc/{os.getpid()}/fd" or folder == "/dev/fd":
            return int(place.name) if place.name.isdigit() else None
        if not place.is_symlink():
            return None
        place = place.parent / os.readlink(place)
    return None


def _hold(file: IO[bytes]) -> None:
    """Lock a part file until it is closed, so that others can tell that its writer is alive."""
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(folder: Path, age: float = 0.0) -> None:
    """Remove the part files that processes which were killed left in a folder.

    Args:
        folder: nothing happens if it does not exist.
        age: seconds during which a part file counts as being written even if no process holds it.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) and _is_abandoned(entry.path, age):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_abandoned(part: str, age: float) -> bool:
    try:
        import fcntl

        if time.time() - os.stat(part).st_mtime < age:  # its writer may be about to lock it
            return False
        with open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except (OSError, ImportError):  # held by a living process, or a disk without locks
        return False


@cache
def _remove_old_parts(folder: Path) -> None:
    """Call :func:`remove_abandoned` once per process and folder, which may hold very many files."""
    remove_abandoned(folder, _FRESH)


def _flush_folder(folder: Path) -> None:
    """Let a rename reach the disk."""
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
