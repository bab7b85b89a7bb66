"""Ranges of what fit, validate, test and predict are configured with, checked before anything is built.

Our own classes state the ranges of their numbers in their signatures. Lightning's Trainer takes any number, so its ranges
are stated here.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, Optional

from jsonargparse._parameter_resolvers import get_signature_parameters
from lightning.pytorch import Trainer

from unildiff.utils.errors import UserError
from unildiff.utils.paths import with_home
from unildiff.utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Range,
    Seed,
    Share,
    build,
    check_arguments,
    shown,
)

_DEVICES = re.compile(r"auto|-1|\d+(,\d*)*")
_DURATION = re.compile(r"\d+(:\d\d){3}")
_SomeShare = Annotated[float, Range(0, 1, above=True)]
_RANGES: dict[str, Any] = {
    "accumulate_grad_batches": PositiveInt,
    "check_val_every_n_epoch": PositiveInt | None,
    "devices": PositiveInt | Literal[-1] | str | list[NonNegativeInt],
    "fast_dev_run": bool | NonNegativeInt,
    "gradient_clip_val": NonNegativeFloat | None,
    "limit_train_batches": PositiveInt | _SomeShare | None,
    "limit_val_batches": NonNegativeInt | Share | None,
    "limit_test_batches": PositiveInt | _SomeShare | None,
    "limit_predict_batches": PositiveInt | _SomeShare | None,
    "log_every_n_steps": PositiveInt | None,
    "max_epochs": PositiveInt | Literal[-1] | None,
    "max_steps": PositiveInt | Literal[-1],
    "min_epochs": PositiveInt | None,
    "min_steps": PositiveInt | None,
    "num_nodes": PositiveInt,
    "num_sanity_val_steps": NonNegativeInt | Literal[-1] | None,
    "overfit_batches": NonNegativeInt | Share,
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
    "val_check_interval": PositiveInt | _SomeShare | str | None,
}
_PARALLEL_SIZE = PositiveInt | Literal["auto"]
_NESTED_RANGES: dict[str, Any] = {
    "data_parallel_size": _PARALLEL_SIZE,
    "tensor_parallel_size": _PARALLEL_SIZE,
    "bucket_cap_mb": PositiveInt,
    "broadcast_buffers": bool,
}
_COUNTS_OR_SHARES = (*(f"limit_{kind}_batches" for kind in ("train", "val", "test", "predict")), "val_check_interval")


def check_settings(command: str, config: Any) -> None:
    """Refuse values that would fail later, or be ignored in silence.

    A count that jsonargparse has read as 20.0 becomes 20, in place: which of ``int | float`` it tries first depends on the
    order in which typing saw them, so that a count may arrive as a share.

    Args:
        command: fit, validate, test or predict.
        config: the parsed config of that command, a mapping or jsonargparse's namespace.

    Raises:
        UserError: a setting is out of range; one line names it.
    """
    for key in [key for key in ("run_dir", "model", "data") if config.get(key) is not None]:
        _expand_home(config, key)
    build(bool | Seed, config.get("seed_everything", 0), "seed_everything")
    build(str | None, config.get("run_dir"), "run_dir")
    trainer = config.get("trainer", {})
    if not hasattr(trainer, "get"):
        raise UserError(f"trainer is {shown(trainer)}; it must be a set of keys such as max_steps")
    for name in _COUNTS_OR_SHARES:
        value = trainer.get(name)
        if isinstance(value, float) and value > 1 and value.is_integer():
            trainer[name] = int(value)
    config = config if isinstance(config, Mapping) else config.as_dict()
    trainer = config.get("trainer", {})
    check_arguments(Trainer, trainer, "trainer", _RANGES)
    if isinstance(devices := trainer.get("devices"), str) and not _DEVICES.fullmatch(devices):
        raise UserError(f"trainer.devices is {devices!r}; it must be auto, a number, or numbers of devices such as 0,1")
    if trainer.get("devices") == []:
        raise UserError("trainer.devices is []; it must be auto, a number, or numbers of devices such as 0,1")
    if isinstance(interval := trainer.get("val_check_interval"), str) and not _DURATION.fullmatch(interval):
        raise UserError(
            f"trainer.val_check_interval is {interval!r}; it must be batches, a share of an epoch, or DD:HH:MM:SS"
        )
    batches, accumulated = trainer.get("limit_train_batches"), trainer.get("accumulate_grad_batches")
    counts = type(batches) is int and type(accumulated) is int and batches > 0 and accumulated > 0
    if command == "fit" and counts and batches % accumulated and not trainer.get("fast_dev_run"):
        raise UserError(
            f"trainer.limit_train_batches is {batches}, which is not a multiple of accumulate_grad_batches ({accumulated}), so "
            "the last step of an epoch would see fewer samples; change one of them"
        )
    for name in ("trainer", "model", "data"):
        if not isinstance(part := config.get(name), (Mapping, str, type(None))):
            raise UserError(f"{name} is {shown(part)}; it must be a set of keys: class_path and init_args")
        _check_classes(config.get(name), name)
    if command == "validate" and trainer.get("limit_val_batches") == 0:
        raise UserError("trainer.limit_val_batches is 0, so there is nothing to validate; leave it out")


def _expand_home(place: Any, key: Any) -> None:
    """Replace ``~`` in the texts of a part of the config, in place."""
    value = place[key]
    if isinstance(value, list | str):
        place[key] = with_home(value)
    elif hasattr(value, "keys"):
        for name in list(value.keys()):
            _expand_home(value, name)


def _check_classes(value: Any, where: str) -> None:
    """Check the arguments of every class that a config names, at any depth.

    Args:
        value: a part of the config.
        where: its name in messages; in a list the name of the class is added.
    """
    if isinstance(value, list):
        for each in value:
            name = str(each.get("class_path")).rpartition(".")[2] if isinstance(each, Mapping) else ""
            _check_classes(each, f"{where}.{name}")
    elif isinstance(value, Mapping):
        path, arguments = value.get("class_path"), value.get("init_args")
        if isinstance(path, str):
            module, _, name = path.rpartition(".")
            target = getattr(import_module(module), name)  # the parser has imported it before
            if not isinstance(arguments := {} if arguments is None else arguments, Mapping):
                raise UserError(f"{where}.init_args is {shown(arguments)}; it must be a set of keys")
            check_arguments(target, arguments, where, _annotations(target) | _NESTED_RANGES)
            _check_classes(arguments, where)
        else:
            for name, each in value.items():
                _check_classes(each, f"{where}.{name}")


@cache
def _annotations(target: Any) -> dict[str, Any]:
    """Return the types of a constructor's parameters, also of those that it hands to other constructors."""
    found: dict[str, Any] = {}
    for parameter in get_signature_parameters(target):
        kind = parameter.annotation
        if kind is inspect.Parameter.empty and type(parameter.default) in (bool, int, float, str):
            kind = type(parameter.default)
        if kind is not inspect.Parameter.empty:
            found[parameter.name] = Optional[kind] if parameter.default is None else kind  # noqa: UP045  # any kind
    return found
