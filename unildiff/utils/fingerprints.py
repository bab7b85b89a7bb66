"""What a cache on disk was made by: short hashes, and a note in its folder that is compared before the cache is used."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, read_object, write_whole

NOTE = "cache.json"


def compare_note(folder: Path, made_by: Mapping[str, Any], what: str, option: str, write: bool) -> None:
    """Compare what a cache was made by with what is needed; write it down where there is no cache yet.

    Args:
        folder: folder of the cache.
        made_by: everything that decides what it holds, as JSON values.
        what: what is cached, shown in messages.
        option: option of the command line that names another folder.
        write: whether this process makes the folder and the note; one of several does.

    Raises:
        UserError: it is a cache of something else, or there are other files.
    """
    note = folder / NOTE
    if note.is_file():
        found, wanted = read_object(note, what), json.loads(json.dumps(made_by))
        if other := [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]:
            differences = ", ".join(f"{key} ({found.get(key)} there, {wanted.get(key)} here)" for key in other)
            raise UserError(
                f"{what}: the cache {folder} was made with other {differences}; give another {option}, or delete this one"
            )
    elif write:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{what}: {folder} holds other files; give a new {option}")
        output_folder(folder)
        write_whole(note, json.dumps(made_by, indent=2).encode() + b"\n")


def short_hash(value: Any) -> str:
    """Return 16 hexadecimal digits of any JSON value; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


@torch.no_grad()
def weights_hash(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return a short hash of weights that is the same on every device: exact sums over all bits, and some values."""
    lines = []
    for name, parameter in parameters:
        flat = parameter.detach().reshape(-1)
        bits = flat.view(torch.int16 if flat.element_size() == 2 else torch.int32)
        some = bits[:: max(1, len(bits) // 256)].tolist()
        lines.append([name, list(parameter.shape), int(bits.sum(dtype=torch.int64)), some])
    return short_hash(lines)
