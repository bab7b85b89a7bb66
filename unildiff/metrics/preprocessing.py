"""Turn images into the planes that a protocol compares: checks, rounding, crops, colour.

Axis letters: B batch, C channels (3 as given; 1 after luma), H W pixels.
"""

import torch
from torch import Tensor

from unildiff.metrics.protocols import Colour, Protocol

# Luma on the scale 0..255: weights of R, G, B on 0..1 times 255, and the offset. "bt601" is MATLAB's rgb2ycbcr.
_LUMA: dict[Colour, tuple[tuple[float, float, float], float]] = {
    "bt601": ((65.481 / 255, 128.553 / 255, 24.966 / 255), 16.0),
    "yiq": ((0.299, 0.587, 0.114), 0.0),
}
_OVERSHOOT = 0.5  # a network's output may leave [0, 1] a little; [-1, 1] or 0..255 as floats are another matter


def check_pair(restored: Tensor, gt: Tensor) -> None:
    """Refuse anything but two batches of RGB images of the same size, uint8 or floats in [0, 1].

    Args:
        restored: (B, 3, H, W), uint8 in 0..255 or floating; floats may overshoot [0, 1] by 0.5 (protocols clamp).
        gt: (B, 3, H, W), uint8 or floats in [0, 1].

    Raises:
        ValueError: Another shape, dtype, device or range; different sizes; NaN.
    """
    for label, image in (("restored", restored), ("gt", gt)):
        if image.dim() != 4 or image.shape[1] != 3:
            hint = " (channels last? permute first)" if image.dim() == 4 and image.shape[3] == 3 else ""
            raise ValueError(f"{label}: expected RGB images (B, 3, H, W), got {tuple(image.shape)}{hint}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"{label}: expected uint8, or floats in [0, 1], got {image.dtype}")
    if restored.shape != gt.shape:
        raise ValueError(f"restored is {tuple(restored.shape)}, gt is {tuple(gt.shape)}: they must be the same size")
    if restored.device != gt.device:
        raise ValueError(f"restored is on {restored.device}, gt on {gt.device}: move one")
    for label, image, slack in (("restored", restored, _OVERSHOOT), ("gt", gt, 0.0)):
        if image.is_floating_point() and image.numel():
            low, high = (float(value) for value in image.aminmax())
            if not (low >= -slack and high <= 1 + slack):  # also catches NaN
                raise ValueError(f"{label}: floats must be in [0, 1], found {low:.3g}..{high:.3g}; scale it first")


def crop(image: Tensor, protocol: Protocol) -> Tensor:
    """Centre-crop (..., H, W) to the protocol's multiple, then take its border off; a view.

    Raises:
        ValueError: Nothing would be left.
    """
    height, width = image.shape[-2:]
    multiple, border = protocol.crop_multiple, protocol.border
    kept_height, kept_width = height - height % multiple, width - width % multiple
    if min(kept_height, kept_width) - 2 * border < 1:
        raise ValueError(
            f"image of {height}x{width} is too small for protocol {protocol.name!r}: centre crop to {multiple}, "
            f"border {border}"
        )
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return image[..., top + border : top + kept_height - border, left + border : left + kept_width - border]


def to_uint8(image: Tensor) -> Tensor:
    """Floats in [0, 1] to 0..255, rounded half to even as `numpy.round` does; uint8 passes through."""
    if image.dtype == torch.uint8:
        return image
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def prepare(image: Tensor, protocol: Protocol, dtype: torch.dtype, round_luma: bool = False) -> Tensor:
    """Turn a checked image into the planes that are compared.

    Args:
        image: (B, 3, H, W), uint8 or floats in [0, 1].
        protocol: Decides clamping, rounding, crops and colour.
        dtype: Type of a result that is not uint8: float32 or float64.
        round_luma: Round luma to integers (pyiqa's SSIM).

    Returns:
        (B, C, H', W') on the scale 0..255: uint8 where the values are integers, else `dtype`.
    """
    image = crop(image.detach(), protocol)
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()
    if protocol.quantise:
        image = to_uint8(image)
    elif protocol.clamp and image.is_floating_point():
        image = image.clamp(0, 1)
    if protocol.colour == "rgb":
        return image if image.dtype == torch.uint8 else image.to(dtype) * 255
    if round_luma and protocol.colour == "yiq" and image.dtype == torch.uint8:
        # In thousandths, exactly: one pixel in a thousand is a tie, which floating point would settle at random.
        red, green, blue = image.int().unbind(1)
        return ((299 * red + 587 * green + 114 * blue).double() / 1000).round().to(torch.uint8).unsqueeze(1)
    weights, offset = _LUMA[protocol.colour]
    red, green, blue = (image if image.dtype == torch.uint8 else image * 255).to(dtype).unbind(1)
    luma = (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2]).add_(offset).unsqueeze(1)
    return luma.round() if round_luma else luma
