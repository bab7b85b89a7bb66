"""fit, validate, test and predict: LightningCLI with short names, safe checkpoints and a record of every run."""

import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard, StepSeed
from unildiff.callbacks.run_record import RunProgressBar, RunRecord, new_run_folder, newest_checkpoint
from unildiff.cli.arguments import FILES, MODELS, TrainerArguments, stage_name
from unildiff.cli.parsing import OneLineErrors, explain, require_class
from unildiff.cli.trainer_settings import check_settings
from unildiff.utils import datamodules
from unildiff.utils.errors import UserError
from unildiff.utils.paths import weights_path
from unildiff.weights.checkpoint_files import load_file_safely, newest_whole
from unildiff.weights.load import weights_folder

STOPPED = 143
"""Exit code after SIGTERM or SIGUSR1 (128 + 15): a checkpoint of the last step is written."""
INCOMPLETE = 3
"""Exit code when images were left out, each of them named."""
NEVER_FROM_CHECKPOINT = ("sampling", "training_sampling", "evaluation")
"""Arguments of a model that belong to the one who tests it, not to the one who trained it."""

_NOISE = (
    r".*does not have many workers.*",  # ours to choose, in the configs
    r".*your dataloader is not resumable.*",  # it is: RestorationDataModule keeps its place in the checkpoint
    r".*is smaller than the logging interval.*",  # short runs
    r".*Total length of `list` across ranks is zero.*",  # no validation images are allowed
    r".*`max_epochs` was not set.*",  # the record prints how long the run is
    r".*in eval mode at the start of training.*",  # frozen parts are
    r".*callbacks used to create the checkpoint need to be provided.*",  # not for a test
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch >= 2.10
    r".*`?(skip_none|instantiate_classes|add_instantiator)`?.*",  # Lightning 2.6 on jsonargparse >= 4.49
)


class Parser(LightningArgumentParser, OneLineErrors):
    """Lightning's parser with our errors."""

    error = OneLineErrors.error


