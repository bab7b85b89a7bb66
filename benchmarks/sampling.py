"""Sampling against its bare U-Net calls and against a loop over a diffusers scheduler.

Axis letters: B batch, C latent channels, h/w latent height and width.
"""

import time
from statistics import mean

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from benchmarks.models import CAPTION, lq_image, tiny_model
from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from unildiff.core.model import UniLDiff
from unildiff.core.network import LQFeatures
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.core.unet import UNetContext
from unildiff.data.batch import image_tensor
from unildiff.data.shipped_photographs import load, photographs
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.utils.keys import sample_key

PART = (0.0, 0.5)  # the first half of the steps: the high noise levels


def bare_calls(model: UniLDiff, features: LQFeatures, context: UNetContext, steps: int) -> None:
    """As many U-Net calls under two captions as the sampler makes, and nothing else."""
    latents = features.latents
    timesteps = torch.full((1,), 500)
    for _ in range(steps):
        model.predict(latents, timesteps, context)


def with_scheduler(model: UniLDiff, features: LQFeatures, context: UNetContext, steps: int) -> Tensor:
    """As diffusers' pipelines loop (restated): the scheduler scales and steps, one call per step under both captions."""
    scheduler = EulerDiscreteScheduler.from_config(model.scheduler_config)
    scheduler.set_timesteps(steps)
    noise = torch.randn(features.latents.shape, generator=torch.Generator().manual_seed(0))
    latents = features.latents + scheduler.init_noise_sigma * noise
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        without, with_text = model.predict(scaled, timestep.expand(1), context).chunk(2)
        prediction = without + 5.0 * (with_text - without)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


@torch.inference_mode()
def rows(effort: Effort) -> list[Row]:
    model = tiny_model()
    side, steps = (64, 2) if effort.small else (256, 20)
    lq, settings = lq_image(side), SamplingSettings(steps)
    features = model.encode_lq(lq)
    context = model.context(features.deep, model.embed(["", CAPTION]), (side, side))
    work = f"{steps} guided Euler steps, {side}x{side}"
    latents = alternate(
        {
            "ours": lambda: model.sample_latents(features, [CAPTION], [0], settings),
            "peer": lambda: with_scheduler(model, features, context, steps),
            "limit": lambda: bare_calls(model, features, context, steps),
        },
        effort.rounds,
        time.process_time,
    )

    def parts() -> None:
        found = model.encode_lq(lq)
        bare_calls(model, found, model.context(found.deep, model.embed(["", CAPTION]), (side, side)), steps)
        model.decoder(found.latents, found.skips, found.lq)

    partly = SamplingSettings(steps, guidance_interval=PART)
    images = alternate(
        {
            "ours": lambda: model.restore(lq, [CAPTION], [0], settings),
            "limit": parts,
        },
        effort.rounds,
        time.process_time,
    )
    guidance = alternate(
        {
            "ours": lambda: model.sample_latents(features, [CAPTION], [0], partly),
            "limit": lambda: model.sample_latents(features, [CAPTION], [0], settings),
        },
        effort.rounds,
        time.process_time,
    )
    calls = f"{steps} U-Net calls under two captions"
    return [
        seconds_row(
            f"sampling: {work}, text and context included", latents, peer_way="a loop over diffusers' scheduler (restated)",
            limit_is=calls, goal=Goal(1.05, "limit"),
        ),
        seconds_row(
            f"a restored image: {work}", images, limit_is=f"encoders, {calls}, decoder", goal=Goal(1.05, "limit")
        ),
        seconds_row(
            f"guidance in the first half of the steps only: {work}", guidance, limit_is="all steps guided",
            remark=guidance_quality(model, effort),
        ),
    ]  # fmt: skip


def guidance_quality(model: UniLDiff, effort: Effort) -> str:
    """PSNR of the validation photographs under four degradations, guided in all steps, in the first half, in none."""
    size, steps = (48, 1) if effort.small else (128, 20)
    kinds = DEGRADATIONS[:1] if effort.small else ("low", "haze", "rain", "low_haze_snow")
    scores: dict[str, list[float]] = {}
    for photo in photographs("val")[: 1 if effort.small else 3]:
        clear = load(photo, size, 16)[0]
        gt = image_tensor(clear)[None]
        for kind in kinds:
            key = sample_key("guidance", photo.name, kind)
            lq = to_unit(image_tensor(degrade(clear, kind, key).image)[None])
            for name, settings in {
                "all": SamplingSettings(steps),
                "the first half": SamplingSettings(steps, guidance_interval=PART),
                "none": SamplingSettings(steps, guidance_scale=1.0),
            }.items():
                restored = to_uint8(model.restore(lq, [photo.caption], [key], settings))
                scores.setdefault(name, []).append(psnr(restored, gt, PROTOCOLS["onerestore"]).item())
    found = ", ".join(f"{mean(values):.2f} dB in {name}" for name, values in scores.items())
    return f"PSNR of {len(scores['all'])} validation images of {size} px guided: {found}"
