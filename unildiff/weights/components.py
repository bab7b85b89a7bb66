"""How diffusers loads an exported folder: as one component, ``network``, that brings all parts with it.

``DiffusionPipeline.from_pretrained`` imports this module by the name that ``model_index.json`` gives. It looks for a class
derived from ``ModelMixin`` here and calls its ``from_pretrained`` with the folder.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from torch import Tensor

from unildiff.core.model import UniLDiff
from unildiff.core.unet import UNetContext
from unildiff.weights.checksums import CHECKSUMS
from unildiff.weights.folder import CONFIG, PARTS
from unildiff.weights.load import load_restorer

CARD = "README.md"
"""Name of the model card in a folder."""
_LOADER = ["unildiff.weights.components", "StoredModel"]
_CODE = '''"""Lets `diffusers.DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)` load this folder.

The package is needed: `pip install unildiff`.
"""

from unildiff.weights.pipeline import UniLDiffPipeline  # noqa: F401
'''
"""``pipeline.py`` of an exported folder."""


class StoredModel(ModelMixin):  # type: ignore[misc]  # diffusers has no types
    """Loads a whole model where diffusers loads a component."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, torch_dtype: torch.dtype | None = None, **settings: Any) -> UniLDiff:
        """Return the model of an exported folder.

        Args:
            folder: the folder.
            torch_dtype: type of the weights, float32 by default.
            settings: what diffusers passes to every model; only ``use_safetensors`` and ``variant`` are looked at.

        Raises:
            ValueError: files of another kind than safetensors, or a variant, are requested.
        """
        check_files(settings.get("use_safetensors"), settings.get("variant"))
        return load_restorer(str(folder), torch_dtype or torch.float32)


def check_files(use_safetensors: bool | None, variant: str | None) -> None:
    """Refuse files that an exported folder does not have.

    Raises:
        ValueError: see above.
    """
    if use_safetensors is False:
        raise ValueError("use_safetensors is False; exported folders hold safetensors only")
    if variant is not None:
        raise ValueError(
            f"variant is {variant!r}; exported folders hold one set of weights, choose its type with dtype="
        )


def write_index(folder: Path) -> None:
    """Write ``model_index.json`` and ``pipeline.py``, by which diffusers and the hub know what a folder holds."""
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "UniLDiffPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "network": _LOADER,
    }
    index |= {name: [None, None] for name in ("vae", "text", "lq_encoder", "unet", "decoder")}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "pipeline.py").write_text(_CODE)


class Interruptible(UniLDiff):
    """A model whose U-Net is not run any more once ``stopped``."""

    stopped = False
    kept: Tensor | None = None

    def predict(self, latents: Tensor, timesteps: Tensor, context: UNetContext) -> Tensor:
        """See :meth:`UniLDiff.predict`."""
        if self.stopped:
            return latents.new_zeros(context.text.tokens.shape[0], *latents.shape[1:])
        return super().predict(latents, timesteps, context)


def device_of(device_map: str) -> str:
    """Return the device that ``from_pretrained(device_map=...)`` means."""
    if device_map in ("auto", "balanced"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(device_map))
    except (RuntimeError, TypeError):
        raise ValueError(f"device_map is {device_map!r}; give a device (cpu, cuda, cuda:1), auto or balanced") from None


def carry_over(old: Path, fresh: Path) -> None:
    """Copy what is not part of a model (notes, a .git folder) from the folder that is replaced."""
    model_parts = {*PARTS, "lq_encoder", "fusion", "decoder", CONFIG, CHECKSUMS, CARD, "model_index.json"}
    for path in old.iterdir() if old.is_dir() else ():
        if path.name in model_parts or (fresh / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, fresh / path.name, symlinks=True)
        else:
            shutil.copy2(path, fresh / path.name, follow_symlinks=False)
