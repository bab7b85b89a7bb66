"""One micro-batch of the real ``training_step`` on shapes: the peak memory of a device and the operations it computes.

Axis letters: B batch, H/W pixels, h/w latent height and width.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.data.batch import RestorationBatch
from unildiff.planning.autocast import float32_list
from unildiff.planning.shapes import BaseSizes, even_routing, fake_tensors, meta_model, real_schedule
from unildiff.planning.tracker import Tracker
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.restoration import RestorationModule
from unildiff.weights.lora import frozen_to_bfloat16, is_adapter


@dataclass(frozen=True)
class StepSettings:
    """One micro-batch on one device.

    Attributes:
        stage: class of the stage.
        batch_size: B.
        crop_size: H and W.
        compute_dtype: dtype of autocast; None computes in float32.
        gpu: whether the device is a GPU, which decides the lists of autocast.
        settings: ``init_args`` of the stage.
    """

    stage: type[RestorationModule]
    batch_size: int
    crop_size: int
    compute_dtype: torch.dtype | None = None
    gpu: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def autocast(self) -> torch.autocast:
        """Return the autocast that Lightning's mixed precision runs the step in."""
        dtype = self.compute_dtype or torch.bfloat16
        return torch.autocast("cpu", dtype, enabled=self.compute_dtype is not None, cache_enabled=False)

    def with_settings(self, **settings: Any) -> "StepSettings":
        """Return the same step with some ``init_args`` replaced."""
        return replace(self, settings=self.settings | settings)


@dataclass(frozen=True)
class StepCost:
    """Memory, operations and disk space of one micro-batch.

    Attributes:
        parameters: number of parameters by part.
        trained: number of trained parameters by part.
        weights: bytes of parameters and buffers.
        gradients: bytes of the gradients.
        text: bytes of the text encoders, part of ``weights``.
        whole: bytes of VAE and text encoders, which FSDP2 does not split.
        activations: peak bytes above weights and gradients.
        flops: floating-point operations.
        cached_flops: operations for the latents of one cached sample; 0 without a cache.
        latent_bytes: disk space of the latents of one sample.
        skip_bytes: disk space of the skips of one sample.
        caption_bytes: disk space of one embedded caption.
    """

    parameters: dict[str, int]
    trained: dict[str, int]
    weights: int
    gradients: int
    text: int
    whole: int
    activations: int
    flops: int
    cached_flops: int
    latent_bytes: int
    skip_bytes: int
    caption_bytes: int


def measure_step(sizes: BaseSizes, network: NetworkConfig, step: StepSettings) -> StepCost:
    """Return the cost of one micro-batch, forward and backward, with the gradients of an earlier one already there.

    Routing is assumed to be even: shapes do not determine which expert is chosen.
    """
    settings = {**step.settings, "network": network}
    if issubclass(step.stage, DecoderFinetuneModule):
        settings["cut_every"] = 0  # quarters have as many pixels as whole crops
    stage = meta_stage(step.stage, settings, sizes, network)
    with FakeTensorMode(allow_non_fake_inputs=True), even_routing(), float32_list(step.gpu):
        make_fake(stage)
        model, trained = stage.model, [p for p in stage.model.parameters() if p.requires_grad]
        tracker = Tracker()
        tracker.own([*model.parameters(), *model.buffers()])
        weights = tracker.live
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        tracker.own(parameter.grad for parameter in trained if parameter.grad is not None)
        static = tracker.live
        batch = _batch(step)
        with step.autocast(), torch.no_grad():
            cached_flops, latent_bytes, skip_bytes = _cache_cost(stage, step)
            text = stage.embed(["caption"])
        if latent_bytes:
            batch = cast(RestorationBatch, {**batch, **_cached_inputs(stage, step)})
        with tracker:
            with step.autocast():
                loss: Any = stage.training_step(batch, 0)
            loss.backward()
        named = list(model.named_parameters())
    return StepCost(
        parameters=_by_part(named),
        trained=_by_part([(name, p) for name, p in named if p.requires_grad]),
        weights=weights,
        gradients=static - weights,
        text=_bytes(model.text.parameters()),
        whole=_bytes([*model.text.parameters(), *model.vae.parameters()]),
        activations=tracker.peak - static,
        flops=tracker.flops,
        cached_flops=cached_flops,
        latent_bytes=latent_bytes,
        skip_bytes=skip_bytes,
        caption_bytes=sum(value.numel() * 4 for value in (text.tokens, text.pooled) if value is not None),
    )


