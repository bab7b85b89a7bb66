"""Checkpoint files that are either whole or not there, and that are read without running code from them."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from unildiff.utils.errors import UserError
from unildiff.weights.checkpoint_files import load_file_safely


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, renames; a failure leaves the file that was there before.

    Lightning's own writer holds the whole checkpoint in memory once more and goes through the system's temporary folder,
    from where the last move is a copy when that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            UserError: the disk is full, the folder not writable, or the like; nothing is left behind.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch hides the disk's own error
            if not isinstance(cause, OSError):
                raise
            raise UserError(_write_failure(target, part, cause)) from error
        finally:
            if part.exists():
                part.unlink()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the checkpoint; its tensors stay in the file until they are used, privately mapped.

        Several processes that resume on one machine share the file's pages instead of holding a copy each (38 GB in the
        joint stage at SDXL's size). The mapping survives the replacement and removal of the file.

        Args:
            path: checkpoint file.
            map_location: ignored; tensors are on the CPU.
            weights_only: ignored; code in the file never runs.

        Raises:
            UserError: the file is missing or not a checkpoint.
        """
        return load_file_safely(Path(path), mapped=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)  # the rename itself must reach the disk too
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_failure(target: Path, part: Path, error: OSError) -> str:
    written = part.stat().st_size / 1e9 if part.exists() else 0.0
    free = shutil.disk_usage(target.parent).free / 1e9 if target.parent.is_dir() else 0.0
    return (
        f"checkpoint: {target} was not written ({error.strerror} after {written:.3g} GB, {free:.3g} GB free); what was there "
        "before is untouched; make room or give another --run_dir, then go on with --ckpt_path"
    )
