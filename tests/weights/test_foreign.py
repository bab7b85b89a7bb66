"""Other projects' files at a tiny size, under the names that those projects use."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tests.small import sdxl_like_base, small_base, small_model
from tests.weights.ldm_layout import unet_name
from unildiff.core.base import Base
from unildiff.stages.joint import JointFinetuneModule
from unildiff.stages.joint_lora import JointLoRAModule
from unildiff.utils.errors import UserError
from unildiff.weights.base import load_base
from unildiff.weights.folder import save_base, save_model
from unildiff.weights.foreign import split_additions
from unildiff.weights.load import assemble, check_own_base


def shifted(base: Base, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights of a U-Net of the same shape, with other values."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in base.unet.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(small_base(), tmp_path / "base")
    return tmp_path / "base"


def faithdiff_file(path: Path, base: Base) -> dict[str, torch.Tensor]:
    """Write a file with the names of FaithDiff.bin: a diffusers U-Net, `denoise_encoder.*`, and its alignment."""
    dropped = ("conv_norm_out.", "conv_act.", "conv_out.")
    encoder = {name: value + 1 for name, value in base.vae.encoder.state_dict().items() if not name.startswith(dropped)}
    state = shifted(base) | {f"denoise_encoder.{name}": value for name, value in encoder.items()}
    for name in (
        "information_transformer_layes.0.attn.in_proj_weight",
        "spatial_ch_projs.weight",
        "condition_embedding.conv_in.weight",
    ):
        state[name] = torch.ones(2, 2)
    torch.save(state, path)
    return state


def test_the_joint_stage_starts_from_faithdiff(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = faithdiff_file(tmp_path / "FaithDiff.bin", small_base())
    source = f"faithdiff:{tmp_path / 'FaithDiff.bin'}"
    stage = JointFinetuneModule(base=str(folder), init_from=source)
    parameters = dict(stage.model.named_parameters())
    assert torch.equal(parameters["unet.conv_in.weight"], state["conv_in.weight"])
    assert torch.equal(parameters["unet.rest.conv_out.bias"], state["conv_out.bias"])
    assert torch.equal(
        parameters["lq_encoder.mid_block.resnets.0.conv1.weight"],
        state["denoise_encoder.mid_block.resnets.0.conv1.weight"],
    )
    filled = [name for name in parameters if name.startswith(("lq_encoder.", "unet.conv_in.", "unet.rest."))]
    assert len(filled) == len(state) - 3
    assert "the 3 weights of its alignment have no counterpart in DAFF" in caplog.text
    with pytest.raises(UserError, match="only the joint stage trains and stores"):
        JointLoRAModule(base=str(folder), init_from=source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("denoise")], "not FaithDiff's file"),
        (lambda state: state.pop("conv_out.bias"), "unet.rest.conv_out.bias"),
        (lambda state: state.update({"conv_out.bias": torch.zeros(9)}), "of another shape"),
    ],
)
def test_other_files_are_refused(change: Any, message: str, folder: Path, tmp_path: Path) -> None:
    state = faithdiff_file(tmp_path / "f.bin", small_base())
    change(state)
    torch.save(state, tmp_path / "f.bin")
    with pytest.raises(UserError, match=message):
        JointFinetuneModule(base=str(folder), init_from=f"faithdiff:{tmp_path / 'f.bin'}")
    with pytest.raises(UserError, match="is missing"):
        JointFinetuneModule(base=str(folder), init_from="faithdiff:none.bin")


@pytest.mark.parametrize("layout", ["diffusers", "single file", "pickle"])
def test_a_unet_alone_replaces_that_of_the_base(layout: str, tmp_path: Path) -> None:
    base = sdxl_like_base()
    save_base(base, tmp_path / "base")
    base.unet.load_state_dict(expected := shifted(base))
    file = tmp_path / ("unet.bin" if layout == "pickle" else "unet.safetensors")
    if layout == "pickle":
        torch.save(expected, file)
    else:
        ldm = {f"model.diffusion_model.{unet_name(base, name)}": value for name, value in expected.items()}
        save_file(expected if layout == "diffusers" else ldm, file)
    loaded = load_base(f"{tmp_path / 'base'}+{file}")
    assert all(torch.equal(value, expected[name]) for name, value in loaded.unet.state_dict().items())
    assert torch.equal(loaded.vae.post_quant_conv.weight, base.vae.post_quant_conv.weight)


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
def test_adapters_are_merged_into_the_base(names: str, tmp_path: Path) -> None:
    base = sdxl_like_base()
    save_base(base, tmp_path / "base")
    plain = {name: value.clone() for name, value in base.unet.state_dict().items()}
    base.unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q"]))
    generator = torch.Generator().manual_seed(7)
    layers = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in get_peft_model_state_dict(base.unet).items()
    }
    if names == "diffusers":
        StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, weight_name="lora.safetensors")
    else:
        kohya = {}
        for name, value in layers.items():
            layer, kind = name.removesuffix(".weight").rsplit(".", 1)
            layer = "lora_unet_" + layer.replace(".", "_")
            kohya[f"{layer}.{'lora_down' if kind == 'lora_A' else 'lora_up'}.weight"] = value
            kohya[f"{layer}.alpha"] = torch.tensor(2.0)  # the rank, so that nothing is scaled
        save_file(kohya, tmp_path / "lora.safetensors")
    merged = load_base(f"{tmp_path / 'base'}+{tmp_path / 'lora.safetensors'}").unet.state_dict()
    assert merged.keys() == plain.keys() and layers
    for name, value in plain.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in layers:  # W + B A
            value = value + layers[f"{layer}.lora_B.weight"] @ layers[f"{layer}.lora_A.weight"]
        assert torch.allclose(merged[name], value, atol=1e-5), name


def test_a_model_keeps_its_own_parts_under_another_unet(tmp_path: Path) -> None:
    """BASE+FILE with an exported model as BASE; its path has a plus sign."""
    model = small_model()
    save_model(model, tmp_path / "one+two", torch.float32)
    unet = model.unet.to_diffusers().state_dict()
    save_file({name: value + 1 for name, value in unet.items()}, tmp_path / "a+b.safetensors")
    found, _ = assemble(f"{tmp_path / 'one+two'}+{tmp_path / 'a+b.safetensors'}")
    assert torch.equal(found.unet.conv_in.weight, unet["conv_in.weight"] + 1)
    kept = model.unet.fusion.state_dict() | model.decoder.state_dict()
    same = found.unet.fusion.state_dict() | found.decoder.state_dict()
    assert found.config == model.config and all(torch.equal(same[name], value) for name, value in kept.items())
    check_own_base(f"{tmp_path / 'one+two'}+{tmp_path / 'a+b.safetensors'}", str(tmp_path / "one+two"))


def test_names_beside_a_plus_sign(tmp_path: Path) -> None:
    (tmp_path / "x+y").mkdir()
    assert split_additions(f"{tmp_path}/x+y") == (f"{tmp_path}/x+y", [])
    assert split_additions(f"{tmp_path}/x+y+none+{tmp_path}") == (f"{tmp_path}/x+y", [Path("none"), tmp_path])
    assert split_additions("owner/name+a.safetensors") == ("owner/name", [Path("a.safetensors")])
    for name in ("tiny+", "+a.safetensors", "tiny++a"):
        with pytest.raises(UserError, match="lacks a name beside a plus sign"):
            split_additions(name)


def test_adapters_of_which_some_fit_are_refused(tmp_path: Path) -> None:
    base = sdxl_like_base()
    save_base(base, tmp_path / "base")
    base.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    layers = get_peft_model_state_dict(base.unet)
    first = next(name for name in layers if "lora_A" in name)
    more = {name.replace("attentions.0", "attentions.7"): value + 1 for name, value in layers.items()}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, layers | more, weight_name="lora.safetensors")
    assert first in layers and more.keys() - layers.keys()
    with pytest.raises(UserError, match=r"lora.safetensors does not fit the base .*adapters have no layer in the base"):
        load_base(f"{tmp_path / 'base'}+{tmp_path / 'lora.safetensors'}")


def test_files_that_do_not_fit_the_base_are_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors does not fit the base"):
        load_base(f"{folder}+{tmp_path / 'other.safetensors'}")
    with pytest.raises(UserError, match=r"none.safetensors is missing"):
        load_base(f"{folder}+none.safetensors")
