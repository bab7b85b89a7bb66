"""Lists of what is done, by which long work goes on where it was interrupted.

A journal is a file of JSON lines: a header that says what is being made, then one line for each thing made, written
after the thing itself. A line that is cut short, or whose thing is not as it says, and all after it, are dropped.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unildiff.utils.errors import UserError
from unildiff.utils.files import write_failure
from unildiff.utils.locks import lock
from unildiff.utils.parallel import progress


class Journal:
    """A journal, open and locked between ``with`` and its end."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open or make the file.

        Raises:
            UserError: another process has it open, or it cannot be written.
        """
        self._path = path
        self._header = dict(header)
        try:
            self._file = open(path, "a+b")  # noqa: SIM115  # closed in __exit__
        except OSError as error:
            raise write_failure(path, error) from None
        try:
            mine = lock(self._file)
        except OSError as error:
            self._file.close()
            raise write_failure(path, error) from None
        if not mine:
            self._file.close()
            raise UserError(f"another process is writing to {path.parent}; wait for it to end")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def resume(self, holds: Callable[[dict[str, Any]], bool] = lambda entry: True) -> list[dict[str, Any]]:
        """Return the entries that hold; the rest is cut off.

        Args:
            holds: whether what an entry tells of is there and whole.

        Raises:
            UserError: the journal is that of something else; the message shows its header.
        """
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        header = _line(self._header)
        if lines and lines[0] != header and lines[0].endswith(b"\n"):
            raise UserError(
                f"{self._path.parent} holds unfinished work of another kind: {lines[0].decode().strip()}, "
                f"not {header.decode().strip()}; delete it or choose another folder"
            )
        entries: list[dict[str, Any]] = []
        whole = 0  # bytes that are vouched for
        if lines and lines[0] == header:
            whole = len(header)
            for line in progress(lines[1:], len(lines) - 1, "Checking what stands"):
                if (entry := _parsed(line)) is None or not holds(entry):
                    break
                entries.append(entry)
                whole += len(line)
        self._file.truncate(whole)
        if not whole:
            self._write(header)
        return entries

    def append(self, entry: Mapping[str, Any]) -> None:
        """Note that something is done."""
        self._write(_line(entry))

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise write_failure(self._path, error) from None


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
