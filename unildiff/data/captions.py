"""Content captions beside the data: ``captions.jsonl``, one ``{"file": ..., "caption": ...}`` per line.

``file`` is a path relative to the folder of the captions file, with forward slashes. A pair may be captioned by its
degraded image or by its ground truth; the degraded one is looked up first.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json

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
    def read(cls, path: Path) -> "Captions":
        """Read a captions file; its file names are relative to its own folder.

        Raises:
            UserError: no such file, or a line that is not as described above.
        """
        return cls(_placed(entries(path), path.parent))

    @classmethod
    def given(cls, path: Path, folders: Sequence[Path], files: Sequence[Path], needed: bool = True) -> "Captions":
        """Read a captions file that may lie anywhere.

        Args:
            path: the captions file.
            folders: where its file names may start, too: the first of its own folder and these is taken from which they
                reach any of ``files``.
            files: the images that are read.
            needed: whether a file that names none of them is refused or only reported: captions of the training images
                may be set for tests, too.

        Raises:
            UserError: it names none of ``files`` and is ``needed``; and as :meth:`read`.
        """
        lines, wanted = entries(path), set(map(_resolved, files))
        for folder in (path.parent, *folders):
            by_file = _placed(lines, folder)
            if not wanted.isdisjoint(by_file):
                return cls(by_file)
        places = ", ".join(dict.fromkeys(map(str, (path.parent, *folders))))
        fault = f"captions: {path} names none of the {len(wanted):,} images (looked below {places})"
        if needed:
            raise UserError(f"{fault}; give the captions of these, file names relative to their folder")
        _LOG.warning("%s: every caption is empty", fault)
        return cls({})

    @classmethod
    def find(cls, folders: Iterable[Path], upwards: bool = False) -> "Captions":
        """Read the captions files found in ``folders``; log it when there is none.

        Args:
            folders: where to look.
            upwards: take the nearest one above a folder that has none, so that one degradation's folder of a dataset
                finds the captions of all.
        """
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


def entries(path: Path, interrupted: bool = False) -> list[dict[str, Any]]:
    """Return the entries of a captions file; each has ``file`` and ``caption``, both text.

    ``interrupted`` leaves out a last line that is incomplete, instead of refusing it.

    Raises:
        UserError: no such file, or a line that is not as described above.
    """
    try:
        data = path.read_bytes()
        lines = data[: whole_length(data) if interrupted else len(data)].decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read captions: {path} ({error}); give a captions.jsonl") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if (entry := _entry(line)) is None:
            raise UserError(
                f'broken captions: {path} line {number}: expected {{"file": ..., "caption": ...}}, got {line[:60]!r}'
            )
        found.append(entry)
    return found


def whole_length(data: bytes) -> int:
    """Return how many bytes of a captions file are complete lines; a last one without its newline counts if it can be read."""
    start = data.rfind(b"\n") + 1
    return start if _entry(data[start:]) is None else len(data)


def _entry(line: str | bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    if isinstance(entry, dict) and isinstance(entry.get("file"), str) and isinstance(entry.get("caption"), str):
        return entry
    return None


def _placed(lines: Iterable[dict[str, Any]], folder: Path) -> dict[str, str]:
    return {_resolved(folder / entry["file"]): entry["caption"] for entry in lines}


def _resolved(path: Path) -> str:
    return os.path.abspath(path)  # lexical: resolving symbolic links would cost a system call for each of 100,000 files
