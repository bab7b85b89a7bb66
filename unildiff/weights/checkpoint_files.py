"""Checkpoint files: read without running code from them, and refused in one line unless they are whole.

``torch.save`` writes a zip whose entries carry a CRC-32, which torch itself does not compare. It is compared here, so that
a damaged file is refused instead of loaded as other weights.
"""

import logging
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unildiff.utils.errors import UserError

_LOG = logging.getLogger(__name__)
_ADVICE = "give a .ckpt file written by `unildiff fit`"
_CHUNK = 1 << 22
_DEEPEST, _MOST_SETTINGS = 20, 10_000  # of the settings in a checkpoint
_STEP = re.compile(r"step-(\d+)\.ckpt")


def load_file_safely(path: Path, mapped: bool = False, verify: bool = True) -> dict[str, Any]:
    """Return the dictionary that a checkpoint file holds (``weights_only``: no pickle code runs).

    Args:
        path: the file.
        mapped: leave tensors in the file until they are used, in a private memory map: nothing written to them reaches
            the file, and they survive its replacement or removal, but not a write into the file itself.
        verify: compare the checksums of the file's entries, which reads all of it; once per file and process.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    check_file(path, verify)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a file that is not what it says makes the unpickler fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds something other than tensors and plain values, which is never unpickled"
        raise UserError(f"checkpoint: {path} is not a checkpoint ({reason}); {_ADVICE}") from error
    _check_content(path, content)
    return content  # type: ignore[no-any-return]


def check_file(path: Path, verify: bool = True) -> None:
    """Refuse a file that ``torch.save`` did not write, or that is damaged; nothing of it is unpickled.

    Args:
        path: the file.
        verify: compare the checksums of its entries.

    Raises:
        UserError: the file is missing, cannot be read, is truncated or damaged, or is another kind of file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise UserError(f"checkpoint: no file {path}; {_ADVICE}") from None
    except IsADirectoryError:
        raise UserError(f"checkpoint: {path} is a folder; {_ADVICE}") from None
    except PermissionError:
        raise UserError(f"checkpoint: no permission to read {path}; change its permissions") from None
    except OSError as error:
        raise UserError(f"checkpoint: cannot read {path} ({error.strerror})") from None
    if start[:1] == b"\x80":
        raise UserError(
            f"checkpoint: {path} was written by torch before 1.6, or by pickle; load it with that program and save it "
            "again with torch 1.6 or newer"
        )
    if not zipfile.is_zipfile(path):
        what = "truncated" if start == b"PK\x03\x04" else "not a checkpoint"
        raise UserError(f"checkpoint: {path} is {what}; {_ADVICE}")
    if verify:
        found = path.stat()
        _verify(path, found.st_mtime_ns, found.st_size)


@lru_cache(64)
def _verify(path: Path, changed: int, size: int) -> None:
    """Compare the CRC-32 of every entry of a zip with its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:  # torch.save does neither
                    raise UserError(
                        f"checkpoint: {path} is not a checkpoint (a compressed or encrypted zip); {_ADVICE}"
                    )
                with archive.open(entry) as content:
                    while content.read(_CHUNK):
                        pass
    except UserError:
        raise
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint: {path} is damaged ({reason}); copy it again, or use an earlier checkpoint of the run"
        ) from None


def newest_whole(folder: Path) -> Path | None:
    """Return the undamaged checkpoint with the most steps in a folder, None where there are no checkpoints.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    steps = {path: int(found[1]) for path in folder.glob("step-*.ckpt") if (found := _STEP.fullmatch(path.name))}
    newest = sorted(steps, key=lambda path: steps[path], reverse=True)
    newest += [path for name in ("last", "best") if (path := folder / f"{name}.ckpt").exists()]
    refused: list[str] = []
    for path in newest:
        try:
            check_file(path)
        except UserError as error:
            _LOG.warning("%s; trying an earlier one", error)
            refused.append(str(error))
        else:
            last = folder / "last.ckpt"
            return last if last.exists() and last.samefile(path) else path
    if refused:
        raise UserError(f"{refused[0]}; no checkpoint in {folder} is whole: give another --run_dir to start again")
    return None


def _check_content(path: Path, content: Any) -> None:
    """Refuse content whose parts have other types than ``unildiff fit`` writes."""
    if not isinstance(content, dict):
        raise UserError(f"checkpoint: {path} is not a checkpoint (it holds a {type(content).__name__}); {_ADVICE}")
    for name in ("state_dict", "ema_state_dict"):
        weights = content.get(name)
        if (weights is not None or (name in content and name == "state_dict")) and not (
            isinstance(weights, Mapping)
            and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items())
        ):
            raise UserError(f"checkpoint: {path}: {name} must map names to tensors; {_ADVICE}")
    for name, kind in (("hyper_parameters", Mapping), ("loops", Mapping), ("callbacks", Mapping)):
        if not isinstance(content.get(name, {}), kind):
            raise UserError(
                f"checkpoint: {path}: {name} is a {type(content[name]).__name__}, not a dictionary; {_ADVICE}"
            )
    for name in ("global_step", "epoch"):
        if type(content.get(name, 0)) is not int or content.get(name, 0) < 0:
            raise UserError(f"checkpoint: {path}: {name} must be a whole number of at least 0; {_ADVICE}")
    _check_settings(path, content.get("hyper_parameters", {}))


def _check_settings(path: Path, settings: Mapping[Any, Any]) -> None:
    """Refuse settings that name a class, which a parser would import, or that are nested deeply or in themselves."""
    waiting: list[tuple[Any, int]] = [(settings, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            if "class_path" in value:
                raise UserError(
                    f"checkpoint: {path} names a class to import ({str(value['class_path'])[:100]}) among its settings; it is "
                    "not loaded"
                )
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            waiting += [(item, depth + 1) for item in value]
        if depth > _DEEPEST or len(waiting) > _MOST_SETTINGS:
            raise UserError(f"checkpoint: {path}: hyper_parameters are nested too deeply or too many; {_ADVICE}")