def meta_stage(
    kind: type[RestorationModule], settings: dict[str, Any], sizes: BaseSizes, network: NetworkConfig
) -> RestorationModule:
    """Return a stage whose model is on the meta device; ``make_fake`` prepares it for a training step.

    Args:
        kind: class of the stage.
        settings: its ``init_args``.
        sizes: of its base.
        network: sizes and switches of the added parts.
    """

    def build_model(stage: RestorationModule) -> tuple[UniLDiff, None]:
        return meta_model(sizes, network), None

    planned = type(kind.__name__, (kind,), {"build_model": build_model, "__module__": kind.__module__})
    stage: RestorationModule = planned(**settings)
    return stage


def make_fake(stage: RestorationModule) -> None:
    """Give a stage tensors of the current ``FakeTensorMode``, and a stand-in for the Trainer that ``training_step`` reads."""
    fake_tensors(stage)
    real_schedule(stage.model)
    if stage.frozen_dtype == "bfloat16":
        frozen_to_bfloat16(stage.model)
    stage.trainer = SimpleNamespace(global_step=1, log_every_n_steps=2, loggers=[])  # type: ignore[assignment]
    stage.train()


def _batch(step: StepSettings) -> RestorationBatch:
    images = [torch.empty(step.batch_size, 3, step.crop_size, step.crop_size, dtype=torch.uint8) for _ in range(2)]
    words = ["caption"] * step.batch_size
    keys: Any = list(range(step.batch_size))  # read as numbers, which a tensor without data cannot be
    return {"lq": images[0], "gt": images[1], "caption": words, "degradation": words, "name": words, "key": keys}


def _cache_cost(stage: RestorationModule, step: StepSettings) -> tuple[int, int, int]:
    """Return operations, bytes of latents and bytes of skips per cached sample; zeros for a stage without a cache."""
    if not isinstance(stage, DecoderFinetuneModule) or stage.settings.latents != "cached":
        return 0, 0, 0
    steps, flops = stage.settings.training_sampling.num_inference_steps, []
    for count in (1, 2):  # all sampling steps cost the same, so the costs of one and of two give the rest
        stage.settings.training_sampling = replace(stage.settings.training_sampling, num_inference_steps=count)
        with Tracker() as tracker:
            batch = _batch(step)
            features = stage.encode_lq(batch)
            latents = stage.sampled_latents(batch, features)
        flops.append(tracker.flops)
    whole = flops[0] + (steps - 1) * (flops[1] - flops[0])
    size = step.batch_size
    latent_bytes = 4 * latents.numel() // size + 16  # float32, a key and a hash
    return whole // size, latent_bytes, sum(skip.nbytes for skip in features.skips) // size


def _cached_inputs(stage: RestorationModule, step: StepSettings) -> dict[str, Any]:
    assert isinstance(stage, DecoderFinetuneModule)
    with torch.no_grad(), step.autocast():
        features = stage.encode_lq(_batch(step))
    kept = features.skips if stage.settings.cache.skips else []
    skips = [[skip[index] for skip in kept] for index in range(step.batch_size)]
    return {"latents": list(features.latents.float()), "skips": skips}


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _by_part(parameters: list[tuple[str, nn.Parameter]]) -> dict[str, int]:
    """Return the number of parameters by the part of the model that a user knows."""
    labels = {
        "unet.fusion.": "DAFF",
        "unet.": "U-Net",
        "lq_encoder.": "LQ encoder",
        "decoder.details.": "DAEM",
        "decoder.pixels.": "DAEM",
        "decoder.tone.": "DAEM",
        "decoder.": "VAE decoder (stage 3)",
        "vae.": "VAE",
        "text.": "text encoders",
    }
    counts: dict[str, int] = {}
    for name, parameter in parameters:
        part = next(label for prefix, label in labels.items() if name.startswith(prefix))
        part = "adapters (LoRA)" if is_adapter(name) else part
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
