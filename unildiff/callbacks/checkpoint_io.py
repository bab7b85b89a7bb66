"""Checkpoint files that are either whole or not there, and that are read without running code from them."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from unildiff.utils.errors import UserError
from unildiff.utils.files import writing
from unildiff.weights.checkpoint_files import load_file_safely


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes like every other file of this package: a failure leaves the file that was there before.

    Lightning's own writer holds the whole checkpoint in memory once more and goes through the system's temporary folder,
    from where the last move is a copy when that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            UserError: the disk is full, the folder not writable, or the like; nothing is left behind.
        """
        try:
            with writing(Path(path)) as file:
                torch.save(checkpoint, file)
        except (UserError, RuntimeError) as error:
            cause = error.__context__  # the disk's own error, which torch hides
            if not isinstance(cause, OSError):
                raise
            raise UserError(
                f"checkpoint: {path} was not written ({cause.strerror}); an earlier file of this name is unchanged; "
                "make room or give another --run_dir, then resume with --ckpt_path"
            ) from error

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
