"""The folder that every fit, validate, test and predict leaves, and that says how it was made.

``runs/<stage>/<time>/`` holds, for each command run in it, ``config.<command>.yaml`` (resolved: ``unildiff <command>
--config`` with it is the same run again) and ``run.<command>.json``; after a fit also ``curves/`` (TensorBoard) and
``checkpoints/``. A second command of the same name gets ``config.<command>-2.yaml``: nothing is written over.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole
from unildiff.utils.locks import one_writer
from unildiff.utils.paths import PACKAGE
from unildiff.utils.provenance import git_state, package_versions


def new_run_folder(stage: str, root: Path | str = "runs") -> Path:
    """Return ``<root>/<stage>/<time>``, a folder that does not exist yet (and is not made here)."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(root) / stage / now
    number = 2
    while folder.exists():
        folder = Path(root) / stage / f"{now}_{number}"
        number += 1
    return folder


def newest_checkpoint(stage: str, name: str, root: Path | str = "runs") -> Path:
    """Return the newest ``<name>.ckpt`` among the runs of a stage.

    Raises:
        UserError: there is none.
    """
    named = [path for path in Path(root).glob(f"{stage}/*/checkpoints/{name}.ckpt") if path.exists()]
    found = sorted(named, key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"checkpoint: no {name}.ckpt in {Path(root) / stage}/*/checkpoints; train first, or give --ckpt_path a file"
        )
    return found[-1]


class RunProgressBar(RichProgressBar):
    """A bar on stderr for each epoch; how many epochs there will be is not known when steps are limited."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1, console_kwargs={"stderr": True})

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{f'Epoch {current_epoch}':{len(self.validation_description)}}"


class RunRecord(Callback):
    """Makes the run folder once model and data are built, and keeps its record up to date; rank 0 writes."""

    def __init__(
        self,
        folder: Path,
        command: str,
        config: str,
        seed: int | bool,
        checkpoint: str | None = None,
        notices: Sequence[str] = (),
        curves: bool = True,
    ) -> None:
        """Set what the record will say.

        Args:
            folder: the run folder.
            command: fit, validate, test or predict.
            config: the resolved config, as yaml.
            seed: of everything random.
            checkpoint: what is resumed or tested.
            notices: lines to print when the run starts.
            curves: write TensorBoard curves. The logger is made here, once model and data stand: given to the Trainer it
                would make its folder first, and leave it behind when they do not.
        """
        super().__init__()
        self.folder = folder
        self.command = command
        self.config = config
        self.seed = seed
        self.checkpoint = checkpoint
        self.notices = notices
        self.curves = curves
        self._record: dict[str, Any] = {}
        self._path = Path()
        self._held = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder, write config and record.

        Raises:
            UserError: the folder cannot be made.
        """
        if self._record:
            return
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))
        # Ranks that torchrun started have each chosen a time of their own; Trainer has no setter for its folder.
        trainer._default_root_dir = str(self.folder)  # type: ignore[attr-defined]
        self._record = self._describe(trainer)
        if self.curves:
            trainer.logger = TensorBoardLogger(self.folder, name="curves", version="", default_hp_metric=False)
        failure = ""
        if self.command == "fit" and trainer.is_global_zero:  # checkpoints of two runs in one folder would mix
            try:
                output_folder(self.folder)
                self._held.enter_context(one_writer(self.folder, ".fit.lock", f"training in {self.folder}"))
            except UserError as error:
                failure = str(error)
        if failure := trainer.strategy.broadcast(failure):
            raise UserError(failure)
        if not trainer.is_global_zero:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = _free_name(self.folder, self.command)
        except OSError as error:
            raise UserError(f"run folder: {self.folder}: {error.strerror}; give another --run_dir") from error
        write_whole(self.folder / f"config.{name}.yaml", self.config.encode())
        self._path = self.folder / f"run.{name}.json"
        self._write()
        for line in [*self.notices, f"run folder: {self.folder}"]:
            print(line, flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print how much of the model is trained, and for how long."""
        if trainer.is_global_zero:
            sizes = [(each.numel(), each.requires_grad) for each in pl_module.parameters()]
            trained = sum(size for size, needed in sizes if needed)
            whole = sum(size for size, _ in sizes)
            limits = {"steps": trainer.max_steps, "epochs": trainer.max_epochs}
            length = " or ".join(f"{limit:,} {name}" for name, limit in limits.items() if limit not in (None, -1))
            text = f"training {trained / 1e6:,.1f} M of {whole / 1e6:,.1f} M parameters"
            print(f"{text} for {length or 'an unlimited time'}", flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note how the run ended."""
        self._end(f"{type(exception).__name__}: {exception}".rstrip(": "))
        self._held.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that the run has finished."""
        self._end("finished")
        self._held.close()

    def _describe(self, trainer: Trainer) -> dict[str, Any]:
        datamodule: LightningDataModule | None = getattr(trainer, "datamodule", None)
        return {
            "command": shlex.join(["unildiff", *sys.argv[1:]]),
            "folder": os.getcwd(),
            "status": "running",
            "started": _now(),
            "ended": None,
            **git_state(PACKAGE),
            "versions": package_versions(),
            "platform": platform.platform(),
            "device": str(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "seed": self.seed,
            "data": type(datamodule).__name__ if datamodule else None,
            "data_fingerprint": _fingerprint(datamodule),
            "checkpoint": self.checkpoint,
        }

    def _end(self, status: str) -> None:
        if self._path.name and self._record["status"] == "running":
            self._record |= {"status": status, "ended": _now()}
            self._write()

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._record, indent=2).encode() + b"\n")


def _fingerprint(datamodule: Any) -> str | None:
    if not hasattr(datamodule, "fingerprint"):
        return None
    try:
        return str(datamodule.fingerprint())
    except UserError as error:  # training images without test images are enough for `fit`
        return f"unknown ({error})"


def _free_name(folder: Path, command: str) -> str:
    name, number = command, 2
    while (folder / f"config.{name}.yaml").exists() or (folder / f"run.{name}.json").exists():
        name = f"{command}-{number}"
        number += 1
    return name


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
