"""One training step on shapes: what a device holds at its fullest, and how much it computes.

Axis letters: B batch, H/W pixels, h/w latent height and width, L text tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unildiff.core import moe
from unildiff.core.encoders import encode_latents
from unildiff.core.model import UniLDiff
from unildiff.core.moe import Routing, auxiliary_loss
from unildiff.core.network import NetworkConfig
from unildiff.core.text import TextEmbedding
from unildiff.diffusion.noise import KeyedNoise
from unildiff.metrics.ssim import training_ssim
from unildiff.planning.shapes import BaseSizes, shaped_model
from unildiff.planning.tracker import Tracker
from unildiff.weights.lora import LoRAConfig, halve_frozen, is_adapter
from unildiff.weights.stage_parts import TRAINED

Stage = Literal["alignment", "joint", "joint_lora", "decoder"]


@dataclass(frozen=True)
class StepSettings:
    """What one device does in one micro-batch.

    Attributes:
        stage: which of the three.
        batch_size: B.
        crop_size: H and W.
        compute_dtype: of autocast; None computes in ``weight_dtype``.
        weight_dtype: of the weights.
        checkpointing: activations are made again in the backward pass.
        sampling_passes: U-Net passes without gradients before the step (decoder stage), at batch B each.
        cached_passes: U-Net passes that a sample's latents take once before training (decoder stage with a cache).
        lora: adapters in the U-Net, and how what is frozen is kept; None without.
    """

    stage: Stage
    batch_size: int
    crop_size: int
    compute_dtype: torch.dtype | None = None
    weight_dtype: torch.dtype = torch.float32
    checkpointing: bool = True
    sampling_passes: int = 0
    cached_passes: int = 0
    lora: LoRAConfig | None = None


@dataclass(frozen=True)
class StepCost:
    """What a step takes.

    Attributes:
        parameters: numbers by part.
        trained: trained numbers by part.
        weights: bytes of parameters and buffers.
        gradients: bytes of the gradients.
        activations: bytes above weights and gradients at the fullest moment.
        flops: floating-point operations.
        cached_flops: those of one sample's latents in the cache, without the encoders; 0 without a cache.
        latent_bytes: of one sample's latents on disk.
        skip_bytes: of one sample's skips on disk.
        caption_bytes: of one embedded caption on disk.
    """

    parameters: dict[str, int]
    trained: dict[str, int]
    weights: int
    gradients: int
    activations: int
    flops: int
    cached_flops: int = 0
    latent_bytes: int = 0
    skip_bytes: int = 0
    caption_bytes: int = 0


def measure_step(sizes: BaseSizes, network: NetworkConfig, settings: StepSettings) -> StepCost:
    """Return the cost of one micro-batch, forward and backward, with gradients of an earlier one already there.

    Routing is taken to be even: the shapes do not say which expert is chosen.
    """
    with FakeTensorMode(), _even_routing():
        model = shaped_model(sizes, network, settings.weight_dtype, settings.lora)
        prepare(model, settings)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        tracker = Tracker()
        tracker.own([*model.parameters(), *model.buffers()])
        weights = tracker.live
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        tracker.own(parameter.grad for parameter in trained if parameter.grad is not None)
        static = tracker.live
        lq, gt = (torch.empty(settings.batch_size, 3, settings.crop_size, settings.crop_size) for _ in range(2))
        autocast = torch.autocast("cpu", settings.compute_dtype) if settings.compute_dtype else nullcontext()
        with tracker:
            with autocast:
                loss = _LOSSES[settings.stage](model, lq, gt, settings)
            loss.backward()  # type: ignore[no-untyped-call]
        flops = tracker.flops
        if settings.sampling_passes > 1:  # one of them was run
            flops += (settings.sampling_passes - 1) * _pass_flops(model, settings, autocast)
        cached_flops = 0
        if settings.cached_passes:
            cached_flops = settings.cached_passes * _pass_flops(model, settings, autocast) // settings.batch_size
        latent_bytes, skip_bytes = _stored_bytes(model, settings)
        text = _text(model, 1)
        caption_bytes = 4 * sum(value.numel() for value in (text.tokens, text.pooled) if value is not None)
        parts = [(name, parameter) for name, parameter in model.named_parameters()]
    return StepCost(
        _by_part(parts), _by_part([(n, p) for n, p in parts if p.requires_grad]), weights, static - weights,
        tracker.peak - static, flops, cached_flops, latent_bytes, skip_bytes,
        caption_bytes,
    )  # fmt: skip


def _stored_bytes(model: UniLDiff, settings: StepSettings) -> tuple[int, int]:
    """Return what one sample's latents and its skips take in a cache (data/latents.py)."""
    side = settings.crop_size // model.downscale_factor
    channels = [int(count) for count in model.vae.config.block_out_channels[:-1]]
    largest = settings.crop_size // model.lq_encoder.factor
    numbers = sum(count * (largest >> level) ** 2 for level, count in enumerate(channels))
    kept = settings.compute_dtype or settings.weight_dtype
    return 4 * int(model.vae.config.latent_channels) * side**2 + 16, kept.itemsize * numbers


