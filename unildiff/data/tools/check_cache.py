"""What is known of image files that have been looked at before, so that unchanged ones are not decoded again.

One file a checked folder, below ``$XDG_CACHE_HOME/unildiff/check`` (``~/.cache`` without it): data folders are often
not ours to write to. A record holds as long as the file's size and time of change do.
"""

import hashlib
import json
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at an image says: hash of its RGB pixels and size, height, width, smallest and largest value."""

    content: str
    height: int
    width: int
    low: int
    high: int


class LookCache:
    """Records by file; new ones are appended as they come, so that an interrupted check goes on where it was."""

    def __init__(self, root: Path) -> None:
        """Read the records of a folder; a line that cannot be understood, such as the last after a crash, is dropped."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "unildiff" / "check"
        self._path = base / f"{hashlib.blake2b(str(root.absolute()).encode(), digest_size=12).hexdigest()}.jsonl"
        self._known: dict[str, tuple[int, int, Look]] = {}
        self._file: IO[bytes] | None = None
        try:
            with open(self._path, "rb") as file:
                for line in file:
                    self._take(line)
        except OSError:
            self._known = {}

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab")  # closed on exit
            self._file.write(b"\n")  # ends a line that was cut short
            self._file.flush()
        except OSError:
            self._file = None  # no place to remember: everything is looked at again next time
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, path: Path) -> Look | None:
        """Return the record of a file that has not changed since, else None."""
        known = self._known.get(str(path))
        if known is None:
            return None
        try:
            found = path.stat()
        except OSError:
            return None  # looking at it will say what is wrong
        return known[2] if known[:2] == (found.st_size, found.st_mtime_ns) else None

    def put(self, path: Path, look: Look) -> None:
        """Remember a look at a file."""
        found = path.stat()
        entry = (found.st_size, found.st_mtime_ns, look)
        self._known[str(path)] = entry
        if self._file is not None:
            try:
                self._file.write(_line(str(path), entry))
                self._file.flush()
            except OSError:
                self._file = None

    def _take(self, line: bytes) -> None:
        try:
            path, size, mtime, *look = json.loads(line)
            self._known[path] = (int(size), int(mtime), Look(*look))
        except (ValueError, TypeError):
            return


def _line(path: str, entry: tuple[int, int, Look]) -> bytes:
    return json.dumps([path, entry[0], entry[1], *astuple(entry[2])]).encode() + b"\n"
