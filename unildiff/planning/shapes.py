"""A model as shapes: the real modules without weights, on a base of known sizes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from unildiff.core import moe
from unildiff.core.base import Base
from unildiff.core.model import UniLDiff
from unildiff.core.moe import Routing
from unildiff.core.network import NetworkConfig
from unildiff.core.sizes import SDXL, TINY
from unildiff.core.text import TextEncoders
from unildiff.utils.files import read_object
from unildiff.utils.paths import weights_path
from unildiff.utils.quiet import quiet
from unildiff.weights.base_files import cached
from unildiff.weights.foreign import split_additions

_TEXT = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_PARTS = ("vae", "unet", *_TEXT)
_TINY_VOCABULARY = 1000


@dataclass(frozen=True)
class BaseSizes:
    """Configs of the parts of a base, and where they come from, for the report."""

    parts: dict[str, dict[str, Any]]
    source: str


def base_sizes(name: str) -> BaseSizes:
    """Return the sizes of a base without reading its weights and without the network.

    Args:
        name: as for ``load_base``. A base that is not on this machine is assumed to be SDXL base 1.0, which the
            report mentions.
    """
    name, _ = split_additions(name)
    folder = weights_path("tiny") if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        folder = cached(name) or folder
    if (folder / "unet" / "config.json").is_file():
        there = [part for part in _PARTS if (folder / part / "config.json").is_file()]
        parts = {part: read_object(folder / part / "config.json", "base model") for part in there}
        if (scheduler := folder / "scheduler" / "scheduler_config.json").is_file():
            parts["scheduler"] = read_object(scheduler, "base model")
        return BaseSizes(parts, str(folder))
    if name == "tiny":
        parts = {part: dict(TINY[part]) for part in (*_PARTS, "scheduler") if part in TINY}
        parts["text_encoder"] |= {"vocab_size": _TINY_VOCABULARY}
        return BaseSizes(parts, "the published sizes of the tiny base")
    return BaseSizes(
        {part: dict(SDXL[part]) for part in _PARTS}, f"the sizes of SDXL base 1.0 ({name} is not on this machine)"
    )


def meta_model(sizes: BaseSizes, network: NetworkConfig) -> UniLDiff:
    """Return the whole model on the meta device: its parts are copied from each other, which fake tensors do not support."""
    with torch.device("meta"), quiet():
        return UniLDiff(_base(sizes), network)


def fake_tensors(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Give a module on the meta device tensors of the current ``FakeTensorMode``.

    Args:
        module: changed in place.
        dtype: of floating-point tensors; None keeps each one's own.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            made = torch.empty(parameter.shape, dtype=dtype or parameter.dtype)
            setattr(part, name, nn.Parameter(made, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            kept = dtype is None or not buffer.is_floating_point()
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype if kept else dtype))


def real_schedule(model: UniLDiff) -> None:
    """Keep real the numbers of the schedule that the sampler reads."""
    schedule: Any = model.schedule
    for name in ("sampling_timesteps", "sampling_sigmas"):
        setattr(schedule, name, _on_real_tensors(getattr(schedule, name)))


@contextmanager
def even_routing() -> Iterator[None]:
    """Give every expert its even share: the choice of the routers depends on data, and there is none."""

    def even(routing: Routing, num_experts: int) -> list[int]:
        share, rest = divmod(routing.indices.numel(), num_experts)
        return [share + (expert < rest) for expert in range(num_experts)]

    counted = moe.assignment_counts
    moe.assignment_counts = even
    try:
        yield
    finally:
        moe.assignment_counts = counted


def _on_real_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments)

    return call


def _base(sizes: BaseSizes) -> Base:
    encoders = [
        kind(CLIPTextConfig(**_config(sizes.parts[part]))) for part, kind in _TEXT.items() if part in sizes.parts
    ]
    tokenizers: list[Any] = [_Tokenizer(encoder.config.max_position_embeddings) for encoder in encoders]
    return Base(
        AutoencoderKL.from_config(sizes.parts["vae"]),
        UNet2DConditionModel.from_config(sizes.parts["unet"]),
        TextEncoders(tokenizers, encoders),
        sizes.parts.get("scheduler", SDXL["scheduler"]),
    )


class _Tokenizer:
    """Returns tokens of the right shape for any captions."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, captions: list[str], **options: Any) -> Any:
        return SimpleNamespace(input_ids=torch.zeros(len(captions), self.model_max_length, dtype=torch.long))


def _config(config: dict[str, Any]) -> dict[str, Any]:
    apart = ("architectures", "model_type", "transformers_version")
    return {key: value for key, value in config.items() if key not in apart}
