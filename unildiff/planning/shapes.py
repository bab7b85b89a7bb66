"""The model of a config as shapes: sizes from a base's configs where they are at hand, SDXL's own otherwise."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from unildiff.core.base import Base
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.sizes import SDXL, TINY
from unildiff.core.text import TextEncoders
from unildiff.utils.paths import weights_path
from unildiff.utils.quiet import quiet
from unildiff.weights.base_files import cached
from unildiff.weights.lora import LoRAConfig, add_adapters

_PARTS = ("vae", "unet", "text_encoder", "text_encoder_2")
_TINY_VOCABULARY = 1000


@dataclass(frozen=True)
class BaseSizes:
    """Configs of a base's parts, and where they come from, for the report."""

    parts: dict[str, dict[str, Any]]
    source: str


def base_sizes(name: str) -> BaseSizes:
    """Return the sizes of a base without touching its weights or the network.

    Args:
        name: as for ``load_base``. What is not here is taken for SDXL base 1.0, and the report says so.
    """
    folder = weights_path("tiny") if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        folder = cached(name) or folder
    if (folder / "unet" / "config.json").is_file():
        there = [part for part in _PARTS if (folder / part / "config.json").is_file()]
        return BaseSizes({part: json.loads((folder / part / "config.json").read_text()) for part in there}, str(folder))
    if name == "tiny":
        vocabulary = {"vocab_size": _TINY_VOCABULARY}
        parts = {part: dict(TINY[part]) for part in _PARTS if part in TINY}
        return BaseSizes(parts | {"text_encoder": TINY["text_encoder"] | vocabulary}, "the tiny base's published sizes")
    return BaseSizes(
        {part: dict(SDXL[part]) for part in _PARTS}, f"SDXL base 1.0's sizes ({name} is not on this machine)"
    )


def shaped_model(
    sizes: BaseSizes, network: NetworkConfig, dtype: torch.dtype, lora: LoRAConfig | None = None
) -> UniLDiff:
    """Return the whole model, with adapters if asked for; call it in a fake-tensor mode: new tensors have no data."""
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    # On the meta device first: parts are copied from each other, which fake tensors do not survive.
    with torch.device("meta"), quiet():
        encoders = [
            kind(CLIPTextConfig(**_settings(sizes.parts[part]))) for part, kind in kinds.items() if part in sizes.parts
        ]
        base = Base(
            AutoencoderKL.from_config(sizes.parts["vae"]),
            UNet2DConditionModel.from_config(sizes.parts["unet"]),
            TextEncoders([None] * len(encoders), encoders),  # captions are not embedded here
            SDXL["scheduler"],
        )
        model = UniLDiff(base, network)
        if lora is not None:
            add_adapters(model.unet.rest, lora)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(
                module, name, torch.empty(buffer.shape, dtype=dtype if buffer.is_floating_point() else buffer.dtype)
            )
    return model


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in config.items()
        if key not in ("architectures", "model_type", "transformers_version")
    }
