"""When checkpoints are written, which are kept, and what a resumed run starts from.

Every checkpoint describes the end of an optimiser step, never the middle of one: the positions in the data that it holds
are those of the last completed step, also when it is written in the middle of an accumulation, of a validation or of a
crash. A resumed run repeats the unfinished part and so ends bit-equal to one that never stopped.
"""

import os
import pickle
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.training_epoch_loop import RestartStage
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.optim import Optimizer

from unildiff.callbacks.checkpoint_io import AtomicCheckpointIO
from unildiff.utils.errors import UserError
from unildiff.utils.files import remove_abandoned
from unildiff.utils.validation import LARGEST, PositiveInt, Range, check_arguments

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Checkpointing(Checkpoint):
    """Writes ``step-<optimiser steps>.ckpt``, keeps the newest, and points ``last.ckpt`` and ``best.ckpt`` at two of them.

    Besides every ``every_n_steps`` it writes at the end of training, after an exception, and after SIGTERM or SIGUSR1:
    these end the run after the current batch, on all ranks alike (the command line then ends with exit code 143).
    Lightning would go on writing inside the signal handler, and end with 0.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_steps: PositiveInt = 500,
        keep: Annotated[int, Range(-1, LARGEST)] = 2,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        weights_only: bool = False,
    ) -> None:
        """Set when and what to write.

        Args:
            dirpath: folder; by default ``checkpoints`` in the run folder.
            every_n_steps: optimiser steps between two checkpoints.
            keep: newest checkpoints kept; -1 keeps all. The best one is kept besides.
            monitor: logged validation metric by which the best one is chosen; None: no ``best.ckpt``.
            mode: whether larger or smaller is better.
            weights_only: leave out optimiser, schedule and loops: a fraction of the size, but it cannot be resumed.

        Raises:
            UserError: ``every_n_steps`` or ``keep`` makes no sense.
        """
        check_arguments(Checkpointing, locals())
        super().__init__()
        if keep == 0:
            raise UserError("keep is 0; it must be the number of checkpoints to keep, or -1 to keep all")
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.monitor = monitor
        self.mode = mode
        self.weights_only = weights_only
        self.best_score: float | None = None
        self.folder = Path()
        self._saved_step = 0  # nothing to save before the first step
        self._finished_step = 0
        self._stepping = False  # True while weights may be half updated
        self._write_failed = False
        self._position = b""  # pickled after every step: twice as fast as copying
        self._stop_requested = False
        self._validation_due = False  # from the last completed step until its validation has ended

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint, "" while there is none: what ``ckpt_path="best"`` of a Trainer reads."""
        best = self.folder / "best.ckpt"
        return str(best) if best.exists() else ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder, and take over how files are written and read.

        Raises:
            UserError: FSDP2 would write folders, which nothing else here reads.
        """
        if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
            raise UserError(
                "checkpoints: ModelParallelStrategy (FSDP2) would write folders that neither test nor export reads; give "
                "save_distributed_checkpoint: false, as configs/variants/fsdp2.yaml does"
            )
        folder = self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints")
        self.folder = Path(trainer.strategy.broadcast(folder))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if trainer.is_global_zero and stage == "fit":
            remove_abandoned(self.folder)

    # Stopping.

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals from here on: Lightning has set its own handlers just before."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals, remember the first step, and make up for a validation that an interruption prevented.

        A checkpoint is written before the validation of its step, so that a long validation risks no training.
        """
        self._listen()
        self._finished_step = trainer.global_step
        if self._validation_due:
            _validate(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Do not wait for the end of a long validation; with several ranks, whose batches may differ in number, do."""
        if trainer.world_size == 1:
            self._stop_if_requested(trainer)

    def _listen(self) -> None:
        def request(signum: int, frame: FrameType | None) -> None:
            self._stop_requested = True

        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in STOP_SIGNALS:  # Lightning puts the former handlers back when the run ends
                signal.signal(number, request)

    def _stop_if_requested(self, trainer: Trainer) -> None:
        requested = self._stop_requested
        if trainer.world_size > 1:
            requested = trainer.strategy.reduce_boolean_decision(requested, all=False)
        if requested:
            raise SIGTERMException

    # Steps.

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """From here to the end of the batch the weights must not be saved."""
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Remember the position after a completed step, save if it is time, stop if requested."""
        if trainer.global_step != self._finished_step:
            self._finished_step = trainer.global_step
            self._stepping = False
            self._position = pickle.dumps({"fit_loop": trainer.fit_loop.state_dict(), "data": _data_state(trainer)})
            self._validation_due = _validates_now(trainer)
            if trainer.global_step % self.every_n_steps == 0:
                self._save(trainer)
        elif trainer.world_size > 1:
            return  # a check on all ranks makes them wait for each other, so it is done once per optimiser step
        self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this step's checkpoint as the best one if the monitored metric says so.

        Raises:
            UserError: no such metric was logged.
        """
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._validation_due = False
        if self.monitor is None:
            return
        if self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"checkpoints: monitor {self.monitor!r} is not logged; there are {', '.join(trainer.callback_metrics)}"
            )
        score = float(trainer.strategy.broadcast(trainer.callback_metrics[self.monitor].item()))
        better = self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score)
        if better and self._finished_step > 0:
            self.best_score = score
            self._save(trainer)
            if trainer.is_global_zero:
                _replace_link(self._path(self._saved_step), self.folder / "best.ckpt", hard=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for the validation of the last step; Lightning does not even start to train when all steps are done."""
        if self._validation_due:
            self._finished_step = trainer.global_step
            _validate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end state."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last completed step, unless the exception struck in the middle of an update."""
        unsafe = self._stepping or self._write_failed or trainer.sanity_checking
        if trainer.state.fn == TrainerFn.FITTING and not unsafe:
            together = isinstance(exception, SIGTERMException)  # else the other ranks may never come
            split = isinstance(trainer.strategy, ModelParallelStrategy)  # one rank holds only its shard
            if together or (trainer.is_global_zero and not split):
                self._save(trainer, wait=together)

    # Files.

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the position of the last completed step in, and leave out what ``weights_only`` does not want."""
        if self._position:
            position = pickle.loads(self._position)
            checkpoint["loops"] = checkpoint["loops"] | {"fit_loop": position["fit_loop"]}
            checkpoint.update(position["data"])
        if self.weights_only:
            for key in ("optimizer_states", "lr_schedulers", "loops"):
                checkpoint.pop(key, None)
            # Without the key Lightning hands the file to no callback, and a test would score without the average.
            checkpoint["callbacks"] = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the position: it is the one to save until this process has completed a step of its own."""
        if trainer.state.fn == TrainerFn.FITTING and "loops" in checkpoint:
            data = {key: checkpoint[key] for key in _data_state(trainer) if key in checkpoint}
            self._position = pickle.dumps({"fit_loop": checkpoint["loops"]["fit_loop"], "data": data})

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far, and whether the validation of the last completed step is still to be done."""
        return {"best_score": self.best_score, "validation_due": self._validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; checkpoints of earlier releases do not know about validation."""
        self.best_score = state_dict["best_score"]
        self._validation_due = bool(state_dict.get("validation_due", False))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.ckpt"

    def _save(self, trainer: Trainer, wait: bool = True) -> None:
        """Write the last completed step unless it is written; ``wait`` for the other ranks, and fail with them."""
        if self._finished_step <= self._saved_step or getattr(trainer, "fast_dev_run", False):
            return
        path = self._path(self._finished_step)
        failure = ""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        try:
            trainer.strategy.save_checkpoint(checkpoint, str(path))  # rank 0 writes
            if trainer.is_global_zero:
                self._tidy(path)
        except (UserError, OSError) as error:
            failure = str(error)
        if wait:
            failure = trainer.strategy.broadcast(failure)
        if failure:
            self._write_failed = True
            raise UserError(failure)
        self._saved_step = self._finished_step

    def _tidy(self, newest: Path) -> None:
        """Point ``last.ckpt`` at the newest checkpoint, then drop those that are too many."""
        _replace_link(newest, self.folder / "last.ckpt", hard=False)
        if self.keep > 0:
            older = sorted((path for path in self.folder.glob("step-*.ckpt") if path != newest), key=_written)
            for path in older[: max(0, len(older) + 1 - self.keep)]:
                path.unlink()


def _validates_now(trainer: Trainer) -> bool:
    """Return whether the training loop is about to validate."""
    fetcher = trainer.fit_loop._data_fetcher
    due = (
        trainer.enable_validation and fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)
    )
    return bool(due)


