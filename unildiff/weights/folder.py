"""Folders of weights in diffusers' layout: a base model's parts, and beside them the parts that UniLDiff adds.

``unildiff.json`` holds the network's sizes and switches; ``lq_encoder/``, ``fusion/`` and ``decoder/`` hold one
safetensors file each.
"""

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import nn

from unildiff.core.base import Base
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.utils.errors import UserError
from unildiff.utils.files import read_json
from unildiff.utils.quiet import quiet
from unildiff.utils.validation import build_dataclass
from unildiff.weights.base import load_base
from unildiff.weights.checksums import verify_checksums

CONFIG = "unildiff.json"
"""Name of the file with the network's config; a folder that has it is a complete model."""
PARTS = ("vae", "unet", "scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
"""Subfolders of a diffusers folder."""


def save_base(base: Base, folder: Path) -> None:
    """Write a diffusers folder with safetensors in the weights' own dtype; files of an earlier model are removed."""
    with quiet(), _replaced(folder):
        base.vae.save_pretrained(folder / "vae")
        base.unet.save_pretrained(folder / "unet")
        # from_config: published configs hold keys of other schedulers, which the class itself refuses.
        EulerDiscreteScheduler.from_config(base.scheduler).save_pretrained(folder / "scheduler")
        for index, (tokenizer, encoder) in enumerate(zip(base.text.tokenizers, base.text.encoders, strict=True)):
            suffix = "" if index == 0 else f"_{index + 1}"
            tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
            encoder.save_pretrained(folder / f"text_encoder{suffix}")  # type: ignore[operator]


@contextmanager
def _replaced(folder: Path) -> Iterator[None]:
    """Remove files of an earlier model in ``folder`` that the new one does not have: shards, a second text encoder."""
    parts = [folder / name for name in PARTS] if (folder / CONFIG).is_file() else []
    before = [path for part in parts for path in part.glob("*")]
    for path in before:
        os.utime(path, (0, 0))  # no clock is too coarse to tell what is written from now on
    yield
    for path in before:
        if path.exists() and path.stat().st_mtime == 0:
            path.unlink()
    for part in parts:
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()


def save_model(model: UniLDiff, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a folder that ``load_model`` reads, replacing an earlier one; the model stays usable."""
    base = Base(model.vae, model.unet.to_diffusers(), model.text, model.scheduler_config)
    try:
        save_base(base if model.vae.dtype == model.unet.rest.dtype == dtype else _as_dtype(base, dtype), folder)
    finally:
        model.unet.rest.conv_in = nn.Identity()
    for name, part in model.added_parts().items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().to(dtype).contiguous() for key, value in part.state_dict().items()}
        save_file(state, folder / name / "model.safetensors")
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def _as_dtype(base: Base, dtype: torch.dtype) -> Base:
    """Return a copy of the base's weights in another dtype, sharing configs."""
    vae, unet, text = (copy.deepcopy(part).to(dtype) for part in (base.vae, base.unet, base.text))
    return Base(vae, unet, text, base.scheduler)


def read_network(folder: Path) -> NetworkConfig:
    """Return the network of a folder that ``save_model`` wrote.

    Raises:
        UserError: its ``unildiff.json`` is missing, damaged or of another version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"model: {folder} has no {CONFIG}; give a folder made by `unildiff export`, or tiny")
    return stored_network_config(read_json(path, "model"), f"model: {path}")


def stored_network_config(values: Any, where: str) -> NetworkConfig:
    """Return the network settings that ``unildiff.json`` or a checkpoint holds as plain values.

    Args:
        values: the plain values.
        where: location shown in error messages.

    Raises:
        UserError: a setting is missing, unknown or out of range.
    """
    try:
        if isinstance(values, dict) and (missing := {"fusion", "detail"} - values.keys()):
            raise UserError(f"network lacks the key {min(missing)}")
        return build_dataclass(NetworkConfig, values, "network")
    except UserError as error:
        raise UserError(f"{where}: {error}; it is damaged, or another version of unildiff wrote it") from None


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> UniLDiff:
    """Load a folder that ``save_model`` wrote.

    Raises:
        UserError: if a part is missing or does not fit.
    """
    network = read_network(folder)
    model = UniLDiff(load_base(str(folder), dtype), network)
    load_parts(model, folder)
    return model.to(dtype)


def load_parts(model: UniLDiff, folder: Path) -> None:
    """Fill LQ encoder, fusion and decoder from a folder that ``save_model`` wrote.

    Raises:
        UserError: if a part is missing or does not fit.
    """
    verify_checksums(folder)
    for name, part in model.added_parts().items():
        path = folder / name / "model.safetensors"
        if not path.is_file():
            raise UserError(f"model: {path} is missing; export the model again")
        try:
            stored = load_file(path)
        except Exception as error:  # damaged files make the library fail in several ways
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model: {path} is damaged ({reason}); copy it or export the model again") from error
        if missing := sorted(part.state_dict().keys() - stored.keys()):
            raise UserError(
                f"model: {path} does not fit its config: it lacks {', '.join(missing[:3])} ({len(missing)} in all); "
                "another version of unildiff made it, or another config: train that part again, or use that version"
            )
        try:
            part.load_state_dict(stored)
        except RuntimeError as error:
            raise UserError(f"model: {path} does not fit its config ({str(error).splitlines()[0]})") from error