def run(arguments: TrainerArguments) -> int:
    """Run one command of the Trainer and return its exit code.

    Raises:
        UserError: any mistake of the user.
    """
    _be_quiet()
    try:
        cli = UniLDiffCLI(arguments)
    except (MisconfigurationException, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        if (line := _mistake(error, arguments)) is None:
            raise
        raise UserError(line) from error
    except SIGTERMException:
        return STOPPED
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning has turned it into exit code 1
            return 130
        raise
    incomplete = bool(getattr(cli.datamodule, "skipped", None)) and arguments.command in ("test", "predict")
    return INCOMPLETE if incomplete else 0


class UniLDiffCLI(LightningCLI):
    """LightningCLI over any stage and any datamodule."""

    def __init__(self, arguments: TrainerArguments) -> None:
        """Parse, build and run."""
        self.arguments = arguments
        super().__init__(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # RunRecord does more
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": "unildiff"},
            auto_configure_optimizers=False,  # stages step their schedule once an optimiser step
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands and those of their arguments that are not the user's to set."""
        ours = {"weights_only", "return_predictions"}
        return {command: skipped | ours for command, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is ours."""
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of the run; by default runs/<stage>/<time>."
        )
        parser.add_argument(
            "--dtype",
            type=Literal["auto", "float32", "bfloat16", "float16"],
            default="auto",
            help="Dtype of the weights in test and predict; auto chooses it by the device.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments, with a checkpoint's model settings below all that the user says.

        Raises:
            UserError: no data, no model, a checkpoint of another class, or whatever jsonargparse complains of.
        """
        arguments = self.arguments
        self.checkpoint = self._find_checkpoint()
        if "--help" in arguments.rest or "-h" in arguments.rest or any("--print_config" in a for a in arguments.rest):
            self.config = parser.parse_args(arguments.ordered())
            return
        if self.checkpoint is None and arguments.command == "fit" and not arguments.names_model:
            raise UserError(
                f"fit: nothing to train; give --config configs/tiny/joint.yaml or --model, one of {', '.join(MODELS)}"
            )
        if not arguments.names_data:
            raise UserError(f"{arguments.command}: no data; give --data, one of {', '.join(datamodules.names())}")
        earlier = Path(arguments.run_dir or "", "checkpoints").glob("step-*.ckpt") if arguments.run_dir else ()
        if arguments.command == "fit" and self.checkpoint is None and any(earlier):
            raise UserError(
                f"run folder: {arguments.run_dir} holds checkpoints of an earlier run; --ckpt_path auto resumes it, "
                "and another --run_dir starts a new run"
            )
        for name in (arguments.data, arguments.model):
            if name is not None and "." in name and not name.endswith(FILES):
                require_class(name)
        saved = self._read_checkpoint() if self.checkpoint else None
        self._same_class(saved, arguments.model_class)
        self.config = parser.parse_args(arguments.ordered(saved))
        check_settings(arguments.command, self.config[arguments.command])
        model = self.config[arguments.command].model
        self._same_class(saved, model.class_path)
        steps = self.config[arguments.command].trainer.max_steps
        if saved and arguments.command == "fit" and 0 < steps < self._saved_step:
            raise UserError(
                f"trainer.max_steps is {steps}, but {self.checkpoint} has {self._saved_step} steps already; give more steps, or "
                "an earlier checkpoint"
            )
        self.config[arguments.command].ckpt_path = str(self.checkpoint) if self.checkpoint else None
        self.source = str(self.checkpoint) if self.checkpoint else _trained_weights(model.init_args)
        if self.source is None and arguments.command != "fit":
            raise UserError(
                f"{arguments.command}: {_short(model.class_path)} has no trained weights; give --ckpt_path FILE, or "
                "--model.init_from tiny for the shipped model"
            )

    def _same_class(self, saved: dict[str, Any] | None, class_path: str | None) -> None:
        if saved and class_path not in (None, saved["class_path"]):
            raise UserError(
                f"checkpoint: {self.checkpoint} is of {_short(saved['class_path'])}, not of {_short(str(class_path))}; "
                f"--ckpt_path resumes or tests the same stage, --model.init_from starts the next one from it"
            )

    def _find_checkpoint(self) -> Path | None:
        """Return the file that ``--ckpt_path`` means; None without it, and for ``auto`` when there is none yet."""
        arguments = self.arguments
        given, folder = arguments.checkpoint, arguments.run_dir
        if given not in ("last", "best", "auto"):
            return Path(given) if given else None
        if given == "auto":
            if folder is None:
                raise UserError("--ckpt_path auto: give --run_dir too, the folder whose newest checkpoint is resumed")
            return newest_whole(Path(folder) / "checkpoints")
        if folder is not None:
            path = Path(folder) / "checkpoints" / f"{given}.ckpt"
            if path.exists():
                return path
            if path.is_symlink():
                raise UserError(
                    f"checkpoint: {path} is a link to {os.readlink(path)}, which is missing; give --ckpt_path auto"
                )
        named = arguments.model_class
        return newest_checkpoint(stage_name(named) if named else "*", given)

    def _read_checkpoint(self) -> dict[str, Any]:
        assert self.checkpoint is not None
        content = load_file_safely(
            self.checkpoint, mapped=True, verify=False
        )  # the weights are read, and checked, later
        self._saved_step = int(content.get("global_step", 0))
        settings = dict(content.get("hyper_parameters", {}))
        class_path = settings.pop("_class_path", None)
        if class_path is None:
            raise UserError(f"checkpoint: {self.checkpoint} does not say its stage; give one written by `unildiff fit`")
        if class_path not in MODELS.values() and self.arguments.model_class is None and not _is_loaded(class_path):
            raise UserError(
                f"checkpoint: {self.checkpoint} is of {str(class_path)[:100]}, which is not a stage of unildiff; it is imported "
                "only if --model names it"
            )
        if self.arguments.command == "fit" and "optimizer_states" not in content:
            raise UserError(
                f"checkpoint: {self.checkpoint} holds weights only and cannot be resumed; start a new run from it with "
                "--model.init_from"
            )
        settings = {
            name: value
            for name, value in settings.items()
            if name not in NEVER_FROM_CHECKPOINT and not str(name).startswith("_")
        }
        try:
            json.dumps(settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"checkpoint: {self.checkpoint}: hyper_parameters must be plain values ({error})") from None
        return {"class_path": class_path, "init_args": settings}

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint overrule the command line, and change the class."""

    def instantiate_classes(self) -> None:
        """Build data, model and trainer.

        Raises:
            UserError: a setting has a value that its class refuses.
        """
        try:
            super().instantiate_classes()
            dtype = self.config[self.arguments.command].dtype
            self.model.inference_dtype = None if dtype == "auto" else getattr(torch, dtype)
        except ValueError as error:
            cause = _cause(error)
            raise UserError(f"settings: {cause}") if type(cause) is ValueError else cause from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with what every run has: the run folder, safety, a progress bar on stderr."""
        command, config = self.arguments.command, self.config[self.arguments.command]
        folder = self._run_folder(config)
        settings = self.config_init[command].trainer
        given = settings.callbacks or []
        callbacks: list[Callback] = [given] if isinstance(given, Callback) else list(given)
        curves = settings.logger in (None, True) and command in ("fit", "validate", "test")
        if settings.logger in (None, True):
            settings.logger = False
        notices = self._notices(config)
        seed, checkpoint = config.seed_everything, config.ckpt_path
        record = RunRecord(folder, command, self._resolved(), seed, checkpoint, notices, curves)
        settings.callbacks = [record, *callbacks, *self._missing(callbacks, settings)]
        settings.default_root_dir = str(folder)
        settings.enable_model_summary = bool(settings.enable_model_summary)  # the record prints what counts
        return super().instantiate_trainer(**kwargs)

    def _run_folder(self, config: Any) -> Path:
        if config.run_dir:
            return Path(config.run_dir)
        if "LOCAL_RANK" in os.environ and (chosen := os.environ.get("UNILDIFF_RUN_DIR")):
            return Path(chosen)  # a child that Lightning started
        folder = new_run_folder(stage_name(config.model.class_path))
        os.environ["UNILDIFF_RUN_DIR"] = str(folder)
        return folder

    def _missing(self, callbacks: list[Callback], settings: Any) -> list[Callback]:
        """Return what every run of this command has, without those kinds that the config sets up itself."""
        wanted: dict[type[Any], type[Callback]] = {}
        if self.arguments.command == "fit":
            wanted = {NonFiniteGuard: NonFiniteGuard, StepSeed: StepSeed}
            if settings.enable_checkpointing is not False:
                wanted[Checkpoint] = Checkpointing
        else:
            wanted[ExponentialMovingAverage] = ExponentialMovingAverage  # idle unless the checkpoint holds an average
        missing = [make() for kind, make in wanted.items() if not any(isinstance(each, kind) for each in callbacks)]
        if settings.enable_progress_bar is not False and not any(isinstance(each, ProgressBar) for each in callbacks):
            missing.append(RunProgressBar())
        return missing

    def _resolved(self) -> str:
        """Return the parsed config as yaml."""
        parser = self._parser(self.arguments.command)
        config = self.config[self.arguments.command].clone()
        config.pop("config", None)
        return str(parser.dump(config, skip_none=False))

    def _notices(self, config: Any) -> list[str]:
        if self.arguments.command == "fit":
            return []
        shipped = f"the tiny model shipped with unildiff ({weights_path('tiny')})"
        return [f"model: {shipped if self.source == 'tiny' else self.source} as {_short(config.model.class_path)}"]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
        if subcommand == "test":
            kwargs["verbose"] = False  # the stage prints its own table
        return kwargs | ({"return_predictions": False} if subcommand == "predict" else {})


def _is_loaded(class_path: Any) -> bool:
    """Return whether a stage class is imported already, so that a checkpoint that names it makes nothing be imported."""
    module, _, name = str(class_path).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, LightningModule)


def _mistake(error: Exception, arguments: TrainerArguments) -> str | None:
    """Return the line for an error that Lightning raised about settings or a checkpoint, None for any other error."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if any(file.endswith("checkpoint_connector.py") for file in frames) and not any("_save" in file for file in frames):
        return (
            f"checkpoint: {arguments.checkpoint} does not fit this run ({reason}); resume with the run's own settings"
        )
    in_lightning = bool(frames) and f"{os.sep}lightning{os.sep}" in frames[-1]
    if isinstance(error, MisconfigurationException) or (in_lightning and isinstance(error, (ValueError, TypeError))):
        return f"trainer: {reason}"
    return None


def _trained_weights(model: Any) -> str | None:
    """Return what a model's settings start it from, as long as that is more than a base: never score random weights."""
    base, init_from = model.get("base"), model.get("init_from")
    if init_from is None and base is not None and model.get("network") is None and weights_folder(base) is not None:
        return str(base)
    return None if init_from is None else str(init_from)


def _cause(error: BaseException) -> BaseException:
    """Return what a class raised, out of jsonargparse's account of all that it tried with it."""
    seen: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in seen:
        seen.append(inner)
        if "Does not validate against" not in str(inner):
            return inner
        inner = inner.__cause__ or inner.__context__
    return ValueError(explain(str(error)))


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _be_quiet() -> None:
    """Leave out what Lightning says of itself, so that what is left is worth reading."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
