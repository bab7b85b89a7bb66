"""The type of the weights for inference, chosen by the device: one function for every command."""

import torch


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on GPUs that compute in it, float16 on older ones and on Apple's, float32 on CPUs.

    SDXL's VAE is the variant that is safe in float16 (``core.sizes``).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def use_fast_matmul(device: torch.device) -> None:
    """Allow TF32 in float32 products on CUDA, which costs three digits and is several times as fast."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
