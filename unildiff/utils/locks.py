"""Locks between processes: one writes a folder at a time."""

import errno
import logging
from functools import cache
from pathlib import Path
from typing import IO, Any

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_LOG = logging.getLogger(__name__)


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
