"""Look inside a model while it restores an image, with hooks on its modules; the model itself is not changed.

Axis letters: B batch (1 here), C latent channels, F channels of the LQ feature, H/W pixels, h/w latent height and width,
T sampling steps, E experts, k chosen experts, L tokens, m window side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unildiff.analysis.figures import ExpertMap
from unildiff.core.daem import DetailLevel, LevelStatistics
from unildiff.core.daff import DAFF, FusionContext, FusionOutput
from unildiff.core.encoders import encode_latents
from unildiff.core.model import UniLDiff
from unildiff.core.moe import Routing
from unildiff.core.network import LQFeatures
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import RestorationSample
from unildiff.diffusion.sampler import SamplingSettings

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """Observations while one image was restored.

    Attributes:
        timesteps: (T,), from noise to image.
        strength: (T,) RMS of the fusion's residual over RMS of ``conv_in``'s output, to which it is added.
        gate: (T,) mean absolute gate of the fusion's single-stream blocks; None without such blocks. It depends on the
            timestep alone (the modulation's only input), so it is the same for every image.
        maps: first choice of each routed layer, by layer; for layers routed at every step, that of the last step.
        usage: (E,) how often each expert was chosen, over all steps and all k choices, by layer.
        feature: (F,) deep feature of the LQ encoder, averaged over the image.
        restored: (3, H, W) uint8.
    """

    timesteps: FloatArray
    strength: FloatArray
    gate: FloatArray | None
    maps: dict[str, ExpertMap]
    usage: dict[str, FloatArray]
    feature: FloatArray
    restored: Tensor


@torch.no_grad()
def observe(model: UniLDiff, sample: RestorationSample, settings: SamplingSettings) -> Observations:
    """Sample latents of an untiled image without guidance, decode them, and return the observations.

    Args:
        model: Model in evaluation mode.
        sample: Sample of a test set.
        settings: Steps and start; guidance and tiles are not used.
    """
    lq, features = _encoded(model, sample)
    timesteps: list[float] = []
    strength: list[float] = []
    gates: list[float] = []
    maps: dict[str, ExpertMap] = {}
    usage: dict[str, FloatArray] = {}
    padded = (features.latents.shape[2] * model.downscale_factor, features.latents.shape[3] * model.downscale_factor)

    def routed(
        layer: str, routing: Routing, grid: tuple[int, int], cell: tuple[float, float], names: Sequence[str]
    ) -> None:
        chosen = routing.indices.cpu().numpy()
        counts = np.bincount(chosen.ravel(), minlength=len(names)).astype(np.float64)
        usage[layer] = usage.get(layer, np.zeros(len(names))) + counts
        maps[layer] = ExpertMap(chosen[:, 0].reshape(grid), tuple(names), cell)

    def at_fusion(inputs: tuple[Any, ...], output: FusionOutput) -> None:
        hidden, step, context = inputs[0], inputs[1], inputs[2]
        timesteps.append(float(step[0]))
        strength.append(float(output.residual.float().square().mean().sqrt() / hidden.float().square().mean().sqrt()))
        if output.gate is not None:
            gates.append(float(output.gate[0]))
        if not output.routings:
            return
        grid, cell, names = _token_grid(model, context, features)
        assert isinstance(model.unet.fusion, DAFF)
        streams = ("LQ", "latent") if len(output.routings) > len(model.unet.fusion.double_blocks) else ("LQ",)
        for index, routing in enumerate(output.routings):
            block, stream = divmod(index, len(streams))
            routed(f"tokens {block + 1} {streams[stream]}", routing, grid, cell, names)

    def at_level(layer: str, level: DetailLevel) -> Callable[[tuple[Any, ...], Any], None]:
        def seen(inputs: tuple[Any, ...], output: tuple[Tensor, Routing, Tensor, LevelStatistics]) -> None:
            height, width = inputs[0].shape[2:]
            scale = padded[0] / height, padded[1] / width
            side = level.cell_size(height, width)
            grid = -(-height // side), -(-width // side)
            cell = (side * scale[0], side * scale[1]) if grid != (1, 1) else (float(padded[0]), float(padded[1]))
            routed(layer, output[1], grid, cell, [f"{size}x{size}" for size in level.config.kernel_sizes])

        return seen

    watched: dict[nn.Module, Callable[[tuple[Any, ...], Any], None]] = {model.unet.fusion: at_fusion}
    for index, level in enumerate(model.decoder.details):
        assert isinstance(level, DetailLevel)
        watched[level] = at_level(f"detail {index + 1}", level)
    with _hooks(watched):
        unguided = replace(settings, guidance_scale=1.0, tile_size=None)
        latents = model.sample_latents(features, [sample["caption"]], [sample["key"]], unguided)
        restored = to_uint8(model.decode(latents, features, lq.shape))[0].cpu()
    return Observations(
        np.array(timesteps),
        np.array(strength),
        np.array(gates) if gates else None,
        maps,
        usage,
        features.deep[0].float().mean(dim=(1, 2)).cpu().double().numpy(),
        restored,
    )


@contextmanager
def _hooks(watched: Mapping[nn.Module, Callable[[tuple[Any, ...], Any], None]]) -> Iterator[None]:
    """Call each function with its module's inputs and output while the context lasts."""
    handles = [
        module.register_forward_hook(lambda _, inputs, output, see=see: see(inputs, output))
        for module, see in watched.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encoded(model: UniLDiff, sample: RestorationSample) -> tuple[Tensor, LQFeatures]:
    weight = next(model.parameters())
    lq = to_unit(sample["lq"][None].to(weight.device)).to(weight.dtype)
    return lq, model.encode_lq(model.pad(lq))


def _token_grid(
    model: UniLDiff, context: FusionContext, features: LQFeatures
) -> tuple[tuple[int, int], tuple[float, float], list[str]]:
    """Return rows and columns of tokens, pixels a token covers, and the names of the token experts."""
    config = model.unet.fusion.config
    rows, columns = (-(-side // config.patch_size) for side in features.latents.shape[2:])
    assert context.lq_tokens.shape[1] == rows * columns
    side = float(config.patch_size * model.downscale_factor)
    return (rows, columns), (side, side), [str(index + 1) for index in range(config.token_experts)]


@torch.no_grad()
def reference_images(model: UniLDiff, sample: RestorationSample) -> dict[str, Tensor]:
    """Return images to compare a restored one with, (3, H, W) uint8 by label.

    They are the ``input``, the LQ latent through the decoder (``no diffusion``), and the ground truth through the VAE
    (``VAE round trip``).
    """
    lq, features = _encoded(model, sample)
    gt = encode_latents(model.vae, model.pad(to_unit(sample["gt"][None].to(lq.device)).to(lq.dtype)))
    return {
        "input": sample["lq"],
        "no diffusion": to_uint8(model.decode(features.latents, features, lq.shape))[0].cpu(),
        "VAE round trip": to_uint8(model.decode(gt, features, lq.shape, detail=False))[0].cpu(),
    }
