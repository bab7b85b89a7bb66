"""Locate the files of a base and check that they are complete, before anything is loaded.

A base is a diffusers folder (one subfolder a part), a Hugging Face id of one, or a single-file checkpoint. Nothing here
reads a weight: a missing shard or a truncated file is found from names, headers and sizes, within milliseconds.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json
from unildiff.utils.paths import weights_path

WAY_ON = "give a diffusers folder with --model.base FOLDER, or train the tiny model: --config configs/tiny/joint.yaml"
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
_CONFIGS = ["model_index.json", "*/config.json", "tokenizer/*", "tokenizer_2/*", "scheduler/*"]
_WEIGHTS = ["unet/*.safetensors*", "vae/*.safetensors*", "text_encoder/*.safetensors*", "text_encoder_2/*.safetensors*"]
_VAE = ["config.json", "vae/config.json", "diffusion_pytorch_model*.safetensors*", "vae/*.safetensors*"]
_UNWANTED = ["*.non_ema*", "*openvino*", "*flax*", "*onnx*"]
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class WeightFiles:
    """Which files hold the weights of one part: their variant (``fp16``, or None) and whether they are safetensors."""

    variant: str | None
    safetensors: bool


def locate(name: str, vae: bool = False) -> Path:
    """Return the folder or single file that a base's name means; an id is fetched into the Hugging Face cache once.

    Args:
        name: ``tiny``, a folder, a file, or a Hugging Face id such as ``stabilityai/stable-diffusion-xl-base-1.0``.
        vae: only the VAE is needed.

    Raises:
        UserError: there is none, or it cannot be fetched.
    """
    path = weights_path(name) if name == "tiny" else Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in CHECKPOINT_SUFFIXES):
        return path
    if path.is_file():
        raise UserError(f"base model: {path} is not a model file ({', '.join(CHECKPOINT_SUFFIXES)}); {WAY_ON}")
    if name == "tiny":
        raise UserError(f"base model: the shipped tiny model is not in {path}; make it with `make tiny-weights`")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or path.suffix in CHECKPOINT_SUFFIXES:
        raise UserError(f"base model: no folder or file {name} (seen from {Path.cwd()}); {WAY_ON}")
    return _fetch(name, _VAE, _vae_is_complete) if vae else _fetch(name, [*_CONFIGS, *_WEIGHTS], _base_is_complete)


def cached(name: str) -> Path | None:
    """Return the folder in the Hugging Face cache that holds an id's files, complete or not; None without one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, HFValidationError):
        return None


def config_folder(single_file: Path) -> Path:
    """Return a folder with the configs and tokenizers for a single-file SDXL checkpoint: beside it, or SDXL's own.

    Raises:
        UserError: neither is there.
    """
    if _configs_are_complete(single_file.parent):
        return single_file.parent
    try:
        return _fetch(_SDXL, _CONFIGS, _configs_are_complete)
    except UserError as error:
        raise UserError(
            f"base model: {single_file} holds weights only; its tokenizers and configs are neither in {single_file.parent} "
            f"(model_index.json, unet/config.json, tokenizer/, ...) nor can they be fetched ({error})"
        ) from None


def weight_files(part: Path) -> WeightFiles:
    """Return which weight files of a part to load: full before variants, safetensors before pickles, all of them complete.

    Raises:
        UserError: there are none, a shard is missing, or one is truncated; the file is named.
    """
    if not (part / "config.json").is_file():
        raise UserError(f"base model: {part / 'config.json'} is missing; copy the folder again, or {WAY_ON}")
    for safetensors, suffix in ((True, ".safetensors"), (False, ".bin")):
        for variant in (None, *_variants(part, suffix)):
            if files := _files_of(part, suffix, variant):
                for file in files:
                    check_whole(file)
                return WeightFiles(variant, safetensors)
    raise UserError(f"base model: no weights (*.safetensors) in {part}; copy the folder again, or {WAY_ON}")


