"""Ranges of what fit, validate, test and predict are configured with, checked before anything is built.

Our own classes state the ranges of their numbers in their signatures. Lightning's Trainer takes any number, so its ranges
are stated here.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from lightning.pytorch import Trainer

from unildiff.utils.errors import UserError
from unildiff.utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Range,
    Seed,
    Share,
    build,
    check_arguments,
)

_DEVICES = re.compile(r"auto|-1|\d+(,\d*)*")
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


_COUNTS_OR_SHARES = (*(f"limit_{kind}_batches" for kind in ("train", "val", "test", "predict")), "val_check_interval")


def with_whole_counts(trainer: Any) -> None:
    """Turn 20.0 into 20 where the Trainer takes a count or a share, in place.

    Which of ``int | float`` jsonargparse tries first depends on the order in which typing saw them, so that a config's 20
    may arrive as a share of 20.0.
    """
    for name in _COUNTS_OR_SHARES:
        value = trainer.get(name)
        if isinstance(value, float) and value > 1 and value.is_integer():
            trainer[name] = int(value)


def check_settings(command: str, config: Mapping[str, Any]) -> None:
    """Refuse values that would fail later, or be ignored in silence.

    Args:
        command: fit, validate, test or predict.
        config: the parsed config of that command, as plain values.

    Raises:
        UserError: a setting is out of range; one line names it.
    """
    build(bool | Seed, config.get("seed_everything"), "seed_everything")
    trainer = config.get("trainer") or {}
    check_arguments(Trainer, trainer, "trainer", _RANGES)
    if isinstance(devices := trainer.get("devices"), str) and not _DEVICES.fullmatch(devices):
        raise UserError(f"trainer.devices is {devices!r}; it must be auto, a number, or numbers of devices such as 0,1")
    if trainer.get("devices") == []:
        raise UserError("trainer.devices is []; it must be auto, a number, or numbers of devices such as 0,1")
    for name in ("model", "data"):
        build(_Configured, config.get(name), name)
    if command == "validate" and trainer.get("limit_val_batches") == 0:
        raise UserError("trainer.limit_val_batches is 0, so there is nothing to validate; leave it out")
    accumulated, limit = trainer.get("accumulate_grad_batches", 1), trainer.get("limit_train_batches")
    if command == "fit" and isinstance(limit, int) and limit % accumulated:
        raise UserError(
            f"trainer.limit_train_batches is {limit}; it must be a multiple of accumulate_grad_batches ({accumulated}), "
            "or the last step of each epoch would see fewer samples"
        )


class _Configured:
    """Any class given by its ``class_path``."""
