"""The restorer as a diffusers pipeline: ``UniLDiffPipeline.from_pretrained(folder)``, then ``pipeline(picture)``.

Axis letters: H/W pixels. Nothing here imports Lightning.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, EulerDiscreteScheduler
from diffusers.utils import BaseOutput
from PIL import Image, ImageOps
from torch import Tensor

from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.pixels import to_uint8
from unildiff.core.text import TextEncoders
from unildiff.core.unet import FusedUNet
from unildiff.data.batch import image_array
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.utils.paths import weights_path
from unildiff.weights.folder import save_model
from unildiff.weights.load import load_restorer
from unildiff.weights.restoring import restore_image

Picture = Image.Image | np.ndarray | Tensor
StepEnd = Callable[["UniLDiffPipeline", int, float, dict[str, Tensor]], dict[str, Tensor]]
CARD = "README.md"
_FILES = ["*.json", "*.txt", "*.safetensors", CARD]


@dataclass
class UniLDiffPipelineOutput(BaseOutput):  # type: ignore[misc]  # diffusers has no types
    """Restored pictures, of the type that was asked for and in the order given."""

    images: list[Any]


class UniLDiffPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Restores pictures of any size; the same pixels as ``unildiff restore``.

    Devices, dtypes, offloading of whole parts (``enable_model_cpu_offload``), progress bars and uploads work as in every
    diffusers pipeline. A folder on disk is that of ``unildiff export``.

    Attributes:
        network: sizes and switches of what is added to the base.
        card: the model card that is saved and uploaded with the weights, None without one.
    """

    model_cpu_offload_seq = "text->lq_encoder->vae->unet->decoder"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: AutoencoderKL,
        text: TextEncoders,
        lq_encoder: LQEncoder,
        unet: FusedUNet,
        decoder: DetailDecoder,
        scheduler: EulerDiscreteScheduler,
        network: NetworkConfig | None = None,
    ) -> None:
        """Args: the parts of a :class:`UniLDiff`, a scheduler for its config, and the network's sizes and switches."""
        super().__init__()
        self.register_modules(
            vae=vae, text=text, lq_encoder=lq_encoder, unet=unet, decoder=decoder, scheduler=scheduler
        )
        self.network = network or NetworkConfig(fusion=unet.fusion.config, detail=decoder.config)
        self.card: str | None = None

    @classmethod
    def from_model(cls, model: UniLDiff, card: str | None = None) -> "UniLDiffPipeline":
        """Return a pipeline over a model's own parts, with the model's card where it has one."""
        scheduler = EulerDiscreteScheduler.from_config(model.scheduler_config)
        made = cls(model.vae, model.text, model.lq_encoder, model.unet, model.decoder, scheduler, model.config)
        made.card = card
        return made

    @property
    def model(self) -> UniLDiff:
        """The restorer of this pipeline's parts."""
        return UniLDiff.from_parts(
            self.vae, self.text, self.lq_encoder, self.unet, self.decoder, dict(self.scheduler.config), self.network
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, torch_dtype: torch.dtype = torch.float32, **hub: Any
    ) -> "UniLDiffPipeline":
        """Load an exported folder, or a Hugging Face repository that holds one.

        Args:
            pretrained_model_name_or_path: ``tiny``, a folder, or an id.
            torch_dtype: of the weights.
            hub: ``revision``, ``cache_dir``, ``token``, ``local_files_only``, ... of ``huggingface_hub``.

        Raises:
            UserError: a part is missing, truncated or does not fit.
            TypeError: no such option of ``huggingface_hub``.
            OSError: an id cannot be fetched.
        """
        from huggingface_hub import snapshot_download

        if unknown := sorted(set(hub) - set(signature(snapshot_download).parameters)):
            raise TypeError(
                f"from_pretrained: no option {', '.join(unknown)}; there are torch_dtype and huggingface_hub's"
            )
        source = str(pretrained_model_name_or_path)
        if source != "tiny" and not Path(source).is_dir():
            source = snapshot_download(source, allow_patterns=_FILES, **hub)
        card = (weights_path(source) if source == "tiny" else Path(source)) / CARD
        return cls.from_model(
            load_restorer(source, torch_dtype), card.read_text(encoding="utf-8") if card.is_file() else None
        )

    def enable_sequential_cpu_offload(self, *args: Any, **settings: Any) -> None:
        """Refuse to offload layer by layer: routers and text encoders read weights outside a layer's own call.

        Raises:
            UserError: always.
        """
        raise UserError("pipeline: layers cannot be offloaded one by one; call enable_model_cpu_offload()")

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **hub: Any) -> None:
        """Write the folder that ``from_pretrained`` and ``unildiff restore --model`` read, in the pipeline's dtype.

        Args:
            save_directory: the folder, made where it is not there.
            push_to_hub: upload it too.
            hub: ``repo_id``, ``private``, ``token``, ``commit_message``, ``create_pr`` of diffusers' ``push_to_hub``.
        """
        folder = Path(save_directory)
        save_model(self.model, folder, self.dtype)
        write_index(folder, self.config)
        self._write_card(folder)
        if push_to_hub:
            repo = hub.pop("repo_id", folder.name)
            wanted = {key: hub[key] for key in ("private", "token", "commit_message", "create_pr") if key in hub}
            self.push_to_hub(repo, **wanted)

    def _upload_folder(self, working_dir: str | Path, *args: Any, **hub: Any) -> Any:
        """Upload what diffusers has written, with the model's card in the place of the blank one that it puts there."""
        self._write_card(Path(working_dir))
        return super()._upload_folder(working_dir, *args, **hub)

    def _write_card(self, folder: Path) -> None:
        if self.card is not None:
            (folder / CARD).write_text(self.card, encoding="utf-8")

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        prompt: str | Sequence[str] = "",
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        start: Literal["lq", "noise"] = "lq",
        last_timestep: int | None = None,
        tile_size: int | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
    ) -> UniLDiffPipelineOutput | tuple[list[Any]]:
        """Restore pictures, one after the other.

        Args:
            image: a picture or several, of any sizes: PIL images, uint8 arrays (H, W, 3), or tensors (3, H, W) in [0, 1].
            prompt: what is in the picture, one for all or one each; "" where it is not known.
            num_inference_steps: Euler steps.
            guidance_scale: strength of the prompt; without one it has no effect.
            generator: its seed (``initial_seed``) is the seed of the noise, which also depends on the picture; None is
                seed 0, as in ``unildiff restore``.
            start: sample from the noised picture (lq) or from noise alone.
            last_timestep: where the steps end, 0 for all the way; None is the model's own.
            tile_size: pixels of a tile's side; larger pictures are restored in overlapping tiles.
            output_type: ``pil``, ``np`` (arrays (H, W, 3) in [0, 1]) or ``pt`` (tensors (3, H, W) in [0, 1]).
            return_dict: return an output with ``images``, else a tuple of the list.
            callback_on_step_end: called after each step with (pipeline, step, timestep, {"latents": ...}); latents that it
                returns under that name are gone on with.

        Raises:
            ValueError: a setting, or a picture's type or shape, is not as said above.
            UserError: what the model makes of a picture is not finite.
        """
        pictures = [image] if isinstance(image, (Image.Image, np.ndarray, Tensor)) else list(image)
        prompts = _one_each(prompt, len(pictures), "prompt")
        generators = _one_each(generator, len(pictures), "generator")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; it must be pil, np or pt")
        settings = SamplingSettings(
            num_inference_steps, guidance_scale, start, last_timestep=last_timestep, tile_size=tile_size
        )
        model = self.model.eval()
        timesteps = model.with_own(settings).timesteps(model.schedule).tolist()
        results = []
        with self.progress_bar(total=num_inference_steps * len(pictures)) as bar:

            def step_end(index: int, latents: Tensor) -> Tensor | None:
                bar.update()
                if callback_on_step_end is None:
                    return None
                return callback_on_step_end(self, index, timesteps[index], {"latents": latents}).get("latents")

            for number, (picture, text, drawn) in enumerate(zip(pictures, prompts, generators, strict=True), 1):
                seed = 0 if drawn is None else drawn.initial_seed()
                restored = restore_image(
                    model,
                    as_array(picture),
                    text,
                    settings,
                    seed,
                    step_end,
                    self._execution_device,
                    f"picture {number}",
                )
                results.append(_as_output(restored, output_type))
        self.maybe_free_model_hooks()
        return UniLDiffPipelineOutput(results) if return_dict else (results,)


