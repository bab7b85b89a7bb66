"""The base model: VAE, U-Net, text encoders and scheduler config, from a diffusers folder or a Hugging Face id."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    ModelMixin,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from unildiff.core.base import Base
from unildiff.core.text import TextEncoders
from unildiff.diffusion.schedule import NoiseSchedule
from unildiff.utils.errors import UserError
from unildiff.utils.quiet import quiet
from unildiff.utils.validation import Range, build
from unildiff.weights.base_files import WAY_ON, check_whole, config_folder, locate, weight_files
from unildiff.weights.checksums import verify_checksums
from unildiff.weights.foreign import add_to_base, split_additions


def load_base(name: str, dtype: torch.dtype = torch.float32, vae: str | None = None) -> Base:
    """Load a base; the weights come into memory once, in ``dtype``.

    Args:
        name: ``tiny`` (ships with the package), a local diffusers folder, a Hugging Face id such as
            ``stabilityai/stable-diffusion-xl-base-1.0`` or a single-file SDXL checkpoint. Folders may hold sharded
            weights, or only a variant (``fp16``). ``BASE+FILE`` puts a fine-tuned U-Net or a LoRA on a base.
        dtype: of the loaded weights.
        vae: another folder, id or file for the VAE, e.g. the fp16-safe ``madebyollin/sdxl-vae-fp16-fix``.

    Raises:
        UserError: something is missing, truncated, does not fit, or cannot be fetched; the file is named.
    """
    name, additions = split_additions(name)
    source = locate(name)
    for file in additions:
        check_whole(file)
    other_vae = locate(vae, vae=True) if vae else None
    if source.is_file():
        check_whole(source)
        configs = config_folder(source)
    else:
        verify_checksums(source)
        configs = source
    missing = [part for part in ("unet", "scheduler", "text_encoder", "tokenizer") if not (configs / part).is_dir()]
    if missing:
        raise UserError(f"base model: {configs} is not a diffusers folder: it lacks {', '.join(missing)}/; {WAY_ON}")
    with quiet():
        scheduler = _config(configs / "scheduler", EulerDiscreteScheduler.load_config)
        check_scheduler(scheduler, configs / "scheduler")
        check_unet(_config(configs / "unet", UNet2DConditionModel.load_config), configs / "unet")
        names = [name for name in ("tokenizer", "tokenizer_2") if (configs / name).is_dir()]
        tokenizers = [_read(configs / name, _tokenizer) for name in names]
        autoencoder = None
        if source.is_file():
            unet, autoencoder, encoders = _read(source, lambda path: _single_file(path, configs, dtype))
        else:
            unet = _part(UNet2DConditionModel, source / "unet", dtype)
            parts = zip(("text_encoder", "text_encoder_2"), (CLIPTextModel, CLIPTextModelWithProjection), strict=True)
            encoders = [_part(kind, source / part, dtype) for part, kind in list(parts)[: len(names)]]
        if other_vae is not None and other_vae.is_file():
            autoencoder = _read(other_vae, lambda path: _single_vae(path, configs, dtype))
        elif autoencoder is None or other_vae is not None:
            folder = other_vae or source
            autoencoder = _part(AutoencoderKL, folder / "vae" if (folder / "vae").is_dir() else folder, dtype)
        base = Base(autoencoder, unet, TextEncoders(tokenizers, encoders), dict(scheduler))
        for file in additions:
            add_to_base(base, file)
    return base


def _config(folder: Path, load: Callable[[Path], Any]) -> dict[str, Any]:
    config = _read(folder, load)
    if not isinstance(config, dict):
        raise UserError(
            f"base model: the config in {folder} is a {type(config).__name__}, not an object; copy it again"
        )
    return config


def check_scheduler(config: dict[str, Any], where: Path) -> None:
    """Refuse a scheduler config that is not supported, before gigabytes are read.

    Raises:
        UserError: a key is missing, or a value is not implemented.
    """
    build(Annotated[int, Range(1, 100_000)], config.get("num_train_timesteps", 1000), f"num_train_timesteps in {where}")
    try:
        NoiseSchedule(config)
    except KeyError as error:
        raise UserError(
            f"base model: the scheduler config in {where} lacks {error}; add the value that its authors used"
        ) from None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"base model: the scheduler config in {where} is not supported: {error}") from None


def check_unet(config: dict[str, Any], where: Path) -> None:
    """Refuse a U-Net whose conditioning is not implemented, before gigabytes are read.

    Raises:
        UserError: the U-Net expects an input that UniLDiff does not give.
    """
    needs = {
        "time_cond_proj_dim": "a guidance embedding (a latent consistency model); use the base it was distilled from",
        "class_embed_type": "class labels",
        "encoder_hid_dim_type": "projected image or text embeddings",
        "addition_embed_type": "additional embeddings other than SDXL's",
    }
    for key, what in needs.items():
        if config.get(key) not in ((None, "text_time") if key == "addition_embed_type" else (None,)):
            raise UserError(f"base model: the U-Net in {where} sets {key} to {config[key]!r}: it needs {what}")


def _part(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load one part; the files must hold exactly the weights of its config.

    Raises:
        UserError: a file or a weight is missing.
    """
    files = weight_files(folder)
    options: dict[str, Any] = {"variant": files.variant, "use_safetensors": files.safetensors, "local_files_only": True}
    if issubclass(kind, ModelMixin):  # diffusers; without accelerate it would warn about its other way of loading
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    else:
        options["dtype"] = dtype
    model, info = _read(folder, lambda path: kind.from_pretrained(path, output_loading_info=True, **options))
    faults = {
        key: sorted(map(str, info.get(key, ()))) for key in ("missing_keys", "mismatched_keys", "unexpected_keys")
    }
    faults["unexpected_keys"] = [key for key in faults["unexpected_keys"] if not key.endswith("position_ids")]
    for what, keys in faults.items():
        if keys:
            raise UserError(
                f"base model: {folder} does not fit its config.json: {len(keys)} {what.replace('_', ' ')}, {keys[0]} the "
                "first; copy or fetch it again"
            )
    return model


def _read(path: Path, load: Callable[[Path], Any]) -> Any:
    """Return ``load(path)``; errors of the libraries (invalid JSON, wrong shapes, ...) become one line with the path."""
    try:
        return load(path)
    except UserError:
        raise
    except Exception as error:  # damaged files make the libraries fail in any way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"base model: {path} cannot be loaded ({reason}); copy or fetch it again") from error


def _single_vae(path: Path, configs: Path, dtype: torch.dtype) -> Any:
    check_whole(path)
    options: dict[str, Any] = {"config": str(configs), "subfolder": "vae", "torch_dtype": dtype}
    return AutoencoderKL.from_single_file(str(path), **options, low_cpu_mem_usage=False, local_files_only=True)


def _single_file(path: Path, configs: Path, dtype: torch.dtype) -> tuple[Any, Any, list[Any]]:
    """Return U-Net, VAE and text encoders of a checkpoint in the layout that SDXL was published in."""
    from diffusers import StableDiffusionXLPipeline  # slow to import and rarely needed

    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(path), config=str(configs), torch_dtype=dtype, local_files_only=True
    )
    return pipeline.unet, pipeline.vae, [pipeline.text_encoder, pipeline.text_encoder_2]


def _tokenizer(folder: Path) -> CLIPTokenizer:
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise UserError(f"base model: {folder} has no vocab.json; copy or fetch it again")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
