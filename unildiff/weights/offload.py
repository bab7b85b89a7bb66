"""Keeps only the parts at work on a small GPU; the others wait in the memory of the CPU.

The order is that of a restoration. Decoding needs the LQ encoder again, which therefore also sends the U-Net away.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import ModelHook, UserCpuOffloadHook, add_hook_to_module

from unildiff.core.model import UniLDiff

ORDER = ("lq_encoder", "vae", "text", "unet", "decoder")
"""The parts in the order in which a restoration needs them."""


def offload_parts(model: UniLDiff, device: torch.device, offload: Literal["model", "group"]) -> Callable[[], None]:
    """Attach hooks that move each part to the device when it is called and the part before it back.

    Args:
        model: on the CPU, in evaluation mode.
        device: where to compute.
        offload: ``model`` moves whole parts; ``group`` also keeps the layers of the base U-Net on the CPU, and moves each one
            to the device for its own call (the smallest peak, and slow).

    Returns:
        a function that moves everything back, to be called after each image.
    """
    hooks: dict[str, UserCpuOffloadHook] = {}
    before = None
    for name in ORDER:
        if name == "unet" and offload == "group":
            _stream_layers(model, device, hooks["text"])
            before = None
            continue
        _, before = cpu_offload_with_hook(getattr(model, name), device, before)
        hooks[name] = before
    if "unet" in hooks:
        hooks["lq_encoder"].hook.prev_module_hook = hooks["unet"]

    def back() -> None:
        for hook in hooks.values():
            hook.offload()

    return back


class _SendsAway(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Before the U-Net runs, the text encoders leave the device."""

    def __init__(self, text: UserCpuOffloadHook) -> None:
        self.text = text

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if next(self.text.model.parameters()).device.type != "cpu":
            self.text.offload()
        return args, kwargs


def _stream_layers(model: UniLDiff, device: torch.device, text: UserCpuOffloadHook) -> None:
    """Keep the fusion on the device, and every layer of the base U-Net on the CPU between its calls."""
    from diffusers.hooks import apply_group_offloading

    model.unet.conv_in.to(device)
    model.unet.fusion.to(device)
    apply_group_offloading(
        model.unet.rest, onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda"
    )
    add_hook_to_module(model.unet, _SendsAway(text))
