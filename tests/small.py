"""Small models with the structure of the real ones: the tiny base (one text encoder) and SDXL (two)."""

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from unildiff.core.base import Base
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.pixel_mix import BrightnessGate
from unildiff.core.sizes import SDXL, TINY
from unildiff.core.text import TextEncoders
from unildiff.core.tiny import make_tiny_base, tiny_tokenizer

WORDS = ["a", "cat", "on", "the", "red", "table"]

SMALL: dict[str, dict[str, Any]] = {
    # Two halvings instead of the tiny VAE's one, for two levels of skips and experts.
    "vae": TINY["vae"]
    | {
        "block_out_channels": (8, 8, 16),
        "latent_channels": 4,
        "norm_num_groups": 4,
        "in_channels": 12,
        "out_channels": 12,
    }
    | {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3},
    "unet": TINY["unet"]
    | {"in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16, 16), "norm_num_groups": 4}
    | {"cross_attention_dim": 16},
    "scheduler": TINY["scheduler"],
    "text_encoder": TINY["text_encoder"]
    | {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "max_position_embeddings": 12},
}

SDXL_LIKE: dict[str, dict[str, Any]] = {
    "vae": SDXL["vae"] | {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1},
    "unet": SDXL["unet"]
    | {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": (2, 2, 2)}
    | {"transformer_layers_per_block": (1, 1, 2), "cross_attention_dim": 16 + 24, "addition_time_embed_dim": 8}
    | {"projection_class_embeddings_input_dim": 20 + 6 * 8},
    "scheduler": SDXL["scheduler"],
}

NETWORK = NetworkConfig(
    FusionConfig(hidden_size=16, num_heads=2, mlp_ratio=2), DetailConfig(width=8, kernel_sizes=(3, 5))
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_images(height: int = 32, width: int = 48, count: int = 2, seed: int = 0) -> Tensor:
    """Return images (B, 3, H, W) of uniform noise in [-1, 1]."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_base(seed: int = 0) -> Base:
    """Return an untrained base with the structure of the tiny one, about 0.1 M parameters."""
    return make_tiny_base(WORDS, seed, SMALL)


def sdxl_like_base(seed: int = 0) -> Base:
    """Return an untrained base with the structure of SDXL: two text encoders, projection, size conditioning."""
    tokenizer = tiny_tokenizer(WORDS, 12)
    common = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    common |= {"max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = [
            CLIPTextModel(CLIPTextConfig(hidden_size=16, **common)),
            CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=24, projection_dim=20, **common)),
        ]
        vae, unet = AutoencoderKL(**SDXL_LIKE["vae"]), UNet2DConditionModel(**SDXL_LIKE["unet"])
    return Base(vae, unet, TextEncoders([tokenizer, tokenizer], encoders), dict(SDXL_LIKE["scheduler"]))


def small_model(base: Base | None = None, seed: int = 0, network: NetworkConfig | None = None) -> UniLDiff:
    """Return a model in evaluation mode whose added parts have an effect: weights that start at zero are drawn, too."""
    base = base or small_base(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UniLDiff(base, network or NETWORK).eval().requires_grad_(False)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape))
        open_gates(model)
    return model


def open_gates(model: nn.Module) -> None:
    """Open gates that start closed halfway, so that they depend on their input."""
    for module in model.modules():
        if isinstance(module, BrightnessGate):
            nn.init.zeros_(module.output.bias)
