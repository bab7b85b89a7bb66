"""Train the toy or a real stage, return its complete state at the end, and compare two such states."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from tests.callbacks.toy import ToyData, ToyModule, trainer
from tests.stages.steps import make_stage, wake
from unildiff.callbacks import Checkpointing, ExponentialMovingAverage, NonFiniteGuard

STEPS = 15  # 7 batches per epoch; with accumulation 3, six make two steps and the seventh starts the next epoch


def run(folder: Path, resume: Path | None = None, *, module: Any = None, data: ToyData | None = None,
        checkpointing: Checkpointing | None = None, **settings: Any) -> dict[str, Any]:  # fmt: skip
    """Train the toy and return its complete state at the end."""
    module, data = module or ToyModule(), data or ToyData()
    ema = ExponentialMovingAverage(decay=0.9)
    saver = checkpointing or Checkpointing(every_n_steps=100)
    loop = trainer(folder, [ema, NonFiniteGuard(), saver], **({"max_steps": STEPS} | settings))
    loop.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
    optimizer, schedule = loop.optimizers[0], loop.lr_scheduler_configs[0].scheduler
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "average": ema.average,
        "updates": ema.updates,
        "optimizer": optimizer.state_dict()["state"],
        "learning rate": schedule.get_last_lr(),
        "random": torch.get_rng_state(),
        "position": data.consumed,
        "step": loop.global_step,
        "keys": module.keys,
    }


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}/{key}")
    else:
        assert one == two, where


def same_end(whole: dict[str, Any], resumed: dict[str, Any]) -> None:
    """Check that everything is equal, except that the resumed run has seen only the last keys."""
    assert_equal({k: v for k, v in whole.items() if k != "keys"}, {k: v for k, v in resumed.items() if k != "keys"})
    assert whole["keys"][-len(resumed["keys"]) :] == resumed["keys"]


def real_stage(kind: str, base_folder: Path, **settings: Any) -> Any:
    """Return a stage that can be observed like the toy: the ``keys`` it saw, and ``before_batch`` to interrupt a batch."""
    module: Any = make_stage(kind, base_folder, **settings)
    wake(module)
    watch(module)
    return module


def watch(module: LightningModule) -> None:
    """Give a stage the toy's ``keys`` and ``before_batch``."""
    watched: Any = module
    watched.keys, watched.before_batch = [], None
    step = watched.training_step

    def training_step(batch: Any, batch_idx: int) -> Tensor:
        if watched.before_batch is not None:
            watched.before_batch(watched)
        watched.keys += batch["key"].tolist()
        return step(batch, batch_idx)

    watched.training_step = training_step
