"""Settings of a restoration run, checked before anything heavy is imported."""

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from unildiff.utils.errors import UserError
from unildiff.utils.validation import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, Seed, check_fields

TileSize = Annotated[int, Range(128, 65_536)]
"""Pixels; the lower bound is ``diffusion.sampler.SMALLEST_TILE``, which a test compares."""
Format = Literal["jpg", "png", "tif", "webp", "avif"]
Colour = Literal["none", "input", "auto"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "group"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class RestoreOptions:
    """How images are restored and written.

    Args:
        model: ``tiny``, an exported folder, or a checkpoint.
        num_inference_steps: sampling steps.
        guidance_scale: strength of the caption; 1 turns guidance off.
        seed: seed of the sampling noise.
        start: start from the noised input (``lq``) or from noise alone.
        last_timestep: timestep at which sampling ends, None for the model's own.
        tile_size: side of the tiles in pixels, None to choose by model and memory.
        vae_tile: side of the tiles in pixels of LQ encoder, VAE and decoder, None for ``tile_size``.
        timestep_spacing: spacing of the steps, None for the model's own.
        device: where to compute.
        dtype: type of the weights; ``auto`` chooses by the device.
        offload: what waits on the CPU while other parts use the GPU, None for nothing, or as ``memory`` needs.
        memory: bytes that may be taken: of the GPU, or by this process on a CPU.
        format: format of the results, None for that of the input.
        provenance: whether the results say how they were made.
        batch_size: images of equal size that go through the model together.
        colour: whether the colours of the input are transferred, see ``restoring.colour``.
        uncertainty: how many further seeds measure the model's uncertainty.
        in_doubt: what the result shows where they disagree.
    """

    model: str = "tiny"
    num_inference_steps: PositiveInt = 20
    guidance_scale: NonNegativeFloat = 5.0
    seed: Seed = 0
    start: Literal["lq", "noise"] = "lq"
    last_timestep: NonNegativeInt | None = None
    tile_size: TileSize | None = None
    vae_tile: TileSize | None = None
    timestep_spacing: Spacing | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    offload: Offload | None = None
    memory: Annotated[int, Range(1, 10**15)] | None = None
    format: Format | None = None
    provenance: bool = True
    batch_size: PositiveInt = 1
    colour: Colour = "none"
    uncertainty: NonNegativeInt = 0
    in_doubt: Literal["restored", "input"] = "restored"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.in_doubt == "input" and not self.uncertainty:
            raise UserError(
                "in_doubt: input needs --uncertainty, the number of further seeds; give e.g. --uncertainty 3"
            )

    def recorded(self, model_hash: str, dtype: str, caption: str) -> dict[str, Any]:
        """Return everything that a result depends on beside the input's content.

        Options that are younger than the first manifests are left out at their defaults, so that older results stay done.
        """
        elsewhere = ("model", "device", "dtype", "offload", "memory")
        younger = {"vae_tile": None, "timestep_spacing": None, "in_doubt": "restored"}
        settings = {
            key: value
            for key, value in asdict(self).items()
            if key not in elsewhere and not (key in younger and value == younger[key])
        }
        return {"model": model_hash, "dtype": dtype, "caption": caption, **settings}


def memory_bytes(text: str) -> int:
    """Return the bytes that a size such as ``8GB``, ``7.5 GiB`` or ``900MB`` means.

    Raises:
        UserError: it is not such a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or not float(found[1]):
        raise UserError(f"memory: {text!r} is not a size; give e.g. 8GB or 900MB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** (3 if found[2].upper() == "G" else 2))