def check_whole(file: Path) -> None:
    """Raise a UserError if a weight file is missing, truncated, or of another kind than its suffix."""
    size = file.stat().st_size if file.is_file() else -1
    if size < 0:
        raise UserError(f"base model: {file} is missing; copy or fetch it again")
    if file.suffix != ".safetensors":
        if not zipfile.is_zipfile(file):
            raise UserError(
                f"base model: {file} is truncated or not a checkpoint ({size:,} bytes); copy or fetch it again"
            )
        return
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header: dict[str, Any] = parse_json(stream.read(length)) if 0 < length < size else {"": None}
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise UserError(
                f"base model: {file} is truncated or not a safetensors file ({size:,} bytes); copy or fetch it again"
            ) from None
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise UserError(f"base model: {file} is truncated ({size:,} of {expected:,} bytes); copy or fetch it again")


def _variants(part: Path, suffix: str) -> list[str]:
    """Return the variants that a part's weight files name, fp16 first."""
    found = set()
    for stem in _STEMS:
        for file in part.glob(f"{stem}.*{suffix}"):
            found.add(file.name.removeprefix(f"{stem}.").removesuffix(suffix).partition("-")[0])
        for file in part.glob(f"{stem}{suffix}.index.*.json"):
            found.add(file.name.removeprefix(f"{stem}{suffix}.index.").removesuffix(".json"))
    return sorted(found - {""}, key=lambda name: (name != "fp16", name))


def _files_of(part: Path, suffix: str, variant: str | None) -> list[Path]:
    """Return the weight files of a variant, as one file or as the shards of an index; none without either."""
    dotted = f".{variant}" if variant else ""
    for stem in _STEMS:
        single, index = part / f"{stem}{dotted}{suffix}", part / f"{stem}{suffix}.index{dotted}.json"
        if index.is_file():
            try:
                shards = sorted(set(parse_json(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise UserError(f"base model: {index} is truncated or not an index; copy or fetch it again") from None
            return [part / shard for shard in shards]
        if single.is_file():
            return [single]
    return []


def _fetch(repo: str, allowed: list[str], complete: Callable[[Path], bool]) -> Path:
    """Return the cached folder of an id, fetched if it is incomplete; offline mode (HF_HUB_OFFLINE) is respected.

    Args:
        repo: the id.
        allowed: patterns of the files that are needed.
        complete: returns whether a folder has all of them.

    Raises:
        UserError: it is not there and cannot be fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    there = cached(repo)
    if there is not None and complete(there):
        return there
    large = "*.safetensors" if allowed is _VAE else "*/*.safetensors"
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            folder = Path(snapshot_download(repo, allow_patterns=allowed, ignore_patterns=["*.fp16*", *_UNWANTED]))
            if not complete(folder):  # only half-precision files are published
                folder = Path(snapshot_download(repo, allow_patterns=allowed, ignore_patterns=_UNWANTED))
            return folder
        except (OSError, HFValidationError) as error:
            reason = str(error).strip().partition("\n")[0][:100]
    raise UserError(
        f"base model: {repo} is neither a folder here nor complete in {constants.HF_HUB_CACHE}, and cannot be fetched "
        f"({reason}); with a network connection run `hf download {repo} --include '*.json' '*.txt' '{large}' --exclude '*.fp16*'`; or {WAY_ON}"
    )


def _base_is_complete(folder: Path) -> bool:
    parts = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if (folder / "tokenizer_2").is_dir() else [])]
    return (folder / "scheduler").is_dir() and all(_has_weights(folder / part) for part in parts)


def _vae_is_complete(folder: Path) -> bool:
    return _has_weights(folder) or _has_weights(folder / "vae")


def _configs_are_complete(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("model_index.json", "unet/config.json", "tokenizer"))


def _has_weights(part: Path) -> bool:
    choices = [_files_of(part, ".safetensors", variant) for variant in (None, *_variants(part, ".safetensors"))]
    return any(files and all(file.is_file() for file in files) for files in choices)
