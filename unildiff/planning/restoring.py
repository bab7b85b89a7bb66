"""The peak memory of restoring images of known sizes, and the settings that keep it below a limit.

The real code runs on tensors without data, phase by phase. Axis letters: B images of one pass, H/W pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unildiff.core import tiled_model
from unildiff.core.model import Given, UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.tiling import Tile, TileGrid
from unildiff.diffusion.sampler import SMALLEST_TILE, SamplingSettings
from unildiff.planning.shapes import BaseSizes, base_sizes, even_routing, fake_tensors, meta_model, real_schedule
from unildiff.planning.tracker import Tracker
from unildiff.restoring.options import Offload, RestoreOptions
from unildiff.restoring.run import peak_memory
from unildiff.utils.errors import UserError
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.folder import stored_network_config
from unildiff.weights.load import located, pick_device, stored_network, weights_folder
from unildiff.weights.precision import default_dtype

Size = tuple[int, int]
Phase = Literal["encoding", "sampling", "decoding"]
PHASES: tuple[Phase, ...] = ("encoding", "sampling", "decoding")
GPU_RESERVED = 1_000_000_000
"""Bytes on a GPU for the CUDA context, workspaces of cuDNN and fragments of the allocator (our estimate)."""
CPU_SLACK = 1.35
"""What the C library's allocator and oneDNN's buffers take in relation to live tensors (our estimate, checked by a test)."""
CPU_RESERVED = 200_000_000
"""Bytes that packages take on a CPU after the plan is made: codecs, kernels (our estimate, likewise)."""
CPU_IMAGE = 300
"""Bytes per pixel of the images that are read, checked and written beside the model on a CPU (our estimate, likewise)."""
TILES = (1024, 768, 512, 384, 256, SMALLEST_TILE)
"""Sides of tiles to choose from. On a GPU, smaller ones of the U-Net go through together up to the area of 1,024 px."""


@dataclass(frozen=True)
class RestorePlan:
    """Settings of a run and the largest memory that it is expected to take.

    Attributes:
        dtype: of the weights.
        offload: which parts wait on the CPU.
        tile_size: side of the U-Net's tiles, None for the model's default.
        vae_tile: side of the tiles of LQ encoder, VAE and decoder, None for ``tile_size``.
        peak: bytes.
    """

    dtype: torch.dtype
    offload: Offload
    tile_size: int | None
    vae_tile: int | None
    peak: int

    def __str__(self) -> str:
        tiles = "the model's own tiles" if self.tile_size is None else f"tiles of {self.tile_size}"
        coder = "" if self.vae_tile is None else f" ({self.vae_tile} in encoders and decoder)"
        kept = "" if self.offload == "none" else f", --offload {self.offload}"
        return f"{str(self.dtype).removeprefix('torch.')}{kept}, {tiles}{coder}: expected peak {self.peak / 1e9:.2f} GB"


@dataclass(frozen=True)
class Limits:
    """The memory limit and the settings to choose from.

    Attributes:
        memory: bytes that may be taken.
        dtypes: types of the weights, the preferred one first.
        offloads: kinds of offloading, the preferred one first.
        tile_size: the only tile size, None to choose.
        vae_tile: the only tile size of the coders, None to choose.
        taken: bytes that the process takes before the model is loaded.
    """

    memory: int
    dtypes: tuple[torch.dtype, ...]
    offloads: tuple[Offload, ...]
    tile_size: int | None = None
    vae_tile: int | None = None
    taken: int = 0


def sizes_of(source: str) -> tuple[BaseSizes, NetworkConfig]:
    """Return the sizes of a model that a user names (see ``load_restorer``), without reading weights."""
    folder = weights_folder(source)
    if folder is None and Path(source).is_file():
        settings = read_checkpoint(Path(source)).settings
        base, before = (located(settings.get(key), Path(source)) for key in ("base", "init_from"))
        given = settings.get("network")
        own = stored_network(weights_folder(before) or weights_folder(base))
        return base_sizes(base or "tiny"), stored_network_config(given, f"checkpoint: {source}") if given else own
    return base_sizes(source), stored_network(folder)


class RestorePlanner:
    """Measures a model on shapes; every measurement is made once.

    Args:
        sizes: of its base.
        network: sizes and switches of the added parts.
        gpu: whether a GPU computes; else the CPU, whose memory also holds the images.
        batch_size: B.
        guided: whether captions guide the sampling.
    """

    def __init__(
        self, sizes: BaseSizes, network: NetworkConfig, gpu: bool, batch_size: int = 1, guided: bool = True
    ) -> None:
        self._sizes, self._network, self._gpu = sizes, network, gpu
        self._batch, self._guided = batch_size, guided
        self._models: dict[torch.dtype, UniLDiff] = {}
        self._measured: dict[Any, int] = {}

    def choose(self, images: Sequence[Size], limits: Limits) -> RestorePlan:
        """Return the first settings that fit: the preferred type, the largest tiles, the least offloading.

        Raises:
            UserError: nothing fits; the message says the least memory that would.
        """
        worst = {max(images, key=lambda size: size[0] * size[1]), max(images, key=min)}
        largest = max(worst, key=max)
        tiles = self._tiles(limits, largest)

        def coders(tile: int | None) -> tuple[int | None, ...]:
            if limits.vae_tile is not None:
                return (limits.vae_tile,)
            return (None, *(each for each in TILES if each < min(tile or max(largest), max(largest))))

        def planned(plan: RestorePlan) -> RestorePlan:
            return replace(plan, peak=self._peak(plan, worst, limits, PHASES))

        for dtype, tile, offload in product(limits.dtypes, tiles, limits.offloads):
            plan = RestorePlan(dtype, offload, tile, limits.vae_tile, 0)
            if self._resident(plan, "sampling") + self._extra(worst, limits) > limits.memory:
                continue  # known without measuring
            if self._peak(plan, worst, limits, ("sampling",)) > limits.memory:
                continue
            for coder in coders(tile):
                found = planned(replace(plan, vae_tile=coder))
                if found.peak <= limits.memory:
                    return found
        smallest = (RestorePlan(limits.dtypes[-1], limits.offloads[-1], tile, coders(tile)[-1], 0) for tile in tiles)
        least = min(map(planned, smallest), key=lambda plan: plan.peak)
        raise UserError(
            f"memory: {limits.memory / 1e9:g} GB is too little for an image of {largest[1]}x{largest[0]}; the least that "
            f"fits is {least.peak / 1e9:.2f} GB ({str(least).partition(':')[0]})"
        )

    def _tiles(self, limits: Limits, largest: Size) -> tuple[int | None, ...]:
        if limits.tile_size is not None:
            return (limits.tile_size,)
        default = self._model(limits.dtypes[0]).default_tile_size(*largest) or max(largest)
        smallest = 768 if self._gpu else SMALLEST_TILE
        return (None, *(tile for tile in TILES if smallest <= tile < default))

    def _peak(self, plan: RestorePlan, images: set[Size], limits: Limits, phases: Sequence[Phase]) -> int:
        activations = {
            phase: max(self._activations(plan, phase, size) for size in images) * (1 if self._gpu else CPU_SLACK)
            for phase in phases
        }
        needed = max(self._resident(plan, phase) + int(activations[phase]) for phase in phases)
        return needed + self._extra(images, limits)

    def _extra(self, images: set[Size], limits: Limits) -> int:
        if self._gpu:
            return GPU_RESERVED
        return limits.taken + CPU_RESERVED + CPU_IMAGE * self._batch * max(height * width for height, width in images)

    def _resident(self, plan: RestorePlan, phase: Phase) -> int:
        """Return the bytes of the weights on the device in a phase."""
        model = self._model(plan.dtype)
        if plan.offload == "none":
            return _bytes(model)
        kept = layer = 0
        if plan.offload == "group":
            rest = _bytes(model.unet.rest)
            kept = _bytes(model.unet) - rest
            layer = 2 * max(_bytes(part) for part in model.unet.rest.modules() if not list(part.children()))
        sampling = layer if plan.offload == "group" else _bytes(model.unet)
        by_phase = {
            "encoding": _bytes(model.lq_encoder) + _bytes(model.vae),
            "sampling": max(_bytes(model.text) + _bytes(model.vae), sampling),
            "decoding": _bytes(model.decoder) + _bytes(model.lq_encoder),
        }
        return kept + by_phase[phase]

    def _activations(self, plan: RestorePlan, phase: Phase, size: Size) -> int:
        model = self._model(plan.dtype)
        tile = plan.tile_size or model.default_tile_size(*size)
        settings = SamplingSettings(1, 5.0 if self._guided else 1.0, vae_tile=plan.vae_tile)
        tile = tile if phase == "sampling" else settings.coder_tile(tile)
        tile = None if tile is not None and tile >= max(size) else tile
        key = (plan.dtype, phase, size, tile)
        if key not in self._measured:
            self._measured[key] = self._measure(model, phase, size, tile, settings)
        return self._measured[key]

    def _model(self, dtype: torch.dtype) -> UniLDiff:
        if dtype not in self._models:
            model = meta_model(self._sizes, self._network).eval().requires_grad_(False)
            with self._fake():
                fake_tensors(model, dtype)
            real_schedule(model)
            self._models[dtype] = model
        return self._models[dtype]

    @contextmanager
    def _fake(self) -> Iterator[None]:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), even_routing():
            yield

    def _measure(self, model: UniLDiff, phase: Phase, size: Size, tile: int | None, settings: SamplingSettings) -> int:
        """Return the peak in bytes above the weights; of equal tiles one is computed."""
        words, keys = ["caption"] * self._batch, list(range(self._batch))
        tracker = Tracker()
        with self._fake(), _first_tile_only(self._gpu), tracker:
            lq = torch.empty(self._batch, 3, *size, dtype=model.unet.dtype)
            features = model.encode_lq(model.pad(lq), tile, original=size, keep_skips=not self._gpu)
            if phase == "encoding":
                return tracker.peak
            tracker.peak = tracker.live
            noise = torch.empty(features.latents.shape)
            if phase == "sampling":
                model.sample_latents(features, words, keys, settings, given=Given(noise))
                return tracker.peak
            image = model.decode(noise, features, lq.shape)
            return max(tracker.peak, tracker.live + 2 * image.nbytes)  # two copies on the way to the CPU


@contextmanager
def _first_tile_only(gpu: bool) -> Iterator[None]:
    """Compute the first tile of a grid, or the first group of tiles; the others take the same memory after it."""
    every, together = TileGrid.tiles, tiled_model.tiles_per_pass

    def passes(grid: TileGrid, tiles_per_pass: int) -> Iterator[list[Tile]]:
        tiles = every(grid)
        while group := list(islice(tiles, tiles_per_pass)):
            yield group

    def on_gpu(grid: TileGrid, latents: torch.Tensor, factor: int) -> int:
        there: Any = SimpleNamespace(device=torch.device("cuda" if gpu else "cpu"), shape=latents.shape)
        return together(grid, there, factor)

    with (
        patch.object(TileGrid, "tiles", lambda grid: islice(every(grid), 1)),
        patch.object(TileGrid, "passes", passes),
        patch.object(tiled_model, "tiles_per_pass", on_gpu),
    ):
        yield


def within_memory(
    options: RestoreOptions, images: Sequence[Size], elsewhere: bool = False
) -> tuple[RestoreOptions, RestorePlan]:
    """Return options that keep a restoration of these images below ``options.memory``, and their plan; see ``MemoryPlanner``."""
    return MemoryPlanner(options, elsewhere).settings_for(options, images)


class MemoryPlanner:
    """Chooses settings within ``options.memory``; the constructor measures the memory that this process already uses.

    Args:
        options: model, device, memory and the settings that are fixed.
        elsewhere: True if other machines restore; this machine need not have their device.

    Raises:
        UserError: there is no such device, or one whose memory cannot be planned.
    """

    def __init__(self, options: RestoreOptions, elsewhere: bool = False) -> None:
        there = "cpu" if options.device == "auto" else options.device
        self._device = torch.device(there) if elsewhere else pick_device(options.device)
        if self._device.type not in ("cpu", "cuda"):
            raise UserError(
                f"memory: can be planned for NVIDIA GPUs and CPUs, and the device is {self._device.type}; leave --memory out, "
                "and give --tile_size for smaller tiles"
            )
        gpu, guided = self._device.type == "cuda", options.guidance_scale != 1.0
        self._planner = RestorePlanner(*sizes_of(options.model), gpu, options.batch_size, guided)
        self._taken = 0 if gpu else peak_memory(self._device)

    def settings_for(self, options: RestoreOptions, images: Sequence[Size]) -> tuple[RestoreOptions, RestorePlan]:
        """Return the options with type, offload and tiles for these images (height and width of each), and their plan.

        Raises:
            UserError: nothing fits.
        """
        allowed = replace(limits(options, self._device), taken=self._taken)
        if find_spec("accelerate") is None and options.offload is None:
            allowed = replace(allowed, offloads=("none",))
        try:
            plan = self._planner.choose(images, allowed)
        except UserError as error:
            missing = allowed.offloads == ("none",) and self._device.type == "cuda" and options.offload is None
            more = "; `pip install 'unildiff[offload]'` allows less" if missing else ""
            raise UserError(f"{error}{more}") from None
        dtype: Any = str(plan.dtype).removeprefix("torch.")
        chosen = replace(options, dtype=dtype, offload=plan.offload, tile_size=plan.tile_size, vae_tile=plan.vae_tile)
        return chosen, plan


def limits(options: RestoreOptions, device: torch.device) -> Limits:
    """Return what may be chosen on a device, which need not be there if it is a GPU."""
    assert options.memory is not None
    gpu = device.type == "cuda"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    if options.dtype != "auto":
        dtypes = (getattr(torch, options.dtype),)
    elif gpu:
        dtypes = (default_dtype(device) if torch.cuda.is_available() else torch.bfloat16,)
    offloads: tuple[Offload, ...] = ("none", "model", "group") if gpu else ("none",)
    return Limits(
        options.memory,
        dtypes,
        offloads if options.offload is None else (options.offload,),
        options.tile_size,
        options.vae_tile,
        0 if gpu else peak_memory(device),
    )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
