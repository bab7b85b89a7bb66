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
from huggingface_hub import snapshot_download
from torch import Tensor

from unildiff.core.model import UniLDiff
from unildiff.core.unet import UNetContext
from unildiff.weights.checksums import CHECKSUMS
from unildiff.weights.community import PIPELINE, pipeline_source
from unildiff.weights.folder import CONFIG, PARTS
from unildiff.weights.load import load_restorer

CARD = "README.md"
"""Name of the model card in a folder."""
FILES = ["*.json", "*.txt", "*.safetensors", "*.py", CARD]
"""Files of a repository that an exported folder consists of."""
_LOADER = "network/loader.py"
_LOADER_CODE = '''"""The component `network` of `model_index.json`, which brings all parts of the model."""

from unildiff.weights.components import StoredModel  # noqa: F401
'''


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
        return load_restorer(str(_complete(Path(folder))), torch_dtype or torch.float32)


def _complete(component: Path) -> Path:
    """Return the exported folder that holds a component, with all files: diffusers fetches only some of a repository's."""
    folder = component.parent if component.name == "network" else component
    repository = folder.parents[1].name
    if (folder / CONFIG).is_file() or folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return folder
    repo = repository.removeprefix("models--").replace("--", "/", 1)
    return Path(snapshot_download(repo, revision=folder.name, cache_dir=folder.parents[2], allow_patterns=FILES))


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
    """Write ``model_index.json`` and the code that it names, by which diffusers and the hub know what a folder holds."""
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "UniLDiffPipeline"],
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "network": ["loader", "StoredModel"],
    }
    index |= {name: [None, None] for name in ("vae", "text", "lq_encoder", "unet", "decoder")}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / PIPELINE).write_text(pipeline_source(), encoding="utf-8")
    (folder / _LOADER).parent.mkdir(exist_ok=True)
    (folder / _LOADER).write_text(_LOADER_CODE)


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
