"""The type of the weights for inference, chosen by the device: one function for every command."""

import torch

from unildiff.utils.errors import UserError


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on GPUs that compute in it, float16 on older ones and on Apple's, float32 on CPUs.

    SDXL's VAE is the variant that is safe in float16 (``core.sizes``).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a type that the device does not compute in (bfloat16 on older GPUs and on macOS 13), before weights are read.

    Raises:
        UserError: one line.
    """
    try:
        known = dtype != torch.bfloat16 or device.type != "cuda" or torch.cuda.is_bf16_supported(False)
        if known:
            one = torch.ones(1, 1, dtype=dtype, device=device)
            one @ one
    except (RuntimeError, TypeError):
        known = False
    if not known:
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"dtype: {device} does not compute in {name}; leave --dtype out, or give float32")


def use_fast_matmul(device: torch.device) -> None:
    """Allow TF32 in float32 products on CUDA, which costs three digits and is several times as fast."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
