"""Where the GPU check runs and at what size: models, batches and clocks.

Axis letters: B batch, H/W pixels.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.random_model import random_model, stage_over
from unildiff.callbacks.compile import compile_regions
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.data.batch import RestorationBatch
from unildiff.planning.shapes import BaseSizes, base_sizes
from unildiff.stages.alignment import AlignmentModule
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.joint import JointFinetuneModule
from unildiff.stages.joint_lora import JointLoRAModule
from unildiff.stages.restoration import RestorationModule

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
STAGES: dict[str, type[RestorationModule]] = {
    "alignment": AlignmentModule,
    "joint": JointFinetuneModule,
    "decoder": DecoderFinetuneModule,
    "joint_lora": JointLoRAModule,
}
SMALL = NetworkConfig(
    FusionConfig(hidden_size=32, num_heads=2, mlp_ratio=2), DetailConfig(width=8, kernel_sizes=(3, 5))
)


@dataclass(frozen=True)
class Context:
    """Device and size of a run.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: use the sizes of the tiny base instead of SDXL's.
    """

    device: str
    tiny: bool

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def name(self) -> str:
        """Return what the device is called."""
        return torch.cuda.get_device_name() if self.on_gpu else "CPU"

    @property
    def network(self) -> NetworkConfig:
        """Sizes and switches of the added parts: the recipe's, or small ones."""
        return SMALL if self.tiny else NetworkConfig()

    @property
    def sizes(self) -> BaseSizes:
        """Sizes of the base."""
        return base_sizes("tiny" if self.tiny else SDXL)

    def pixels(self, side: int) -> int:
        """Return a side in pixels, 512 and more at full size, a small one otherwise."""
        return max(64, side // 16) if self.tiny else side

    def model(self, dtype: torch.dtype = torch.bfloat16, on: str | None = None) -> UniLDiff:
        """Return a model with random weights, on the device or elsewhere."""
        return random_model(self.sizes, self.network, dtype, on or self.device, self.device)

    def stage(self, kind: str, **settings: Any) -> Any:
        """Return a stage over a random float32 model on the device, with what its training step asks of a Trainer."""
        stage = stage_over(STAGES[kind], self.model(torch.float32), **settings).to(self.device)
        stage.trainer = SimpleNamespace(
            global_step=1, log_every_n_steps=2, loggers=[], accumulate_grad_batches=1, is_global_zero=True
        )
        return stage.train()

    def batch(self, size: int, side: int) -> RestorationBatch:
        """Return B random image pairs of ``side`` pixels."""
        draw = torch.Generator().manual_seed(0)
        gt = torch.randint(0, 256, (size, 3, side // 8, side // 8), generator=draw, dtype=torch.uint8)
        gt = gt.repeat_interleave(8, 2).repeat_interleave(8, 3)
        lq = gt // 2 + torch.randint(0, 64, gt.shape, generator=draw, dtype=torch.uint8)
        return {
            "lq": lq.to(self.device),
            "gt": gt.to(self.device),
            "caption": ["a red cat"] * size,
            "degradation": ["rain"] * size,
            "name": [str(index) for index in range(size)],
            "key": torch.arange(size),
        }

    def compile(self, model: UniLDiff) -> None:
        """Compile the repeated blocks; at tiny size only a few of them, without a compiler."""
        if self.tiny:
            compile_regions(model.unet.rest.mid_block, "eager")
        else:
            compile_regions(model, "inductor" if self.on_gpu else "eager")

    def autocast(self, dtype: torch.dtype | None = torch.bfloat16) -> torch.autocast:
        """Return the autocast of Lightning's mixed precision; None computes in float32."""
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()

    @contextmanager
    def clock(self, into: dict[str, float], name: str) -> Iterator[None]:
        """Add the seconds that the device needs for a block to ``into``."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        into[name] = into.get(name, 0.0) + time.perf_counter() - start

    def start_peak(self) -> None:
        """Forget the memory peak so far."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the memory peak in bytes since ``start_peak``; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.on_gpu else 0


def shipped() -> bool:
    """Whether the tiny model's weights are here."""
    from unildiff.utils.paths import weights_path

    return Path(weights_path("tiny"), "unildiff.json").is_file()
