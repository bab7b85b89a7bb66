"""Contracts with published checkpoints and other code: names of weights, and a core without Lightning."""

import re
import subprocess
import sys

import pytest

from tests.small import NETWORK, SMALL, sdxl_like_base, small_base
from unildiff.core.daff import FusionConfig
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.sizes import TINY
from unildiff.utils.paths import PACKAGE

# Renaming any of these makes every published checkpoint unreadable: then add a rule that reads the old name.
KEYS = [
    "vae.encoder.conv_in.weight",
    "vae.decoder.up_blocks.0.resnets.0.conv1.weight",
    "text.encoders.0.encoder.layers.0.self_attn.q_proj.weight",
    "lq_encoder.conv_in.weight",
    "lq_encoder.down_blocks.0.resnets.0.conv1.weight",
    "lq_encoder.mid_block.resnets.1.conv2.bias",
    "unet.conv_in.weight",
    "unet.rest.down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "unet.rest.conv_out.bias",
    "unet.fusion.latent_in.weight",
    "unet.fusion.lq_norm.norm.weight",
    "unet.fusion.lq_in.bias",
    "unet.fusion.time.mlp.0.weight",
    "unet.fusion.double_blocks.0.lq.modulation.weight",
    "unet.fusion.double_blocks.0.latent.qkv.projection.weight",
    "unet.fusion.double_blocks.0.latent.qkv.query_norm.weight",
    "unet.fusion.double_blocks.0.lq.mlp.2.weight",
    "unet.fusion.single_blocks.0.mlp_in.weight",
    "unet.fusion.single_blocks.0.output.weight",
    "unet.fusion.text_attention.key_value.weight",
    "unet.fusion.final_modulation.weight",
    "unet.fusion.output.weight",
    "decoder.post_quant_conv.weight",
    "decoder.conv_in.weight",
    "decoder.up_blocks.1.resnets.0.conv1.weight",
    "decoder.conv_norm_out.weight",
    "decoder.details.0.merge.weight",
    "decoder.details.0.mix.0.depthwise.weight",
    "decoder.details.0.router.weight.weight",
    "decoder.details.1.experts.1.0.depthwise.weight",
    "decoder.details.1.shared.pooled.0.weight",
    "decoder.details.1.output.bias",
]


def keys(fusion: FusionConfig) -> set[str]:
    return set(UniLDiff(small_base(), NetworkConfig(fusion, NETWORK.detail)).state_dict())


def test_state_dict_keys() -> None:
    found = keys(NETWORK.fusion)
    assert [key for key in KEYS if key not in found] == []
    assert {name.split(".")[0] for name in found} == {"vae", "text", "lq_encoder", "unet", "decoder"}


def test_state_dict_keys_of_the_variants() -> None:
    experts = keys(FusionConfig(hidden_size=16, num_heads=2, mlp_ratio=2, token_experts=2))
    assert "unet.fusion.double_blocks.0.lq.mlp.router.weight.weight" in experts
    assert "unet.fusion.double_blocks.0.latent.mlp.experts.1.0.weight" in experts
    plain = {key for key in keys(FusionConfig(kind="plain")) if key.startswith("unet.fusion.")}
    assert plain == {"unet.fusion.output.weight", "unet.fusion.output.bias"}
    assert any(
        key.startswith("text.encoders.1.text_projection") for key in sdxl_like_base().text.state_dict(prefix="text.")
    )


def test_all_sizes_have_the_same_config_keys() -> None:
    # Nothing but sizes differs between the base of the tests, the tiny one and SDXL: the same keys in their configs.
    assert {part: set(sizes) for part, sizes in SMALL.items()} == {part: set(sizes) for part, sizes in TINY.items()}


@pytest.mark.parametrize("folder", ["core", "diffusion", "stages"])
def test_files_that_name_axes_explain_them(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        text = path.read_text()
        if re.search(r"\(B[,)]", text):
            assert "Axis letters:" in text.partition("import ")[0], path.name


def test_core_and_diffusion_never_import_lightning() -> None:
    code = """
import importlib, pkgutil, sys
import unildiff.core, unildiff.diffusion
for package in (unildiff.core, unildiff.diffusion):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import unildiff.weights.load, unildiff.weights.checkpoints
loaded = [name for name in sys.modules if name.split(".")[0] in ("lightning", "pytorch_lightning", "torchmetrics")]
assert "unildiff.core.daff" in sys.modules and "unildiff.diffusion.sampler" in sys.modules
print(loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
