"""Settings of a run together with what they mean here: the hash of the weights, the type, the captions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unildiff.restoring.jobs import Job
from unildiff.restoring.options import RestoreOptions
from unildiff.utils.paths import weights_path


@dataclass(frozen=True)
class Recipe:
    """What a result depends on beside its input.

    Attributes:
        options: options of the command.
        model_hash: hash of the weights.
        dtype: name of the weights' type.
        caption_of: content caption of a file.
    """

    options: RestoreOptions
    model_hash: str
    dtype: str
    caption_of: Callable[[Path], str]

    def settings(self, job: Job) -> dict[str, Any]:
        """Return the part of a manifest line that must be equal for a result to count as done."""
        return self.options.recorded(self.model_hash, self.dtype, self.caption_of(job.source))


def model_hash(source: str) -> str:
    """Return a short hash of a model's files: weights and configs, under their names."""
    path = weights_path(source) if source == "tiny" else Path(source)
    files = [path] if path.is_file() else sorted([*path.rglob("*.safetensors"), *path.rglob("*.json")])
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(
            file.name.encode("utf-8", "surrogateescape")
            if path.is_file()
            else file.relative_to(path).as_posix().encode()
        )
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()
