"""A module, images and a trainer small enough to train a hundred times in a test."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from unildiff.callbacks import StepSeed
from unildiff.data.datamodule import RestorationDataModule
from unildiff.utils.keys import generator, sample_key


class ToySet:
    """Noise images, a pure function of the position; ``broken`` is a position that cannot be read."""

    def __init__(self, count: int, broken: int | None = None, size: int = 4) -> None:
        self.count, self.broken, self.size = count, broken, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.broken:
            raise OSError(f"cannot read image {index}")
        key = sample_key("toy", index)
        pixels = generator(key, "pixels").integers(0, 256, (3, self.size, self.size), dtype=np.uint8)
        image = torch.from_numpy(pixels)
        return {
            "lq": image,
            "gt": 255 - image,
            "caption": "a red cat",
            "degradation": "rain",
            "name": f"p{index}",
            "key": key,
        }


class ToyData(RestorationDataModule):
    def __init__(
        self, count: int = 14, batch_size: int = 2, num_workers: int = 0, validation: int = 0, size: int = 4
    ) -> None:
        super().__init__(batch_size, num_workers, seed=0)
        self.count, self.validation, self.size, self.broken = count, validation, size, None

    def train_set(self) -> Any:
        return ToySet(self.count, self.broken, self.size)

    def val_set(self) -> Any:
        return ToySet(self.validation) if self.validation else None

    def test_set(self) -> Any:
        return ToySet(3)

    def fingerprint(self) -> str:
        return f"toy-{self.count}"


class ToyModule(LightningModule):
    """A frozen layer, a trained one with dropout, AdamW, a schedule by step."""

    strict_loading = False

    def __init__(self, width: int = 4, init_from: str | None = None, sampling: dict[str, int] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["sampling"])
        self.sampling = sampling or {"num_inference_steps": 20}
        torch.manual_seed(0)
        self.frozen = nn.Conv2d(3, width, 1).requires_grad_(False)
        self.trained = nn.Conv2d(width, 3, 1)
        self.keys: list[int] = []
        self.weights_in_validation: list[Tensor] = []
        self.before_batch: Any = None

    def forward(self, lq: Tensor) -> Tensor:
        return self.trained(nn.functional.dropout(self.frozen(lq.float() / 255), 0.3, self.training))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.before_batch is not None:
            self.before_batch(self)
        self.keys += batch["key"].tolist()
        return ((self(batch["lq"]) - batch["gt"].float() / 255) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.weights_in_validation.append(self.trained.weight.detach().clone())
        self.log("val/psnr", ((self(batch["lq"]) - batch["gt"].float() / 255) ** 2).mean(), batch_size=1)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.weights_in_validation.append(self.trained.weight.detach().clone())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.trained.parameters(), lr=0.1, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("trained")}


class OtherModule(ToyModule):
    """Another stage, with its own class path in checkpoints."""


def trainer(folder: Path, callbacks: list[Callback], **settings: Any) -> Trainer:
    """Return a silent CPU trainer that works in ``folder``."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
    }
    return Trainer(default_root_dir=folder, callbacks=[StepSeed(0), *callbacks], **(defaults | settings))
