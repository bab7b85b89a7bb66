"""The base model: VAE, U-Net, text encoders and scheduler config, from a diffusers folder or a Hugging Face id."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from unildiff.core.text import TextEncoders
from unildiff.errors import UserError
from unildiff.paths import weights_path


@dataclass
class Base:
    """What the stages build on; every part is an ordinary diffusers or transformers model.

    Attributes:
        vae: 8x downscaling autoencoder.
        unet: the denoiser.
        text: one or two CLIP text encoders with tokenizers.
        scheduler: the scheduler's config: betas, prediction type and spacing are always read from here.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: TextEncoders
    scheduler: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write a diffusers folder, safetensors in the weights' own dtype."""
        self.vae.save_pretrained(folder / "vae")
        self.unet.save_pretrained(folder / "unet")
        # from_config: published configs hold keys of other schedulers, which the class itself refuses.
        EulerDiscreteScheduler.from_config(self.scheduler).save_pretrained(folder / "scheduler")
        for index, (tokenizer, encoder) in enumerate(zip(self.text.tokenizers, self.text.encoders, strict=True)):
            suffix = "" if index == 0 else f"_{index + 1}"
            tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
            encoder.save_pretrained(folder / f"text_encoder{suffix}")


def load_base(name: str, dtype: torch.dtype = torch.float32, vae: str | None = None) -> Base:
    """Load a base.

    Args:
        name: ``tiny`` (ships with the package), a local diffusers folder, or a Hugging Face id such as
            ``stabilityai/stable-diffusion-xl-base-1.0``.
        dtype: of the loaded weights.
        vae: another folder or id for the VAE, e.g. the fp16-safe ``madebyollin/sdxl-vae-fp16-fix``.

    Raises:
        UserError: if the folder lacks a part, or an id cannot be fetched.
    """
    folder = weights_path(name) if name == "tiny" else Path(name)
    source = str(folder) if folder.is_dir() else name
    if folder.is_dir():
        missing = [part for part in ("unet", "scheduler", "text_encoder", "tokenizer") if not (folder / part).is_dir()]
        if missing:
            raise UserError(f"base model: {folder} is no diffusers folder, it lacks {', '.join(missing)}/")
    elif folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(
            f"base model: no folder {name}; give a diffusers folder or a Hugging Face id (or --model.base tiny)"
        )
    try:
        scheduler = dict(EulerDiscreteScheduler.load_config(source, subfolder="scheduler"))
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", torch_dtype=dtype)
        autoencoder = (
            AutoencoderKL.from_pretrained(vae, torch_dtype=dtype)
            if vae
            else AutoencoderKL.from_pretrained(source, subfolder="vae", torch_dtype=dtype)
        )
        two = "cross_attention_dim" in unet.config and unet.config.addition_embed_type == "text_time"
        tokenizers = [CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")]
        encoders = [CLIPTextModel.from_pretrained(source, subfolder="text_encoder", torch_dtype=dtype)]
        if two:
            tokenizers.append(CLIPTokenizer.from_pretrained(source, subfolder="tokenizer_2"))
            encoders.append(
                CLIPTextModelWithProjection.from_pretrained(source, subfolder="text_encoder_2", torch_dtype=dtype)
            )
    except (OSError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"base model: {name} cannot be loaded ({reason}); fetch it once with `hf download {name}`, "
            "give a local folder with --model.base, or train the tiny base with configs/tiny/joint.yaml"
        ) from error
    return Base(autoencoder, unet, TextEncoders(tokenizers, encoders), scheduler)
