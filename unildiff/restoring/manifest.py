"""The manifest of a folder of results: one JSON line per image, by which a later run skips what is done.

A line is written before its file appears under its name, so that every result is known to the manifest, however a run ends.
Several shards write a file each and read all of them: a result counts as done whichever shard made it.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unildiff.data.walk import shown
from unildiff.restoring.jobs import Job
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json, write_failure
from unildiff.utils.locks import lock

Entry = dict[str, Any]


def content_hash(data: bytes) -> str:
    """Return a hash of a file's content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Manifest:
    """The manifest of a folder, open for this shard's lines.

    Args:
        folder: folder of the results; it is created.
        label: what tells the file of this process from those of others, e.g. ``1-of-4``; "" for the only one.

    Raises:
        UserError: it cannot be written, or another process writes this file.
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        name = f"manifest.{label}.jsonl" if label else "manifest.jsonl"
        self.folder, self.path = folder, folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115  # closed by close
        except OSError as error:
            raise write_failure(self.path, error) from None
        if not lock(self._file):
            self._file.close()
            raise UserError(f"another process restores into {shown(folder)}; wait for it, or give each its --shard I/N")
        if self._file.tell() and self.path.read_bytes()[-1:] != b"\n":
            self._file.write(b"\n")  # the end of a line that was cut short

    def close(self) -> None:
        """Release the file and its lock."""
        self._file.close()

    def append(self, entry: Entry) -> None:
        """Add one line.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise write_failure(self.path, error) from None


class Done:
    """What the manifests of a folder say is done.

    Args:
        folder: folder of the results; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries = folder, read_entries(folder)

    def is_done(self, job: Job, settings: Entry) -> bool:
        """Return whether the manifest has this image with these settings, and input and result are as it says."""
        entry = self.entries.get(output_name(job.target, self.folder))
        if entry is None or "error" in entry or entry.get("settings") != settings:
            return False
        return _unchanged(job.source, entry, "input") and _unchanged(job.target, entry, "output")

    def foreign(self, jobs: Iterable[Job]) -> list[Path]:
        """Return the targets that exist and that no run of ``restore`` has written."""
        return [
            job.target
            for job in jobs
            if output_name(job.target, self.folder) not in self.entries and job.target.exists()
        ]


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the latest line of each result, by its name below the folder; lines that are cut short are ignored."""
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("manifest*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_bytes().splitlines():
            try:
                entry = parse_json(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("output"), str):
                found[entry["output"]] = entry
    return found


def described(found: os.stat_result, kind: str, digest: str) -> Entry:
    """Return what a line holds of an input or output file."""
    return {f"{kind}_hash": digest, f"{kind}_size": found.st_size, f"{kind}_time": found.st_mtime_ns}


def output_name(target: Path, folder: Path) -> str:
    """Return the name of a result in the manifest."""
    return target.relative_to(folder).as_posix()


def _unchanged(path: Path, entry: Entry, kind: str) -> bool:
    """Return whether a file is the one of the entry: by size and time, else by content."""
    try:
        found = os.stat(path)
        if found.st_size != entry.get(f"{kind}_size"):
            return False
        return (
            found.st_mtime_ns == entry.get(f"{kind}_time") or content_hash(path.read_bytes()) == entry[f"{kind}_hash"]
        )
    except (OSError, KeyError):
        return False
