"""Settings of a restoration run, checked before anything heavy is imported."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from unildiff.utils.validation import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, Seed, check_fields

TileSize = Annotated[int, Range(128, 65_536)]
"""Pixels; the lower bound is ``diffusion.sampler.SMALLEST_TILE``, which a test compares."""
Format = Literal["jpg", "png", "tif", "webp", "avif"]
Colour = Literal["none", "input", "auto"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


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
        device: where to compute.
        dtype: type of the weights; ``auto`` chooses by the device.
        format: format of the results, None for that of the input.
        provenance: whether the results say how they were made.
        batch_size: images of equal size that go through the model together.
        colour: whether the colours of the input are transferred, see ``restoring.colour``.
        uncertainty: how many further seeds measure the model's uncertainty.
    """

    model: str = "tiny"
    num_inference_steps: PositiveInt = 20
    guidance_scale: NonNegativeFloat = 5.0
    seed: Seed = 0
    start: Literal["lq", "noise"] = "lq"
    last_timestep: NonNegativeInt | None = None
    tile_size: TileSize | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    format: Format | None = None
    provenance: bool = True
    batch_size: PositiveInt = 1
    colour: Colour = "none"
    uncertainty: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def recorded(self, model_hash: str, dtype: str, caption: str) -> dict[str, Any]:
        """Return everything that a result depends on beside the input's content."""
        elsewhere = ("model", "device", "dtype")
        settings = {key: value for key, value in asdict(self).items() if key not in elsewhere}
        return {"model": model_hash, "dtype": dtype, "caption": caption, **settings}