def _validate(trainer: Trainer) -> None:
    """Run the validation that belongs to the last completed step, as the training loop would have done.

    The loop's own counters are put back: Lightning counts this validation itself when it continues the epoch.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    state, restarting, stage = loop.state_dict(), loop.restarting, loop._restart_stage
    loop.restarting, loop._restart_stage = False, RestartStage.NONE
    trainer.validating = True
    loop.run()
    trainer.training = True
    loop.load_state_dict(state)
    loop.restarting, loop._restart_stage = restarting, stage


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _data_state(trainer: Trainer) -> dict[str, Any]:
    """Return the datamodule's state under the key that Lightning gives it in a checkpoint."""
    datamodule = getattr(trainer, "datamodule", None)
    state = datamodule.state_dict() if datamodule is not None else {}
    return {type(datamodule).__qualname__: state} if state else {}


def _replace_link(target: Path, link: Path, hard: bool) -> None:
    """Let ``link`` name ``target``, at no moment naming nothing; both lie in one folder."""
    part = link.with_name(f".{link.name}.part")  # replaces what a process left that was killed here
    part.unlink(missing_ok=True)
    if hard:  # stays when the step's own name is dropped
        try:
            os.link(target, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(target, part)
    else:
        part.symlink_to(target.name)
    os.replace(part, link)
