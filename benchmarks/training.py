"""What a training step costs over the bare forward, backward and optimiser step of the same modules.

Each fit is a real `unildiff fit` of configs/tiny/alignment.yaml: its logger, bar, callbacks and checkpoints. Its loader
hands out the same batch over and over and, after so many steps, stops the clock and makes as many bare steps with a copy
of the model; so both are timed in turn within one fit.

Axis letters: B batch, H/W pixels, C latent channels, h/w latent height and width.
"""

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.models import photograph, released
from benchmarks.table import Goal, Row
from benchmarks.timing import Effort
from datamodules.deadleaves import DeadLeavesDataModule
from unildiff.cli.main import main
from unildiff.core.encoders import encode_latents
from unildiff.core.pixels import to_unit
from unildiff.data.batch import RestorationBatch, collate, image_tensor
from unildiff.stages.alignment import AlignmentModule

LOGGED_EVERY = 50  # the recipe's log_every_n_steps


class InTurn(DeadLeavesDataModule):
    """The same batch again and again; after every ``at_once`` of them the fit waits for as many bare steps.

    A round is ``steps`` of both: the processor's speed changes from second to second by more than what is measured here.
    """

    steps: ClassVar[int] = LOGGED_EVERY
    at_once: ClassVar[int] = 5
    rounds: ClassVar[int] = 1
    bare: ClassVar[Callable[[Any, RestorationBatch], Callable[[], None]]]
    seconds: ClassVar[dict[str, list[float]]] = {}

    def val_set(self) -> None:  # type: ignore[override]
        """None: validation is not part of a step."""

    def train_dataloader(self) -> Any:
        """Hand out batches and time both ways, processor time of this process."""
        return Batches(self)


class Batches:
    """What Lightning takes as a loader without length."""

    def __init__(self, data: InTurn) -> None:
        self.data = data

    def __iter__(self) -> Iterator[RestorationBatch]:
        """Time ``rounds`` rounds, after one that is not counted."""
        data, batch = self.data, fixed_batch(self.data.batch_size, self.data.augment.crop)
        step = data.bare(data.trainer.lightning_module, batch)  # type: ignore[union-attr]
        found: dict[str, list[float]] = {"ours": [], "limit": []}
        for turn in range(data.rounds + 1):
            spent = {"ours": 0.0, "limit": 0.0}
            for _ in range(data.steps // data.at_once):
                start = time.process_time()
                for _ in range(data.at_once):
                    yield batch
                middle = time.process_time()
                for _ in range(data.at_once):
                    step()
                spent["ours"] += middle - start
                spent["limit"] += time.process_time() - middle
            if turn:
                for name, value in spent.items():
                    found[name].append(value / data.steps)
        InTurn.seconds = found


def fixed_batch(size: int, side: int) -> RestorationBatch:
    image = image_tensor(photograph(side))
    sample = {"lq": image, "gt": image, "caption": "a red cat", "degradation": "rain", "name": "x"}
    return collate([{**sample, "key": key} for key in range(size)])  # type: ignore[list-item, return-value]


def bare_step(stage: AlignmentModule, batch: RestorationBatch) -> Callable[[], None]:
    """Forward, backward and AdamW of a copy of the stage's modules; everything random is drawn beforehand."""
    model = copy.deepcopy(stage.model)
    optimizer = torch.optim.AdamW(released(model), lr=1e-5)
    lq, gt = to_unit(batch["lq"]), to_unit(batch["gt"])
    factor, channels = model.downscale_factor, int(model.vae.config.latent_channels)
    shape = (len(lq), channels, lq.shape[2] // factor, lq.shape[3] // factor)
    posterior, epsilon = torch.randn(shape), torch.randn(shape)
    timesteps = torch.randint(model.schedule.num_train_timesteps, (len(lq),))

    def step() -> None:
        deep, _ = model.lq_encoder(lq)
        with torch.no_grad():
            latents = encode_latents(model.vae, gt, posterior).float()
            text = model.embed(batch["caption"])
        context = model.context(deep, text, (lq.shape[2], lq.shape[3]))
        noisy = model.schedule.add_noise(latents, epsilon, timesteps)
        prediction, _ = model.unet(noisy, timesteps, context)
        loss: Tensor = (prediction - model.schedule.target(latents, epsilon, timesteps)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class ThreeLogs(AlignmentModule):
    """The peer's method: three `self.log` per step, which Lightning collects and shows in its bar."""

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """The same step, its loss logged as three numbers."""
        loss = super().training_step(batch, batch_idx)
        for name in ("loss", "diffusion", "balance"):
            self.log(f"train/{name}", loss.detach(), prog_bar=True)
        return loss


def fit(stage: type[AlignmentModule], effort: Effort, steps: int, batch: int, side: int) -> dict[str, list[float]]:
    """Run one fit; return seconds per step, one number per round."""
    InTurn.at_once = next(
        count for count in (5, 2, 1) if steps % count == 0
    )  # a loader without batches never ends a fit
    InTurn.steps, InTurn.rounds, InTurn.bare = steps, effort.rounds, staticmethod(bare_step)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silent:
        arguments = [
            "fit", "--config", "configs/tiny/alignment.yaml", "--model", f"{stage.__module__}.{stage.__name__}",
            "--data", f"{__name__}.InTurn", "--data.num_workers", "0", "--run_dir", folder,
            "--trainer.log_every_n_steps", str(LOGGED_EVERY), "--trainer.max_steps", str(steps * (effort.rounds + 1)),
            "--data.batch_size", str(batch), "--data.crop_size", str(side), "--trainer.limit_val_batches", "0",
            "--trainer.val_check_interval", "null", "--trainer.check_val_every_n_epoch", "1",
        ]  # fmt: skip
        with redirect_stdout(silent), redirect_stderr(silent):
            code = main(arguments)
    if code:
        raise RuntimeError(f"unildiff {' '.join(arguments)} ended with {code}")
    return InTurn.seconds


def rows(effort: Effort) -> list[Row]:
    short = (2, 1, 32) if effort.small else (LOGGED_EVERY, 1, 64)  # steps a round, B, H = W
    long = (2, 2, 32) if effort.small else (6, 4, 128)
    seconds, peer = fit(AlignmentModule, effort, *short), fit(ThreeLogs, effort, short[0] // 2, *short[1:])
    in_scale = [
        value / base * own for value, base, own in zip(peer["ours"], peer["limit"], seconds["limit"], strict=True)
    ]
    longer = fit(AlignmentModule, effort, *long)
    limit = "bare forward, backward and AdamW of the same modules"
    return [
        Row(
            f"training step, alignment, batch {short[1]} of {short[2]}x{short[2]}, as `unildiff fit` makes it",
            seconds["ours"], in_scale, seconds["limit"], "the same with three self.log calls per step and a progress bar", limit,
            Goal(0.002, "seconds above limit"),
        ),
        Row(
            f"training step, alignment, batch {long[1]} of {long[2]}x{long[2]}, as `unildiff fit` makes it",
            longer["ours"], [], longer["limit"], "", limit, Goal(1.05, "limit"),
        ),
    ]  # fmt: skip
