"""Where a model comes from, checked before anything heavy is imported."""

from pathlib import Path
from zipfile import is_zipfile

from unildiff.utils.errors import UserError
from unildiff.utils.paths import weights_path


def check_source(model: str) -> Path | None:
    """Return the folder of a model, or None for a checkpoint.

    Args:
        model: ``tiny``, a folder made by `unildiff export`, or a checkpoint.

    Raises:
        UserError: it is neither.
    """
    path = weights_path(model) if model == "tiny" else Path(model)
    if path.is_dir():
        if not (path / "unildiff.json").is_file():
            raise UserError(f"model: {path} has no unildiff.json; give a folder made by `unildiff export`, or tiny")
        return path
    if not path.is_file():
        raise UserError(f"model: no file or folder {model}; give a checkpoint, an exported folder, or tiny")
    if not is_zipfile(path):
        raise UserError(f"model: {model} is not a checkpoint; give a file written by `unildiff fit`")
    return None
