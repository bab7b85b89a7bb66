"""Content captions beside the data: ``captions.jsonl``, one ``{"file": ..., "caption": ...}`` a line.

``file`` is a path relative to the folder of the captions file, with forward slashes. A pair may be captioned by its
degraded or by its clean picture; the degraded one is looked up first.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unildiff.errors import UserError

FILE_NAME = "captions.jsonl"
_LOG = logging.getLogger(__name__)


class Captions:
    """Captions by file; files without one have the empty caption."""

    def __init__(self, by_file: dict[str, str]) -> None:
        """Args: caption by absolute path."""
        self._by_file = by_file

    def __len__(self) -> int:
        return len(self._by_file)

    def of(self, *files: Path | None) -> str:
        """Return the caption of the first of ``files`` that has one, else the empty string."""
        for file in files:
            if file is not None and (caption := self._by_file.get(_resolved(file))) is not None:
                return caption
        return ""

    @classmethod
    def read(cls, path: Path, below: Path | None = None) -> "Captions":
        """Read a captions file; its file names are relative to ``below``, or else to its own folder.

        Raises:
            UserError: no such file, or a line that is not as described above.
        """
        base = below or path.parent
        by_file = {_resolved(base / entry["file"]): str(entry["caption"]) for entry in entries(path)}
        return cls(by_file)

    @classmethod
    def find(cls, given: str | None, folders: Iterable[Path], upwards: bool = False) -> "Captions":
        """Read the captions file that was given, or else those found in ``folders``; say so when there is none.

        Args:
            given: a captions file, or None to look for one.
            folders: where to look.
            upwards: take the nearest one above a folder that has none, so that one degradation's folder of a data set
                finds the captions of the whole.
        """
        if given is not None:
            return cls.read(Path(given))
        folders = list(dict.fromkeys(folders))
        found = []
        for folder in folders:
            places = [folder, *Path(os.path.abspath(folder)).parents] if upwards else [folder]
            found += [place / FILE_NAME for place in places if (place / FILE_NAME).is_file()][:1]
        if not found:
            _LOG.info("no %s in %s: every caption is empty", FILE_NAME, ", ".join(map(str, folders)))
        merged: dict[str, str] = {}
        for path in found:
            merged |= cls.read(path)._by_file
        return cls(merged)


def entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a captions file; each has ``file`` and ``caption``.

    Raises:
        UserError: no such file, or a line that is not as described above.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read captions: {path} ({error}); give a captions.jsonl") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            entry["file"], entry["caption"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f'broken captions: {path} line {number}: expected {{"file": ..., "caption": ...}}, got {line[:60]!r}'
            ) from None
        found.append(entry)
    return found


def _resolved(path: Path) -> str:
    return os.path.abspath(path)  # lexical: resolving symbolic links would cost a system call for each of 100,000 files
