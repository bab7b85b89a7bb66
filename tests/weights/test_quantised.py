"""The recipe for 8-bit weights in docs/gpu.md, by torchao, on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import TorchAoConfig, UNet2DConditionModel
from skimage import data
from torch import nn

from tests.small import small_model
from unildiff.weights.folder import save_model
from unildiff.weights.pipeline import UniLDiffPipeline

torchao = pytest.importorskip("torchao.quantization")


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    return [each for each in module.modules() if isinstance(each, nn.Linear)]


def test_eight_bit_weights_of_the_unet_hardly_change_the_image() -> None:
    image = np.ascontiguousarray(data.astronaut()[100:164, 180:244])
    pipeline = UniLDiffPipeline.from_pretrained("tiny")

    def restored(seed: int = 0) -> np.ndarray:
        made = pipeline(image, "a face", num_inference_steps=2, generator=torch.Generator().manual_seed(seed))
        return np.asarray(made.images[0], np.float32)

    plain, other = restored(), restored(1)
    torchao.quantize_(pipeline.model.unet.rest, torchao.Int8WeightOnlyConfig())
    layers = linear_layers(pipeline.model.unet.rest)
    assert len(layers) > 20 and all(type(layer.weight).__name__ == "Int8Tensor" for layer in layers)
    assert np.abs(restored() - plain).mean() < 0.5 * np.abs(other - plain).mean()


def test_diffusers_reads_the_exported_unet_with_its_own_configuration(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path, torch.float32)
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    unet = UNet2DConditionModel.from_pretrained(
        tmp_path / "unet", quantization_config=config, torch_dtype=torch.float32
    )
    assert any(type(layer.weight).__name__ == "Int8Tensor" for layer in linear_layers(unet))
