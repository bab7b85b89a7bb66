"""Low-rank adapters (LoRA) in the U-Net's attention, by the peft library, and how they are merged without it.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021): W x becomes (W + (alpha / r) B A) x. Here alpha is
always r, so that merging needs nothing but the adapters.
Axis letters: O outputs, I inputs of a linear layer, r rank.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unildiff.utils.errors import UserError
from unildiff.utils.validation import Width, check_fields

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention's projections, as in diffusers' own LoRA training of SDXL."""
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass
class LoRAConfig:
    """Size of the adapters, and dtype of the frozen weights.

    Args:
        rank: r (64, our choice: about 3.5% of SDXL's U-Net).
        frozen_dtype: of the frozen linear and convolution weights during training. bfloat16 halves them and changes
            nothing under bf16-mixed, where autocast would round them all the same.
    """

    rank: Width = 64
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_fields(self)


def add_adapters(unet: Any, config: LoRAConfig) -> None:
    """Put adapters into a diffusers U-Net, in place; A is drawn, B is zero, so that nothing changes at first.

    Only the adapters take gradients; parameters get names as ``...to_q.lora_A.default.weight`` (r, I).

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise UserError(f"lora: {error}; pip install 'unildiff[lora]'") from error
    unet.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=config.rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return ".lora_" in name


def frozen_to_bfloat16(model: nn.Module) -> None:
    """Keep frozen linear and convolution weights in bfloat16; norms and embeddings stay, which autocast does not round."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.requires_grad:
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False))


def with_merged_adapters(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a LoRA checkpoint's weights as those of a run that trained the complete U-Net.

    Args:
        weights: name to tensor, names from ``model.`` on; the adapters and everything else that was trained.
        model: the parameters of a model without adapters, on the base that the adapters were trained on.

    Returns:
        the U-Net's own weights, W + B A for layers with an adapter (added in float32), and everything else that was trained.

    Raises:
        UserError: an adapter does not fit.
    """
    merged = {name: value for name, value in weights.items() if not is_adapter(name)}
    for name, value in model.items():
        if name.startswith("unet."):
            merged.setdefault(f"model.{name}", value)
    unused = {name for name in weights if is_adapter(name)}
    for name in sorted(name for name in unused if name.endswith(_DOWN)):
        layer = name.removesuffix(_DOWN)
        target, up = merged.get(f"{layer}.weight"), weights.get(f"{layer}{_UP}")
        if target is None or up is None or target.shape != (len(up), weights[name].shape[1]):
            raise _misfit(name)
        delta = up.float() @ weights[name].float().to(up.device)
        merged[f"{layer}.weight"] = (target.detach().float() + delta.to(target.device)).to(target.dtype)
        unused -= {name, f"{layer}{_UP}"}
    if unused:
        raise _misfit(min(unused))
    return merged


def has_adapters(names: Iterable[str]) -> bool:
    """Whether a checkpoint with these names is of a LoRA run."""
    return any(map(is_adapter, names))


def _misfit(name: str) -> UserError:
    return UserError(f"lora: adapter {name} does not fit the U-Net; give the base that it was trained on")
