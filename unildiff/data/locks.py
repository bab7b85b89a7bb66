"""Locks between processes: one writes a folder at a time."""

import sys
from typing import IO, Any


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed, however the process ends (flock; nothing on Windows).

    Args:
        file: a file open for writing: network disks ask for that.
        wait: until whoever holds the lock has closed the file.

    Returns:
        False if another process holds it and ``wait`` is false.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
