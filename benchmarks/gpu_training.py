"""Training rows: peak memory against the plan, seconds by part, share of the card's peak, each option alone, checkpoints."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_context import STAGES, Context
from unildiff.callbacks.checkpoint_io import AtomicCheckpointIO
from unildiff.callbacks.ema import ExponentialMovingAverage
from unildiff.planning.gpus import GPUS
from unildiff.planning.step import StepSettings, measure_step
from unildiff.stages.optimiser import OptimizerConfig, make_adamw
from unildiff.weights.lora import frozen_to_bfloat16

WITHIN = 0.10
"""Largest relative difference between the planned and the measured peak."""
MICRO_BATCH = {"alignment": 8, "joint": 8, "decoder": 8, "joint_lora": 2}
SETTINGS: dict[str, dict[str, Any]] = {"decoder": {"latents": "one_step"}, "joint_lora": {"frozen_dtype": "bfloat16"}}


def train(
    kind: str,
    context: Context,
    batch_size: int | None = None,
    checkpointing: bool = True,
    fused: bool = True,
    channels_last: bool = False,
    compiled: bool = False,
    plan: bool = True,
) -> dict[str, Any]:
    """Make three optimiser steps of one micro-batch each and measure the last one."""
    if kind == "joint_lora" and find_spec("peft") is None:
        return {"skipped": "peft is not installed"}
    size = batch_size or MICRO_BATCH[kind]
    size, side = (2, 64) if context.tiny else (size, 512)
    settings = {"gradient_checkpointing": checkpointing, **SETTINGS.get(kind, {})}
    stage = context.stage(kind, **settings)
    if stage.frozen_dtype == "bfloat16":
        frozen_to_bfloat16(stage.model)
    if channels_last:
        stage.model.to(memory_format=torch.channels_last)
    if compiled:
        context.compile(stage.model)
    trained = dict(stage.trained_parameters())
    fuses = True if fused and context.on_gpu else None
    optimizer = make_adamw(trained.items(), OptimizerConfig(), fused=fuses)
    ema = ExponentialMovingAverage(dtype="bfloat16")
    ema.average = {name: value.detach().to(torch.bfloat16) for name, value in trained.items()}
    batch = context.batch(size, side)
    for step in range(3):
        seconds: dict[str, float] = {}
        optimizer.zero_grad(set_to_none=False)
        context.start_peak()
        timed = timed_parts(context, stage, seconds if step == 1 else None)
        with timed, context.clock(seconds, "forward"), context.autocast():
            loss = stage.training_step(batch, 0)
        with context.clock(seconds, "backward"):
            loss.backward()
        peak = context.peak()
        with context.clock(seconds, "clip"):
            nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        with context.clock(seconds, "AdamW"):
            optimizer.step()
        with context.clock(seconds, "EMA"):
            ema.update(dict(stage.named_parameters()))
        if step == 1:
            parts = {name: value for name, value in seconds.items() if name not in ("forward", "backward")}
    total = seconds["forward"] + seconds["backward"]
    found: dict[str, Any] = {"micro-batch": total, "parts": parts | {"backward": seconds["backward"]}}
    found["finite"] = bool(torch.isfinite(loss))
    if plan:
        step_settings = StepSettings(STAGES[kind], size, side, torch.bfloat16, context.on_gpu, settings)
        cost = measure_step(context.sizes, context.network, step_settings)
        average = 2 * sum(cost.trained.values())
        planned = cost.weights + 3 * cost.gradients + average + cost.activations
        found |= {"planned": planned / 1e9, "measured": peak / 1e9, "TFLOP/s": cost.flops / total / 1e12}
        card = next((gpu for name, gpu in GPUS.items() if name in context.name().lower()), None)
        if card is not None:
            found["share of peak"] = cost.flops / total / 1e12 / card.tflops
        found["ok"] = found["finite"] and (not context.on_gpu or abs(planned / peak - 1) <= WITHIN)
    return found


class timed_parts:  # used as a context manager
    """Adds the seconds of each part of the model to ``into`` while it is entered; does nothing with None."""

    def __init__(self, context: Context, stage: Any, into: dict[str, float] | None) -> None:
        self.context, self.stage, self.into, self.handles = context, stage, into, []

    def __enter__(self) -> None:
        if self.into is None:
            return
        model = self.stage.model
        parts = {
            "LQ encoder": model.lq_encoder,
            "VAE": model.vae.encoder,
            "DAFF": model.unet.fusion,
            "U-Net": model.unet.rest,
            "decoder": model.decoder,
        }
        for name, module in parts.items():
            self.handles.append(module.register_forward_pre_hook(partial(self._before, name)))
            self.handles.append(module.register_forward_hook(partial(self._after, name)))

    def _before(self, name: str, *arguments: Any) -> None:
        self.context.wait()
        self.start = time.perf_counter()

    def _after(self, name: str, *arguments: Any) -> None:
        self.context.wait()
        assert self.into is not None
        self.into[name] = self.into.get(name, 0.0) + time.perf_counter() - self.start

    def __exit__(self, *arguments: object) -> None:
        for handle in self.handles:
            handle.remove()


def checkpoint(context: Context) -> dict[str, Any]:
    """Save what the joint stage saves (38 GB at full size), read it again and compare."""
    stage = context.stage("joint")
    optimizer = make_adamw(stage.trained_parameters(), OptimizerConfig())
    for _, parameter in stage.trained_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.ones_like(parameter),
            "exp_avg_sq": torch.ones_like(parameter),
        }
    state = {name: value.detach() for name, value in stage.trained_parameters()}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.ckpt"
        content = {"state_dict": state, "optimizer_states": [optimizer.state_dict()]}
        with context.clock(seconds, "save"):
            AtomicCheckpointIO().save_checkpoint(content, path)
        size = path.stat().st_size
        with context.clock(seconds, "load"):
            read = AtomicCheckpointIO().load_checkpoint(path)
            optimizer.load_state_dict(read["optimizer_states"][0])
        same = all(torch.equal(read["state_dict"][name].to(value.device), value) for name, value in state.items())
    return {"ok": same, "GB": size / 1e9, **seconds}


ROWS: dict[str, Callable[[Context], dict[str, Any]]] = {
    **{kind: partial(train, kind) for kind in ("joint", "alignment", "decoder", "joint_lora")},
    "joint, batch 16": partial(train, "joint", batch_size=16),
    "joint, batch 32": partial(train, "joint", batch_size=32, plan=False),
    "joint, storing all activations, batch 4": partial(train, "joint", batch_size=4, checkpointing=False, plan=False),
    "joint, AdamW not fused": partial(train, "joint", fused=False, plan=False),
    "joint, channels-last": partial(train, "joint", channels_last=True, plan=False),
    "joint, compiled regions": partial(train, "joint", compiled=True, plan=False),
    "checkpoint": checkpoint,
}
