"""Weights from other projects' files: FaithDiff's, fine-tuned U-Nets and low-rank adapters (LoRA) for a base.

Nothing in these files is executed. The names of FaithDiff's weights are those of its code
(https://github.com/JyChen9811/FaithDiff, and diffusers' community pipeline of it).
"""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unildiff.core.base import Base
from unildiff.utils.errors import UserError
from unildiff.weights.base_files import check_whole
from unildiff.weights.checkpoint_files import load_file_safely
from unildiff.weights.checkpoints import StageCheckpoint

_LOG = logging.getLogger(__name__)
FAITHDIFF = "faithdiff:"
"""Prefix of a value of ``init_from`` that names FaithDiff's file."""
FAITHDIFF_RULES = {name: name for name in ("lq_encoder.", "unet.conv_in.", "unet.rest.")}
_ALIGNMENT = ("information_transformer_layes.", "spatial_ch_projs.", "condition_embedding.", "agg_net.")
_LDM_UNET = "model.diffusion_model."


def read_faithdiff(init_from: str) -> StageCheckpoint:
    """Return FaithDiff's U-Net and LQ encoder under the names that they have in ``UniLDiff``.

    Its alignment is another network than DAFF and is left out, so that the fusion starts untrained.

    Args:
        init_from: ``faithdiff:FILE``.

    Raises:
        UserError: the file is missing, damaged, or not FaithDiff's.
    """
    path = Path(init_from.removeprefix(FAITHDIFF)).expanduser()
    state = read_weights(path)
    if not any(name.startswith("denoise_encoder.") for name in state):
        raise UserError(
            f"init_from: {path} is not FaithDiff's file, it has no denoise_encoder.*; give FaithDiff.bin, or for a U-Net alone "
            "--model.base BASE+FILE"
        )
    weights, left_out = {}, 0
    for name, value in state.items():
        if name.startswith(_ALIGNMENT):
            left_out += 1
        elif name.startswith("denoise_encoder."):
            weights[f"lq_encoder.{name.removeprefix('denoise_encoder.')}"] = value
        else:
            weights[f"unet.{name}" if name.startswith("conv_in.") else f"unet.rest.{name}"] = value
    _LOG.warning(
        "init_from: warm start from FaithDiff's U-Net and LQ encoder in %s; the %d weights of its alignment have no "
        "counterpart in DAFF and are left out, so that the fusion starts untrained",
        path,
        left_out,
    )
    return StageCheckpoint(path, weights, "FaithDiff", {}, 0, averaged=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a file of ``torch.save``.

    Raises:
        UserError: the file is missing or damaged.
    """
    check_whole(path)
    if path.suffix == ".safetensors":
        return load_file(path)
    content = load_file_safely(path, mapped=True)
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def split_additions(name: str) -> tuple[str, list[Path]]:
    """Split ``BASE+FILE+FILE`` into the base and the files that change it. A plus sign within an existing path stays.

    Raises:
        UserError: nothing stands before or behind a plus sign.
    """
    parts, words = [], name.split("+")
    while words:
        count = len(words)
        while count > 1 and not Path("+".join(words[:count])).expanduser().exists():
            count -= 1
        parts.append("+".join(words[:count]))
        words = words[count:]
    if len(parts) > 1 and not all(parts):
        raise UserError(f"base: {name} lacks a name beside a plus sign; give BASE+FILE")
    return parts[0], [Path(part).expanduser() for part in parts[1:]]


def add_to_base(base: Base, file: Path) -> None:
    """Replace the U-Net of a base by a file's, or merge the file's adapters into it; diffusers and peft map the names.

    Raises:
        UserError: the file is missing or damaged, or does not fit the base.
    """
    state = read_weights(file)
    try:
        if any("lora" in name for name in state):
            _merge_adapters(base, state)
            return
        if any(name.startswith(_LDM_UNET) for name in state):
            from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

            state = convert_ldm_unet_checkpoint(state, dict(base.unet.config))
        state = {name.removeprefix("unet."): value for name, value in state.items()}
        base.unet.load_state_dict(state)
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # what the libraries raise at names and shapes that they do not know
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"base model: {file} does not fit the base ({reason}); give a U-Net or LoRA made for it"
        ) from error


def _merge_adapters(base: Base, state: dict[str, Tensor]) -> None:
    # slow to import and rarely needed
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts: dict[str, Any] = {
        "vae": base.vae,
        "unet": base.unet,
        "scheduler": EulerDiscreteScheduler.from_config(base.scheduler),
        "text_encoder": base.text.encoders[0],
        "tokenizer": base.text.tokenizers[0],
    }
    pipeline: Any
    if len(base.text.encoders) == 2:
        second = {"text_encoder_2": base.text.encoders[1], "tokenizer_2": base.text.tokenizers[1]}
        pipeline = StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    before = [parameter.detach().clone() for parameter in base.unet.parameters()]
    state = {name: value.float() for name, value in state.items()}
    known = pipeline.lora_state_dict(dict(state))
    expected = sum(
        ".lora_A." in name or ".lora.down." in name for name in (known[0] if isinstance(known, tuple) else known)
    )
    pipeline.load_lora_weights(state)
    modules = (base.unet, *base.text.encoders)
    loaded = sum(
        name.endswith(".weight") and ".lora_A." in name for part in modules for name, _ in part.named_parameters()
    )
    if loaded < expected:
        raise ValueError(f"{expected - loaded} of its {expected} adapters have no layer in the base")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    if all(torch.equal(old, new) for old, new in zip(before, base.unet.parameters(), strict=True)):
        raise ValueError("its adapters change nothing in the U-Net")
