"""The restorer as one ONNX graph, and a runner for it: sampling steps unrolled, any image size, no PyTorch at run time.

Axis letters: H/W pixels, C latent channels, h/w latent height and width.
The graph takes the image and the sampling noise, so that the same noise gives what PyTorch gives. Captions are empty and
there is no guidance, which an empty caption makes a no-op.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unildiff import __version__
from unildiff.core.encoders import encode_latents
from unildiff.core.model import UniLDiff
from unildiff.core.pixels import pad_to_multiple
from unildiff.core.tiling import make_grid
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings, euler_step
from unildiff.utils.errors import UserError

OPSET = 18
_LARGEST = 2**31  # bytes of one ONNX file


class UnrolledRestorer(nn.Module):
    """All steps of a restoration as one function of an image and its noise.

    Args:
        model: a restorer whose U-Net has no size conditioning and whose experts are chosen per image.
        num_inference_steps: Euler steps.
    """

    def __init__(self, model: UniLDiff, num_inference_steps: int) -> None:
        super().__init__()
        self.model = model
        settings = model.with_own(SamplingSettings(num_inference_steps, guidance_scale=1.0))
        timesteps = settings.timesteps(model.schedule)
        self.timesteps: list[float] = timesteps.tolist()
        self.sigmas: list[float] = model.schedule.sampling_sigmas(timesteps).tolist()
        self.text = model.embed([""])

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """Return the restored image (1, 3, H, W) in [0, 1] of an image (1, 3, H, W) in [0, 1] and noise (1, C, h, w)."""
        model = self.model
        lq = image * 2 - 1
        deep, skips = model.lq_encoder(lq)
        context = model.context(deep, self.text, (lq.shape[2], lq.shape[3]))
        latents = encode_latents(model.vae, lq) + self.sigmas[0] * noise
        for timestep, sigma, following in zip(self.timesteps, self.sigmas, self.sigmas[1:], strict=False):
            scaled = latents / (sigma**2 + 1) ** 0.5
            prediction = model.predict(scaled, torch.full((1,), timestep), context)
            latents = euler_step(latents, prediction, sigma, following, model.schedule.prediction_type)
        restored: Tensor = model.decoder(latents, skips, lq)[0]
        return restored.clamp(-1, 1) / 2 + 0.5


def export_onnx(model: UniLDiff, path: Path, num_inference_steps: int = 2, card: str = "") -> None:
    """Write the restorer as an ONNX file.

    Args:
        model: restorer, any device and dtype; the graph is float32.
        path: file to write.
        num_inference_steps: Euler steps that the graph holds.
        card: model card, kept in the file's metadata together with the licence that it names.

    Raises:
        UserError: the onnx extra is not installed, or the model has parts that the graph cannot hold.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch's exporter needs)
    except ModuleNotFoundError as error:
        raise UserError(f"onnx: {error.name} is not installed; run pip install 'unildiff[onnx]'") from error
    if model.unet.rest.config.addition_embed_type is not None:
        raise UserError(
            "onnx: the model's U-Net has SDXL's size conditioning; only models of the tiny size can be exported to ONNX"
        )
    detail = model.config.detail
    if detail.kind == "daem" and detail.routing != "image":
        raise UserError(f"onnx: the model's detail.routing is {detail.routing}; only 'image' can be exported to ONNX")
    module = UnrolledRestorer(model.float().cpu().eval(), num_inference_steps).eval().requires_grad_(False)
    factor, multiple = model.downscale_factor, side_multiple(model)
    latent = multiple // factor
    channels = int(model.vae.config.latent_channels)
    example = (torch.rand(1, 3, 4 * multiple, 5 * multiple), torch.randn(1, channels, 4 * latent, 5 * latent))
    rows, columns = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("columns", min=1, max=4096)
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        verbose=False,
        input_names=["image", "noise"],
        output_names=["restored"],
        dynamic_shapes=(
            {2: multiple * rows, 3: multiple * columns},
            {2: latent * rows, 3: latent * columns},
        ),
    )
    assert program is not None
    proto = program.model_proto
    if proto.ByteSize() >= _LARGEST:
        raise UserError(f"onnx: the model takes {proto.ByteSize() / 1e9:.1f} GB; one ONNX file holds 2 GB")
    licence = re.search(r"^license: (.+)$", card, re.MULTILINE)
    onnx.helper.set_model_props(
        proto,
        {
            "unildiff": json.dumps(
                {"multiple": multiple, "downscale_factor": factor, "latent_channels": channels}
                | {"num_inference_steps": num_inference_steps, "version": __version__}
            ),
            "model_card": card,
            "license": licence[1] if licence else "see model_card",
        },
    )
    proto.producer_name, proto.producer_version = "unildiff", __version__
    onnx.save(proto, str(path))


def side_multiple(model: UniLDiff) -> int:
    """Return the number of pixels of which both sides of the graph's images must be multiples."""
    halvings = len(model.unet.rest.config.block_out_channels) - 1
    return int(model.downscale_factor * 2**halvings)


class OnnxRestorer:
    """Runs an exported file with onnxruntime, for images of any size.

    Args:
        path: file written by :func:`export_onnx`.
        threads: threads of onnxruntime.

    Raises:
        UserError: onnxruntime is not installed, or the file is not an exported restorer.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise UserError("onnx: onnxruntime is not installed; run pip install 'unildiff[onnx]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            facts: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map["unildiff"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"onnx: {path} is not a restorer written by `unildiff export --onnx`: {reason}") from error
        self.multiple, self.factor = int(facts["multiple"]), int(facts["downscale_factor"])
        self.channels = int(facts["latent_channels"])

    def __call__(self, image: np.ndarray, key: int, tile_size: int | None = 512) -> np.ndarray:
        """Return the restored image.

        Args:
            image: (H, W, 3) uint8 RGB.
            key: seed of the sampling noise.
            tile_size: side of a tile in pixels; a larger image is restored in overlapping tiles, and the
                tone correction judges each by itself. None: never in tiles.

        Returns:
            (H, W, 3) float32 in [0, 1].
        """
        height, width = image.shape[:2]
        unit = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        padded = pad_to_multiple(unit, self.multiple)
        rows, columns = padded.shape[2] // self.multiple, padded.shape[3] // self.multiple
        latent = self.multiple // self.factor
        noise = KeyedNoise([key], "cpu").normal("sampling", self.channels, rows * latent, columns * latent)
        grid = None
        if tile_size is not None:  # positions in the grid count in units of `multiple` pixels
            grid = make_grid(rows + rows % 2, columns + columns % 2, max(8, tile_size // self.multiple))
        if grid is None:
            restored = self._run(padded, noise)
        else:
            padded = pad_to_multiple(unit, 2 * self.multiple)
            noise = KeyedNoise([key], "cpu").normal(
                "sampling", self.channels, grid.height * latent, grid.width * latent
            )
            restored = grid.fuse(
                lambda tile: self._run(tile.cut(padded, self.multiple), tile.cut(noise, latent)), self.multiple
            )
        return restored[0, :, :height, :width].permute(1, 2, 0).numpy()

    def _run(self, image: Tensor, noise: Tensor) -> Tensor:
        inputs = {"image": image.contiguous().numpy(), "noise": noise.contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0])
