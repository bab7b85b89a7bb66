"""The one store for what is made once and read often: packed images, generated scenes, results of checks, parameters drawn.

A store is a folder with an LMDB database: bytes by name, and a header that says what they were made from. A transaction is
written completely or not at all, so that an interrupted run can be repeated and continues with what is missing. LMDB must not
be used by several machines at a time on a network disk.
"""

import ctypes
import errno
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, parse_json, some, write_failure
from unildiff.utils.locks import exclusive
from unildiff.utils.store_pages import DamagedPages, check_pages

if TYPE_CHECKING:
    from filelock import FileLock

DATABASE = "data.mdb"
_OWN = {DATABASE, "lock.mdb", ".lock"}
_HEADER = b"header"
_MAP = 1 << 40  # address space, not disk space: the file grows as it is filled
# LMDB reports a write that was cut short as EIO
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)))
_BATCH, _SECONDS = 1 << 24, 2.0  # values added are written together once there are so many bytes, or after that time


class _Database:
    """A database of this process, which LMDB opens only once; it is closed when no store uses it any more."""

    opened: ClassVar["WeakValueDictionary[tuple[str, int], _Database]"] = WeakValueDictionary()

    def __init__(self, folder: str) -> None:
        self.pid = os.getpid()
        write = os.access(folder, os.W_OK)
        size = _MAP if write else 0  # where it can only be read: as large as it is
        self.environment = lmdb.open(
            folder, map_size=size, readonly=not write, lock=write, readahead=False, max_readers=256
        )


