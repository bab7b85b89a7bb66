"""Parameter counts and shapes at full size, on the meta device, without allocations."""

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from tests.small import WORDS
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import DAFF, FusionConfig
from unildiff.core.decoder import DetailDecoder
from unildiff.core.encoders import LQEncoder, downscale_factor, encode_latents
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.sizes import SDXL
from unildiff.core.tiny import make_tiny_base
from unildiff.utils.paths import config_path


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.device("meta"):
        return AutoencoderKL(**SDXL["vae"])


def test_sdxl_has_the_published_number_of_parameters(vae: AutoencoderKL) -> None:
    assert count(vae) == 83_653_863
    with torch.device("meta"):
        assert count(UNet2DConditionModel(**SDXL["unet"])) == 2_567_463_684


def test_tiny_model_has_at_most_10_million_parameters() -> None:
    model = yaml.safe_load(config_path("configs/tiny/weights/4_joint.yaml").read_text())["model"]["init_args"]
    fusion, detail = model["network"]["fusion"], model["network"]["detail"]
    network = NetworkConfig(FusionConfig(**fusion), DetailConfig(**detail))
    tiny = UniLDiff(make_tiny_base(WORDS), network)
    assert 5_000_000 < count(tiny) <= 10_000_000  # VAE, its two tuned copies, U-Net, fusion, experts, text encoder
    assert tiny.downscale_factor == 8
    smallest = make_tiny_base(WORDS)
    assert count(smallest.text) < 100_000


def test_lq_encoder_at_sdxl_size(vae: AutoencoderKL) -> None:
    encoder = LQEncoder(vae)
    deep, skips = encoder(torch.empty(2, 3, 512, 512, device="meta"))
    assert deep.shape == (2, 512, 64, 64)  # 512 channels at 1/8 of the image
    assert [tuple(skip.shape) for skip in skips] == [(2, 128, 512, 512), (2, 256, 256, 256), (2, 512, 128, 128)]
    # The VAE encoder without its last norm (2 x 512) and convolution (512 x 8 x 9 + 8).
    assert count(encoder) == count(vae.encoder) - 1024 - (512 * 8 * 9 + 8)
    assert downscale_factor(vae) == 8
    assert encode_latents(vae, torch.empty(2, 3, 512, 512, device="meta")).shape == (2, 4, 64, 64)


def test_daff_at_sdxl_size() -> None:
    with torch.device("meta"):
        daff = DAFF(FusionConfig(), latent_channels=320, lq_channels=512, text_dim=2048)
        context = daff.prepare(torch.empty(2, 512, 64, 64), torch.empty(2, 77, 2048))
        output = daff(torch.empty(2, 320, 64, 64), torch.empty(2), context)
    assert context.lq_tokens.shape == (2, 64 * 64, 1024)
    assert output.residual.shape == (2, 320, 64, 64) and output.gate.shape == (2,)
    # Authors' widths: 16 heads of 64 in the double block at 1024, of 128 in the single block at 2048.
    assert (daff.double_blocks[0].lq.qkv.num_heads, daff.double_blocks[0].lq.qkv.head_dim) == (16, 64)
    assert (daff.single_blocks[0].qkv.num_heads, daff.single_blocks[0].qkv.head_dim) == (16, 128)
    assert daff.double_blocks[0].lq.mlp[0].out_features == 4 * 1024
    assert (len(daff.double_blocks), len(daff.single_blocks)) == (1, 1)


def test_daem_at_sdxl_size(vae: AutoencoderKL) -> None:
    with torch.device("meta"):
        decoder = DetailDecoder(vae, DetailConfig())
    # Up blocks end with 512, 512, 256 channels at 1/4, 1/2, 1; there wait skips of 512, 256, 128 channels.
    assert [detail.merge.in_channels for detail in decoder.details] == [512 + 512, 512 + 256, 256 + 128]
    assert [detail.output.out_channels for detail in decoder.details] == [512, 512, 256]
    kernels = [expert[0].depthwise.kernel_size for expert in decoder.details[0].experts]
    assert kernels == [(3, 3), (5, 5), (7, 7), (9, 9)]  # authors' depthwise kernels
    plain = DetailDecoder(vae, DetailConfig(kind="none"))
    assert count(plain) == count(vae.decoder) + count(vae.post_quant_conv)
