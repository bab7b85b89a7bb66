"""The restorer as a diffusers pipeline: ``UniLDiffPipeline.from_pretrained(folder)``, then ``pipeline("photo.jpg")``.

Axis letters: N images, H/W pixels, C latent channels, h/w latent height and width. Nothing here imports Lightning.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, EulerDiscreteScheduler
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor

from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder
from unildiff.core.model import Given, UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.text import TextEncoders
from unildiff.core.unet import FusedUNet
from unildiff.data.images.stored import eight_bits
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.utils.keys import image_key
from unildiff.utils.locks import replacing_folder
from unildiff.utils.paths import weights_path
from unildiff.weights.checksums import write_checksums
from unildiff.weights.components import CARD, FILES, Interruptible, carry_over, check_files, device_of, write_index
from unildiff.weights.folder import save_model
from unildiff.weights.load import load_restorer
from unildiff.weights.pipeline_inputs import (
    CALLBACK_TENSORS,
    ImageLike,
    UniLDiffPipelineOutput,
    as_output,
    check_call,
    copy_seed,
    embedding_at,
    image_list,
    one_each,
    seeds_of,
)
from unildiff.weights.restoring import as_levels, to_unit_range

StepEnd = Callable[["UniLDiffPipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]
_VAE_TILE = 512  # pixels; tiles of enable_vae_tiling()


class UniLDiffPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Restores images of any size; the same pixels as ``unildiff restore``.

    Devices, dtypes, offloading of whole parts (``enable_model_cpu_offload``), progress bars and uploads work as in every
    diffusers pipeline. A folder on disk is that of ``unildiff export``. Sampling is Euler's: the scheduler must be an
    ``EulerDiscreteScheduler``, whose config is followed.

    Attributes:
        card: model card that is saved and uploaded with the weights, None without one.
    """

    model_cpu_offload_seq = "lq_encoder->vae->text->unet->decoder"
    _callback_tensor_inputs = CALLBACK_TENSORS
    _optional_components = ["vae", "text", "lq_encoder", "unet", "decoder", "scheduler", "network"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL | None,
        text: TextEncoders | None,
        lq_encoder: LQEncoder | None,
        unet: FusedUNet | None,
        decoder: DetailDecoder | None,
        scheduler: EulerDiscreteScheduler | None,
        network: NetworkConfig | UniLDiff | None,
    ) -> None:
        """Create a pipeline of the parts of a :class:`UniLDiff`.

        No part has a default: diffusers replaces a part on loading (``scheduler=``) only if its argument is required.

        Args:
            vae: the base's VAE.
            text: its text encoders.
            lq_encoder: encoder of the degraded image.
            unet: the U-Net with the fusion.
            decoder: the decoder with the detail experts.
            scheduler: scheduler whose config is followed.
            network: sizes and switches of what is added to the base, or a whole model that fills every part not given.
        """
        super().__init__()
        if isinstance(network, UniLDiff):
            model, network = network, network.config
            vae, text = vae or model.vae, text or model.text
            lq_encoder, unet, decoder = lq_encoder or model.lq_encoder, unet or model.unet, decoder or model.decoder
            scheduler = scheduler or EulerDiscreteScheduler.from_config(model.scheduler_config)
        parts = {"vae": vae, "text": text, "lq_encoder": lq_encoder, "unet": unet, "decoder": decoder}
        if missing := [name for name, part in {**parts, "scheduler": scheduler}.items() if part is None]:
            raise ValueError(f"parts are missing: {', '.join(missing)}; use from_pretrained, from_model or components")
        assert unet is not None and decoder is not None
        network = network or NetworkConfig(fusion=unet.fusion.config, detail=decoder.config)
        self.register_modules(**parts, scheduler=scheduler, network=network)
        self.card: str | None = None
        self._interrupt = False
        self._tile_size: int | None = None

    @classmethod
    def from_model(cls, model: UniLDiff, card: str | None = None, **replaced: Any) -> "UniLDiffPipeline":
        """Return a pipeline over a model's parts, of which some may be replaced, with the model's card if it has one."""
        parts: dict[str, Any] = {**dict.fromkeys(cls._optional_components), "network": model}
        made = cls(**parts | replaced)
        made.card = card
        return made

    @property
    def model(self) -> UniLDiff:
        """The restorer of this pipeline's parts.

        Raises:
            ValueError: the scheduler is not an Euler scheduler, or its config is not one that is implemented.
        """
        if type(self.scheduler) is not EulerDiscreteScheduler:
            raise ValueError(
                f"the scheduler is {type(self.scheduler).__name__}; only EulerDiscreteScheduler is implemented"
            )
        parts = (self.vae, self.text, self.lq_encoder, self.unet, self.decoder)
        return Interruptible.from_parts(*parts, dict(self.scheduler.config), self.network)

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback sets it through ``pipe._interrupt = True``."""
        return self._interrupt

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        torch_dtype: torch.dtype | None = None,
        *,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        device_map: str | None = None,
        trust_remote_code: bool = False,
        low_cpu_mem_usage: bool = True,
        **options: Any,
    ) -> "UniLDiffPipeline":
        """Load an exported folder, or a Hugging Face repository that holds one.

        Args:
            pretrained_model_name_or_path: ``tiny``, a folder, or an id.
            torch_dtype: type of the weights, float32 by default.
            dtype: the same under diffusers' newer name.
            variant: refused, as exported folders have one set of weights.
            use_safetensors: must not be False.
            device_map: device of the whole pipeline: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` and ``balanced`` for the GPU
                if there is one.
            trust_remote_code: not needed here; accepted because ``DiffusionPipeline.from_pretrained`` needs it.
            low_cpu_mem_usage: accepted and without effect.
            options: components that replace the folder's, e.g. ``scheduler=``, and ``revision``, ``cache_dir``, ``token``,
                ``local_files_only``, ... of ``huggingface_hub``.

        Raises:
            UserError: a part is missing, truncated or does not fit.
            ValueError: files of another kind are requested, or the device map is not a device.
            TypeError: no such option.
            OSError: an id cannot be fetched.
        """
        replaced = {name: options.pop(name) for name in cls._optional_components if name in options}
        if unknown := sorted(set(options) - set(signature(snapshot_download).parameters)):
            raise TypeError(
                f"from_pretrained: no option {', '.join(unknown)}; there are dtype, torch_dtype, variant, use_safetensors, "
                "device_map, the components, and huggingface_hub's"
            )
        check_files(use_safetensors, variant)
        source = str(pretrained_model_name_or_path)
        if source != "tiny" and not Path(source).is_dir():
            source = snapshot_download(source, allow_patterns=FILES, **options)
        card = (weights_path(source) if source == "tiny" else Path(source)) / CARD
        model = load_restorer(source, dtype or torch_dtype or torch.float32)
        made = cls.from_model(model, card.read_text(encoding="utf-8") if card.is_file() else None, **replaced)
        return made if device_map is None else made.to(device_of(device_map))

    def enable_vae_tiling(self) -> None:
        """Restore images larger than 512 pixels in tiles, unless a call gives ``tile_size``; not only the VAE is tiled."""
        self._tile_size = _VAE_TILE

    def disable_vae_tiling(self) -> None:
        """Choose tiles by model and image again."""
        self._tile_size = None

    def enable_vae_slicing(self) -> None:
        """Do nothing: images always go through the VAE one by one."""

    def disable_vae_slicing(self) -> None:
        """Do nothing, see :meth:`enable_vae_slicing`."""

    def enable_model_cpu_offload(self, *args: Any, **settings: Any) -> None:
        """See diffusers; the U-Net also leaves the device for decoding, which runs the LQ encoder again."""
        super().enable_model_cpu_offload(*args, **settings)
        hooks = {id(hook.model): hook for hook in self._all_hooks}
        hooks[id(self.lq_encoder)].hook.prev_module_hook = hooks[id(self.unet)]

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
            push_to_hub: upload it too. The folder appears whole or not at all, in the place of an earlier one.
            hub: ``repo_id``, ``private``, ``token``, ``commit_message``, ``create_pr`` of diffusers' ``push_to_hub``.
        """
        folder = Path(save_directory)
        try:
            with replacing_folder(folder) as fresh:
                save_model(self.model, fresh, self.dtype)
                write_index(fresh)
                self._write_card(fresh)
                write_checksums(fresh)
                carry_over(folder, fresh)
        except SafetensorError as error:  # the disk is full, or the like
            raise UserError(f"{folder} was not written ({error}); what was there before is unchanged") from error
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
        image: ImageLike | Sequence[ImageLike],
        prompt: str | Sequence[str] = "",
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        start: Literal["lq", "noise"] = "lq",
        last_timestep: int | None = None,
        tile_size: int | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        *,
        timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> UniLDiffPipelineOutput | tuple[Any]:
        """Restore images, one after the other.

        Args:
            image: one or several, of any sizes: file names, PIL images, arrays (H, W, 3) of uint8, uint16 or floats in
                [0, 1], tensors (3, H, W) in [0, 1], and batches of them.
            prompt: what the image shows, one for all or one each; several for one image restore it under each.
            num_inference_steps: Euler steps.
            guidance_scale: strength of the prompt; without a prompt it has no effect.
            generator: a fresh one gives its seed (``initial_seed``), as ``unildiff restore --seed``, and is advanced; the
                noise also depends on the image. None is seed 0.
            start: sample from the noised image (lq) or from noise alone.
            last_timestep: timestep at which the steps end, 0 for all; None is the model's own.
            tile_size: side of the tiles in pixels in which larger images are restored.
            output_type: ``pil``, ``np`` (N, H, W, 3) in [0, 1], ``pt`` (N, 3, H, W) in [0, 1], or ``latent``
                (N, C, h, w); images of several sizes are a list.
            return_dict: return an output with ``images``, else a tuple of them.
            callback_on_step_end: called after each step with (pipeline, step, timestep, {"latents": ...}); latents that it
                returns under that name replace the current ones. Setting ``pipeline._interrupt`` skips the other steps.
            timestep_spacing: spacing of the steps; None is the scheduler's own.
            negative_prompt: what guidance leads away from, instead of the empty prompt.
            num_images_per_prompt: results per image; the first is that of the seed, the others have seeds of their own.
            latents: standard normal noise (N, C, h, w) of the padded images instead of the seed's.
            prompt_embeds: embedded prompts (N, S, D) instead of ``prompt``.
            pooled_prompt_embeds: pooled embeddings (N, P) that SDXL needs with them.
            negative_prompt_embeds: likewise for ``negative_prompt``.
            negative_pooled_prompt_embeds: likewise.
            callback_on_step_end_tensor_inputs: tensors that the callback is given; there are the latents.

        Raises:
            ValueError: an argument is not as described above.
            UserError: a file cannot be read, or a result is not finite.
        """
        check_call(output_type, callback_on_step_end_tensor_inputs, num_images_per_prompt, prompt, prompt_embeds)
        images = image_list(image)
        prompts = len(prompt_embeds) if prompt_embeds is not None else 1 if isinstance(prompt, str) else len(prompt)
        if len(images) == 1 and prompts > 1:
            images = images * prompts
        captions = one_each(prompt if prompt_embeds is None else "", len(images), "prompt")
        negatives = one_each(negative_prompt, len(images), "negative_prompt")
        seeds = seeds_of(generator, len(images))
        tile = tile_size if tile_size is not None else self._tile_size
        settings = SamplingSettings(num_inference_steps, guidance_scale, start, (0, 1), last_timestep, tile)
        settings = replace(settings, timestep_spacing=timestep_spacing)
        model = self.model.eval()
        assert isinstance(model, Interruptible)
        timesteps = model.with_own(settings).timesteps(model.schedule).tolist()
        positive = (prompt_embeds, pooled_prompt_embeds)
        negative = (negative_prompt_embeds, negative_pooled_prompt_embeds)
        results: list[Tensor | np.ndarray] = []
        self._interrupt = model.stopped = False
        total = len(images) * num_images_per_prompt
        with self.progress_bar(total=num_inference_steps * total) as bar:

            def step_end(index: int, current: Tensor) -> Tensor | None:
                bar.update()
                if model.stopped:
                    return model.kept
                returned = None
                if callback_on_step_end is not None:
                    returned = callback_on_step_end(self, index, timesteps[index], {"latents": current})
                model.stopped, model.kept = self._interrupt, (returned or {}).get("latents", current)
                return model.kept

            for number in range(total):
                index, copy = divmod(number, num_images_per_prompt)
                model.stopped = self._interrupt
                noise = None if latents is None else latents[number : number + 1] if len(latents) == total else latents
                if noise is not None:
                    noise = noise.to(self._execution_device, torch.float32)
                given = Given(noise, embedding_at(positive, index), embedding_at(negative, index))
                if negatives[index] is not None and given.negative is None:
                    given = Given(noise, given.text, model.embed([negatives[index]]))
                lq = to_unit_range(images[index])[None].to(self._execution_device, self.dtype)
                key = image_key(copy_seed(seeds[index], copy), eight_bits(images[index]))
                made = model.restoration(lq, [captions[index]], [key], settings, callback=step_end, given=given)
                if output_type == "latent":
                    results.append(made.latents[0])
                else:
                    results.append(as_levels(made.image[0], f"image {index + 1}"))
        self.maybe_free_model_hooks()
        output = as_output(results, output_type)
        return UniLDiffPipelineOutput(output) if return_dict else (output,)