def as_array(picture: Picture) -> np.ndarray:
    """Return a picture as uint8 RGB (H, W, 3).

    Raises:
        ValueError: an array that is not uint8 (H, W, 3), or a tensor that is not finite (3, H, W) or (1, 3, H, W).
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith("I;16"):
            grey = (np.asarray(picture).astype(np.uint32) * 255 + 32767) // 65535
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    if isinstance(picture, Tensor):
        if picture.dim() == 4 and picture.shape[0] == 1:
            picture = picture[0]
        if picture.dim() != 3 or picture.shape[0] != 3 or not picture.is_floating_point():
            raise ValueError(
                f"a tensor picture must be floating (3, H, W) in [0, 1], got {picture.dtype} {picture.shape}"
            )
        if not picture.isfinite().all():
            raise ValueError("a tensor picture must be finite, got NaN or infinity")
        return image_array(to_uint8(picture * 2 - 1))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"an array picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    return picture


def write_index(folder: Path, config: Any) -> None:
    """Write ``model_index.json``, by which diffusers and the hub know what a folder holds."""
    parts = {key: list(value) for key, value in dict(config).items() if not key.startswith("_")}
    index = {"_class_name": "UniLDiffPipeline", "_diffusers_version": diffusers.__version__} | parts
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _one_each(value: Any, count: int, name: str) -> list[Any]:
    if value is None or isinstance(value, (str, torch.Generator)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values of {name} for {count} pictures; give one, or one each")
    return list(value)


def _as_output(picture: Tensor, output_type: str) -> Any:
    if output_type == "pil":
        return Image.fromarray(image_array(picture))
    if output_type == "np":
        return image_array(picture).astype(np.float32) / 255
    return picture.float() / 255
