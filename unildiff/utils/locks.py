"""One writer per folder: locks between processes, and folders that are replaced as a whole."""

import contextlib
import errno
import glob
import logging
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_failure

if TYPE_CHECKING:
    from filelock import FileLock

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes the place of ``path`` when the block ends without an error.

    Readers see the old folder or the new one, never a mixture. One process at a time replaces a folder. Links are followed.

    Raises:
        UserError: another process is replacing it, or it cannot be written.
    """
    target = Path(os.path.realpath(path))
    output_folder(target.parent)
    prefix = f".{target.name[:100]}."
    with one_writer(target.parent, f"{prefix}lock", f"writing {path}"):
        for left in target.parent.glob(f"{glob.escape(prefix)}*.part"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        fresh, old = target.with_name(f"{prefix}new.part"), target.with_name(f"{prefix}old.part")
        try:
            fresh.mkdir()
            yield fresh
            if target.exists():
                shutil.copymode(target, fresh)
                os.rename(target, old)
            os.rename(fresh, target)
        except OSError as error:
            if not target.exists() and old.exists():
                os.rename(old, target)
            raise write_failure(path, error) from None
        finally:
            for left in (fresh, old):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def one_writer(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold a lock file for a block and remove it afterwards; arguments and errors are those of :func:`exclusive`."""
    held = exclusive(folder, name, what)
    try:
        yield
    finally:
        if held is not None:
            with contextlib.suppress(OSError):
                os.unlink(held.lock_file)
            held.release()


def exclusive(folder: Path, name: str = ".lock", what: str = "", wait: bool = False) -> "FileLock | None":
    """Return a lock that is held until it is released or the process ends; None, logged once, on a disk without locks.

    Args:
        folder: an existing folder.
        name: name of the lock file in it.
        what: what another process that has the lock is doing, e.g. ``training in runs/a``; by default writing to the folder.
        wait: wait for that process instead of refusing.

    Raises:
        UserError: another process has the lock, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # slow to import

    lock = FileLock(folder / name, timeout=0)
    what = what or f"writing to {folder}"
    try:
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                raise UserError(f"another process is {what}; wait for it to end, or choose another folder") from None
            _LOG.warning("another process is %s; waiting for it", what)
            lock.acquire(timeout=-1)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise write_failure(folder / name, error) from None
        _warn_once(str(folder))
        return None
    return lock


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed, however the process ends (flock).

    Where there are no such locks (Windows, some network disks), this is logged once, and nothing is locked.

    Args:
        file: a file open for writing: network disks ask for that.
        wait: wait until the process that holds the lock has closed the file.

    Returns:
        False if another process holds it and ``wait`` is false.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        _warn_once(str(Path(file.name).parent))
    return True


@cache
def _warn_once(folder: str) -> None:
    _LOG.warning("%s: no locks there; let one process at a time write to it", folder)
