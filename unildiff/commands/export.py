"""``unildiff export``: a checkpoint with all that it stands on, as one folder of weights."""

from pathlib import Path
from typing import Literal


def export(
    checkpoint: Path,
    out: Path = Path("export"),
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    init_from: str | None = None,
) -> None:
    """Write a checkpoint, its base and the stages before it as one folder in diffusers' layout.

    `unildiff restore --model OUT`, `--model.base OUT` and `--model.init_from OUT` read it. Averaged weights (EMA) are
    taken where the checkpoint has them.

    Args:
        checkpoint: written by `unildiff fit`.
        out: a new folder, or one that an earlier export wrote.
        dtype: of the weights in the files.
        init_from: where to find the stage before, if it is no longer where the checkpoint says.

    Raises:
        UserError: something is missing, or the folder holds other files.
    """
    import torch

    from unildiff.assembly import model_from_checkpoint
    from unildiff.errors import UserError

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "unildiff.json").is_file())):
        raise UserError(f"export: {out} holds other files; give a new folder")
    model, _ = model_from_checkpoint(checkpoint, init_from=init_from)
    model.save_folder(out, getattr(torch, dtype))
    print(f"exported {checkpoint} to {out}")
