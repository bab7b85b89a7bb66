"""Reads what a plan needs off the arguments of ``unildiff fit``, by the very parser that fit uses."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from unildiff.cli.arguments import TrainerArguments, stage_name
from unildiff.cli.lightning_cli import UniLDiffCLI
from unildiff.core.network import NetworkConfig
from unildiff.data.catalogue import DATASETS
from unildiff.planning.report import RunSettings
from unildiff.planning.step import StepSettings
from unildiff.stages.base import check_precision
from unildiff.stages.restoration import RestorationModule
from unildiff.stages.settings import LatentCacheConfig
from unildiff.utils.errors import UserError
from unildiff.utils.validation import build_dataclass
from unildiff.weights.load import check_own_base, stored_network, weights_folder
from unildiff.weights.stage_parts import TRAINED

GPU_TFLOPS = 120.0
"""Assumed for a GPU: 40% of the 312 TFLOP/s that an A800 has in bf16 (our choice)."""
CPU_TFLOPS = 0.1
"""Assumed for a CPU process: about what two cores with AVX-512 reach (our choice)."""
_SCENES = {"cdd11": 11}  # published counts are of scenes, each under so many degradations


@dataclass(frozen=True)
class Parsed:
    """A run, its network, and the name of its base."""

    run: RunSettings
    network: NetworkConfig
    base: str


class _ParsedOnly(UniLDiffCLI):
    """The command line of fit, read and not run."""

    def instantiate_classes(self) -> None:
        """Build nothing: that would take weights and data."""

    def _set_seed(self) -> None:
        """Seed nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def parse_run(arguments: list[str], tflops: float | None) -> Parsed:
    """Return what the arguments of a fit mean for a plan.

    Args:
        arguments: arguments of ``unildiff fit``.
        tflops: TFLOP/s per device; None assumes a value.

    Raises:
        UserError: whatever fit would refuse, or a stage that cannot be planned.
    """
    # No run folder is touched: neither the one to write nor one to resume from.
    taken_apart = TrainerArguments.parse("fit", [*arguments, "--run_dir=null", "--ckpt_path=null"])
    config = _ParsedOnly(taken_apart).config["fit"]
    stage = _stage_class(config.model.class_path)
    settings = config.model.init_args.as_dict()
    if "base" in settings:  # meta models are not filled, so what does not fit together would not show
        check_own_base(settings["base"], settings.get("init_from"))
    model, data, trainer = config.model.init_args, config.data.init_args, config.trainer
    gpu = trainer.accelerator in ("gpu", "cuda")
    callbacks = {each.class_path.rpartition(".")[2]: each.init_args for each in trainer.callbacks or []}
    average, checkpoints = callbacks.get("ExponentialMovingAverage"), callbacks.get("Checkpointing")
    strategy = getattr(trainer.strategy, "class_path", str(trainer.strategy)).rpartition(".")[2].lower()
    bucket_view = getattr(trainer.strategy, "init_args", {}).get("gradient_as_bucket_view", False)
    devices = _count(trainer.devices) * int(trainer.num_nodes)
    if trainer.max_steps < 1:
        raise UserError(f"plan: --trainer.max_steps is {trainer.max_steps}; a plan needs the number of optimiser steps")
    check_precision(precision := str(trainer.precision or "32-true"))
    cached = settings.get("latents") == "cached"
    cache = settings.get("cache") or {}
    run = RunSettings(
        config=" + ".join(path.name for path in taken_apart.configs) or stage_name(config.model.class_path),
        base="",
        step=StepSettings(
            stage=stage,
            batch_size=data.batch_size,
            crop_size=getattr(data, "crop_size", 512),
            compute_dtype=_autocast_dtype(precision),
            gpu=gpu,
            settings=settings,
        ),
        checkpointing=model.gradient_checkpointing,
        devices=devices,
        accumulation=trainer.accumulate_grad_batches,
        max_steps=trainer.max_steps,
        epoch_samples=_epoch_samples(config.data.class_path, data),
        data=config.data.class_path.split(".")[-2],
        averaged_bytes=0 if average is None else 2 if average.dtype == "bfloat16" else 4,
        second_gradients="ddp" in strategy and devices > 1 and not bucket_view,
        sharded="modelparallel" in strategy,
        kept=_kept(checkpoints) if checkpoints is not None else 2,
        weights_only=bool(checkpoints is not None and checkpoints.weights_only),
        throughput=(tflops or (GPU_TFLOPS if gpu else CPU_TFLOPS)) * 1e12,
        cached_samples=cache.get("samples", LatentCacheConfig.samples) if cached else 0,
        cached_skips=cached and cache.get("skips", False),
        cached_captions="CaptionCache" in callbacks,
    )
    return Parsed(run, _network(model), model.base)


def _stage_class(class_path: str) -> type[RestorationModule]:
    module, _, name = class_path.rpartition(".")
    found: type[RestorationModule] = getattr(import_module(module), name)
    if not issubclass(found, RestorationModule):
        raise UserError(f"plan: {stage_name(class_path)} is not planned; give a config of {', '.join(TRAINED)}")
    return found


def _network(model: Any) -> NetworkConfig:
    """Return the network as the stage would: from the config, else from the folder that it starts from."""
    if model.network is not None:
        return build_dataclass(NetworkConfig, model.network.as_dict(), "model.network")
    return stored_network(weights_folder(model.init_from) or weights_folder(model.base))


def _count(devices: Any) -> int:
    """Return how many devices ``--trainer.devices`` means on one machine; ``auto`` is taken for one."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if "," in text:  # numbers of devices, as in "0,1"
        return len([number for number in text.split(",") if number.strip()])
    return int(text) if text.isdigit() else 1


def _kept(checkpointing: Any) -> int:
    """Return how many checkpoints ``Checkpointing`` leaves on disk, the best one included; -1: all."""
    return -1 if checkpointing.keep < 0 else int(checkpointing.keep) + (checkpointing.monitor is not None)


def _autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype of autocast, None without it."""
    return None if "32" in precision else torch.bfloat16 if "bf16" in precision else torch.float16


def _epoch_samples(class_path: str, data: Any) -> int | None:
    """Return samples an epoch: as set, else as published; None where only the files can tell."""
    for setting in ("samples_per_epoch", "count"):
        if data.get(setting):
            return int(data[setting])
    known = DATASETS.get(data.get("dataset") or class_path.split(".")[-2])
    if known is None or not all(each.expected.get("train") for each in known.sets):
        return None
    return sum(each.expected["train"] * _SCENES.get(each.name, 1) for each in known.sets)