class Store:
    """A store that is read, or written inside a ``with`` block. Keys are text of any length, values are bytes."""

    def __init__(self, folder: Path, write: bool = False, wait: bool = False) -> None:
        """Open a store.

        Args:
            folder: folder of the database.
            write: open for writing, which creates the folder and locks out other writers.
            wait: wait for another process that is writing instead of refusing.

        Raises:
            UserError: the folder holds no store, a damaged one or other files, cannot be written, or another process is
                writing to it.
        """
        self.folder = folder
        self._lock: FileLock | None = None
        self._database: _Database | None = None
        self._snapshot: lmdb.Transaction | None = None
        self._pending: dict[str, bytes] = {}
        self._pending_bytes, self._written = 0, time.monotonic()
        if write:
            output_folder(folder)
            if foreign := sorted({path.name for path in folder.iterdir()} - _OWN):
                raise UserError(
                    f"{folder} holds other files ({some(foreign)}); give a new folder, or delete this one if it is a cache "
                    "or a pack of an earlier version"
                )
            self._lock = exclusive(folder, wait=wait)
        elif not (folder / DATABASE).is_file():
            raise UserError(f"no store in {folder}: {DATABASE} is missing")
        try:
            transaction = self._reader().id()
            if (folder / DATABASE).stat().st_size:
                check_pages(folder / DATABASE, transaction, write)
        except (UserError, DamagedPages, OSError) as error:
            self.close()
            raise error if isinstance(error, UserError) else _damaged(folder, error) from None

    def __getstate__(self) -> dict[str, Any]:  # a worker process opens the database itself
        return self.__dict__ | {"_database": None, "_snapshot": None, "_lock": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, UserError):
                self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Let other processes write."""
        self._snapshot = self._database = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def header(self) -> dict[str, Any] | None:
        """What the store was made from, or None before it is set."""
        found = self.get_raw(_HEADER)
        try:
            return None if found is None else dict(parse_json(bytes(found)))
        except (ValueError, TypeError):
            raise UserError(f"the header of {self.folder} is damaged; delete it and run the command again") from None

    def begin(self, header: Mapping[str, Any]) -> None:
        """Set the header of a new store, or compare it with that of one that is continued.

        Raises:
            UserError: the store was made from something else; the message names the differences.
        """
        wanted, found = json.loads(json.dumps(header)), self.header
        if found is None:
            self._put([(_HEADER, json.dumps(wanted).encode())])
        elif other := [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]:
            differences = ", ".join(f"{key} {found.get(key)}, not {wanted.get(key)}" for key in other)
            raise UserError(f"{self.folder} was started with other settings ({differences}); delete it or give another")

    def get(self, name: str) -> memoryview | None:
        """Return a value as a view of the mapped file, nothing read or copied yet, or None."""
        return self.get_raw(_key(name))

    def get_raw(self, key: bytes) -> memoryview | None:
        """Return the value of a key of the database."""
        try:
            found = self._reader().get(key)
        except lmdb.Error as error:
            raise _damaged(self.folder, error) from None
        return None if found is None else memoryview(found)

    def get_json(self, name: str) -> Any:
        """Return a value that is a JSON document, or None where it is missing or damaged."""
        data = self.get(name)
        try:
            return None if data is None else parse_json(bytes(data))
        except ValueError:
            return None

    def add(self, items: Mapping[str, bytes]) -> None:
        """Add or replace values, all or none of them: within seconds, at :meth:`flush`, or at the end of the block.

        Raises:
            UserError: the disk is full, or writing failed for another reason.
        """
        self._pending |= items
        self._pending_bytes += sum(map(len, items.values()))
        if self._pending_bytes >= _BATCH or time.monotonic() - self._written >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the values that were added; from now on they are read."""
        if self._pending:
            self._put((_key(name), value) for name, value in self._pending.items())
        self._pending, self._pending_bytes, self._written = {}, 0, time.monotonic()

    def _put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        try:
            with self._environment().begin(write=True) as transaction:
                for key, value in items:
                    transaction.put(key, value)
        except lmdb.Error as error:
            raise _damaged(self.folder, error) from None
        self._snapshot = None

    def _reader(self) -> lmdb.Transaction:
        environment = self._environment()
        if self._snapshot is None:
            self._snapshot = environment.begin(buffers=True)
        return self._snapshot

    def _environment(self) -> lmdb.Environment:
        if self._database is not None and self._database.pid == os.getpid():
            return self._database.environment
        place = (os.path.realpath(self.folder), os.getpid())
        inherited, self._snapshot = self._database, None
        if (found := _Database.opened.get(place)) is None:
            if inherited is not None:  # from the process that this one was forked from; there it stays open
                inherited.environment.close()
            try:
                found = _Database.opened[place] = _Database(place[0])
            except lmdb.Error as error:
                raise _damaged(self.folder, error) from None
        self._database = found
        return found.environment


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse work whose result does not fit on the disk.

    Args:
        folder: an existing folder on the disk.
        needed: bytes that will be written.
        what: what needs them, the subject of the message, in the plural.

    Raises:
        UserError: less is free.
    """
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"disk full: {what} need {size_text(needed)}, {folder} has {size_text(free)} free; free space or give another folder"
        )


def size_text(count: int) -> str:
    """Return a number of bytes in MB or GB, as text."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def prefetch(views: Iterable[np.ndarray]) -> None:
    """Have the system read the rows that some views of mapped files lie in, all at once; other arrays are left alone.

    A crop that is not in memory then takes one read instead of one per page. Where it is in memory this takes a few
    microseconds.
    """
    for view in views:
        if view.flags.writeable or not hasattr(mmap, "MADV_WILLNEED"):
            continue
        start = int(view.__array_interface__["data"][0])
        length = (view.shape[0] - 1) * view.strides[0] + view[:1].nbytes
        begin = start - start % mmap.PAGESIZE
        size = ctypes.c_size_t(start - begin + length)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), size, mmap.MADV_WILLNEED)


def _key(name: str) -> bytes:
    key = os.fsencode(name)  # LMDB's keys have at most 511 bytes
    return b"=" + key if len(key) < 480 else b"#" + blake2b(key, digest_size=32).hexdigest().encode()


def _damaged(folder: Path, error: Exception) -> UserError:
    if any(reason in str(error) for reason in _FULL):
        return write_failure(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    reason = " ".join(str(error).split())
    return UserError(f"damaged store: {folder} ({reason}); delete it and run the same command again")