def prepare(model: UniLDiff, settings: StepSettings) -> None:
    """Freeze and set recomputation as the stage does."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED[settings.stage]) or is_adapter(name))
    if settings.lora is not None and settings.lora.frozen_dtype == "bfloat16":
        halve_frozen(model)
    model.train()
    if settings.checkpointing:
        model.unet.rest.enable_gradient_checkpointing()
        for part in (model.lq_encoder, model.unet.fusion, model.decoder):
            part.gradient_checkpointing = True


def _predict(model: UniLDiff, deep: Tensor, latents: Tensor, noise: KeyedNoise | None) -> tuple[Tensor, list[Routing]]:
    """Return one prediction of the U-Net at (B, C, h, w) and the routings of token experts."""
    batch, text = latents.shape[0], _text(model, latents.shape[0])
    side = latents.shape[-1] * model.downscale_factor
    context = model.context(deep, text, (side, side))
    prediction, fused = model.unet(latents, torch.zeros(batch, dtype=torch.long), context, noise)
    return prediction, [] if fused is None else fused.routings


def _text(model: UniLDiff, batch: int) -> TextEmbedding:
    """Return the shapes of embedded captions."""
    config: Any = model.unet.rest.config
    encoders: list[Any] = list(model.text.encoders)
    pooled = None
    if config.addition_embed_type == "text_time":
        pooled = torch.empty(batch, int(encoders[-1].config.projection_dim))
    length = int(encoders[0].config.max_position_embeddings)
    return TextEmbedding(torch.empty(batch, length, int(config.cross_attention_dim)), pooled)


def _denoising_loss(model: UniLDiff, lq: Tensor, gt: Tensor, settings: StepSettings) -> Tensor:
    """The step of the alignment and joint stages (stages/denoising.py), without its random numbers."""
    deep, _ = model.lq_encoder(lq)
    shape = (len(lq), int(model.vae.config.latent_channels), *deep.shape[2:])
    with torch.no_grad():
        latents = encode_latents(model.vae, gt, torch.empty(shape)).float()
    prediction, routings = _predict(model, deep, latents, KeyedNoise(list(range(len(lq)))))
    loss = (prediction.float() - latents).abs().flatten(1).mean(1).mean()
    return loss + auxiliary_loss(routings) if routings else loss


def _decoder_loss(model: UniLDiff, lq: Tensor, gt: Tensor, settings: StepSettings) -> Tensor:
    """The step of the decoder stage (stages/decoder.py), without its random numbers."""
    with torch.no_grad():
        features = model.encode_lq(lq)
        latents = features.latents
        if settings.sampling_passes:
            latents = _predict(model, features.deep, features.latents.float(), None)[0].float()
    image, routings = model.decoder(latents, features.skips, lq, KeyedNoise(list(range(len(lq)))))
    image, gt = (image.float() + 1) / 2, (gt + 1) / 2
    loss: Tensor = (image - gt).abs().mean()
    with torch.autocast("cpu", enabled=False):
        loss = loss + (1 - training_ssim(image, gt))
    return loss + auxiliary_loss(routings) if routings else loss


_LOSSES: dict[Stage, Callable[[UniLDiff, Tensor, Tensor, StepSettings], Tensor]] = {
    "alignment": _denoising_loss,
    "joint": _denoising_loss,
    "joint_lora": _denoising_loss,
    "decoder": _decoder_loss,
}


def _pass_flops(model: UniLDiff, settings: StepSettings, autocast: object) -> int:
    """Return the operations of one U-Net pass without gradients."""
    side = settings.crop_size // model.downscale_factor
    latents = torch.empty(settings.batch_size, int(model.vae.config.latent_channels), side, side)
    deep = torch.empty(settings.batch_size, int(model.vae.config.block_out_channels[-1]), side, side)
    tracker = Tracker()
    with tracker, torch.no_grad(), autocast:  # type: ignore[attr-defined]
        _predict(model, deep, latents, None)
    return tracker.flops


@contextmanager
def _even_routing() -> Iterator[None]:
    """Give every expert its even share: the routers' choice is data, and there is none."""

    def even(routing: Routing, num_experts: int) -> list[int]:
        share, rest = divmod(routing.indices.numel(), num_experts)
        return [share + (expert < rest) for expert in range(num_experts)]

    counted = moe.assignment_counts
    moe.assignment_counts = even
    try:
        yield
    finally:
        moe.assignment_counts = counted


def _by_part(parameters: list[tuple[str, nn.Parameter]]) -> dict[str, int]:
    """Return numbers by the part of the model that a user knows."""
    names = {
        "unet.fusion.": "DAFF",
        "unet.": "U-Net",
        "lq_encoder.": "LQ encoder",
        "decoder.details.": "DAEM",
        "decoder.pixels.": "DAEM",
        "decoder.": "VAE decoder (stage 3's)",
        "vae.": "VAE",
        "text.": "text encoders",
    }
    counts: dict[str, int] = {}
    for name, parameter in parameters:
        part = next(label for prefix, label in names.items() if name.startswith(prefix))
        part = "adapters (LoRA)" if is_adapter(name) else part
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
