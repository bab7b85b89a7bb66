"""The exported ONNX graph gives the results of PyTorch in onnxruntime."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small import NETWORK, SMALL, WORDS, sdxl_like_base, small_model
from unildiff.cli.main import main
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.tiny import make_tiny_base
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_model
from unildiff.weights.onnx import OnnxRestorer, export_onnx, side_multiple

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
STEPS = 2
SHALLOW = SMALL | {  # tracing takes half a second per layer
    "vae": SMALL["vae"]
    | {"block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2}
    | {"up_block_types": ("UpDecoderBlock2D",) * 2},
    "unet": SMALL["unet"]
    | {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}


def by_pytorch(model: UniLDiff, image: np.ndarray, key: int) -> np.ndarray:
    lq = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    restored = model.restore(lq, [""], [key], SamplingSettings(STEPS, 1.0))
    return (restored[0].permute(1, 2, 0).numpy() + 1) / 2


def test_the_graph_equals_pytorch_at_every_size(tmp_path: Path) -> None:
    """One test, since tracing takes half a minute."""
    network = replace(NETWORK, detail=replace(NETWORK.detail, tone=True))
    model = small_model(make_tiny_base(WORDS, 4, SHALLOW), seed=4, network=network)
    model.decoder.tone.output.weight.mul_(0.1)  # a tile judges its own tone, which may then differ little
    save_model(model, tmp_path / "model", torch.float32)
    card = "---\nlicense: cc0-1.0\n---\n\n# Trained on public photographs, by this command\n"
    (tmp_path / "model" / "README.md").write_text(card)
    assert main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "m.onnx"), "--dtype", "float32"]) == 0
    runner, multiple = OnnxRestorer(tmp_path / "m.onnx"), side_multiple(model)
    facts = runner.session.get_modelmeta().custom_metadata_map
    assert (facts["model_card"], facts["license"]) == (card, "cc0-1.0")
    for rows, columns in ((1, 1), (4, 5), (3, 2)):
        image = np.random.default_rng(0).integers(0, 256, (rows * multiple, columns * multiple, 3), np.uint8)
        restored = runner(image, key=7)
        assert np.abs(restored - by_pytorch(model, image, 7)).max() < 1e-4
        assert (
            np.abs(restored - by_pytorch(model, image, 8)).max() > 1e-3
        )  # the noise matters: the check above can fail
    tile = 8 * runner.multiple
    image = np.tile(np.linspace(0, 255, 3 * tile).astype(np.uint8)[None, :, None], (2 * runner.multiple, 1, 3))
    whole, tiled, other = runner(image, 1, None), runner(image, 1, tile), runner(image, 2, None)
    assert not np.array_equal(whole, tiled)
    assert np.abs(whole - tiled).mean() < 0.5 * np.abs(whole - other).mean()  # tiles cut the same noise
    odd = runner(image[:7, :-3], 1, tile)
    assert odd.shape == (7, 3 * tile - 3, 3) and np.isfinite(odd).all() and 0 <= odd.min() and odd.max() <= 1


def test_models_that_cannot_be_exported_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="size conditioning"):
        export_onnx(small_model(sdxl_like_base()), tmp_path / "m.onnx")
    windows = NetworkConfig(NETWORK.fusion, type(NETWORK.detail)(width=8, kernel_sizes=(3, 5), routing="window"))
    with pytest.raises(UserError, match=r"detail\.routing is window"):
        export_onnx(small_model(network=windows), tmp_path / "m.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"text\.onnx is not a restorer"):
        OnnxRestorer(tmp_path / "text.onnx")
    assert not (tmp_path / "m.onnx").exists()
