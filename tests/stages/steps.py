"""Batches, stages and trainers small enough for many training steps in a test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.small import NETWORK, open_gates
from unildiff.core.network import NetworkConfig
from unildiff.data.batch import RestorationBatch
from unildiff.diffusion.noise import KeyedNoise
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.base import StageModule
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.joint import JointFinetuneModule
from unildiff.stages.joint_lora import JointLoRAModule
from unildiff.stages.optimiser import OptimizerConfig
from unildiff.stages.restoration import RestorationModule

CAPTIONS = ("a red cat", "the table", "cat on the table", "red")
STAGES: dict[str, type[RestorationModule]] = {
    "alignment": AlignmentModule,
    "joint": JointFinetuneModule,
    "joint_lora": JointLoRAModule,
    "decoder": DecoderFinetuneModule,
}


def make_batch(keys: Sequence[int] = (1, 2, 3, 4), size: int = 32) -> RestorationBatch:
    """Return smooth images of differing brightness and contrast, each a function of its key."""
    noise = KeyedNoise(list(keys))
    coarse = noise.normal("picture", 3, 4, 4) * 40 * (0.5 + noise.uniform("contrast")).view(-1, 1, 1, 1)
    gt = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + 128
    lq = gt * (0.3 + 0.6 * noise.uniform("dark")).view(-1, 1, 1, 1) + 10 * noise.normal("rain", 3, size, size)
    return {
        "lq": lq.clamp(0, 255).to(torch.uint8),
        "gt": gt.clamp(0, 255).to(torch.uint8),
        "caption": [CAPTIONS[key % len(CAPTIONS)] for key in keys],
        "degradation": ["rain"] * len(keys),
        "name": [f"p{key}" for key in keys],
        "key": torch.tensor(list(keys)),
    }


def make_stage(
    kind: str, folder: Path, network: NetworkConfig = NETWORK, seed: int = 0, **settings: Any
) -> RestorationModule:
    """Return a stage over the base in ``folder``, its new parts a function of ``seed``; a constant rate, no decay."""
    defaults: dict[str, Any] = {"optimizer": OptimizerConfig(1e-3, None, 0.0, 0, "constant")}
    if kind == "decoder":
        defaults["latents"] = "one_step"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STAGES[kind](base=str(folder), network=network, **(defaults | settings))


def wake(module: StageModule) -> None:
    """Draw every trained parameter that is zero, so that parts that start at zero have an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in module.trained_parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    open_gates(module)


def without_trainer(module: LightningModule) -> None:
    """Let ``training_step`` be called by hand; it then logs nothing."""
    module.trainer = SimpleNamespace(global_step=1, log_every_n_steps=2, loggers=[])  # type: ignore[assignment]


def gradients(module: StageModule) -> dict[str, Tensor]:
    """Return the existing gradients by parameter name."""
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def make_loader(batches: Sequence[RestorationBatch]) -> DataLoader[RestorationBatch]:
    """Return a loader of these batches; Lightning would treat a list as several loaders."""
    return DataLoader(batches, batch_size=None, num_workers=0)  # type: ignore[arg-type]


def trainer_of_rank(
    datamodule: Any, rank: int = 0, world: int = 1, barriers: Mapping[str, Callable[[], None]] | None = None
) -> Any:
    """Return the parts of a trainer that caches use; ``barriers`` are the actions of the other rank in the meantime."""
    datamodule.setup("fit")
    actions = barriers or {}
    strategy = SimpleNamespace(barrier=lambda name: actions.get(name, lambda: None)(), root_device=torch.device("cpu"))
    values: dict[str, Any] = {"strategy": strategy, "datamodule": datamodule, "global_rank": rank, "world_size": world}
    values |= {"is_global_zero": rank == 0, "precision": "32-true"}
    return SimpleNamespace(**values, precision_plugin=SimpleNamespace(train_step_context=torch.no_grad))


class Losses(Callback):
    """Records the loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


def make_trainer(folder: Path, callbacks: Sequence[Callback] = (), **settings: Any) -> Trainer:
    """Return a silent CPU trainer that works in ``folder``."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **(defaults | settings))
