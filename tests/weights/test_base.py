import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from tests.processes import own_memory
from tests.small import SDXL_LIKE, sdxl_like_base, small_base
from tests.weights.hub import COMMIT, hub
from tests.weights.ldm_layout import write_single_file
from unildiff.core.base import Base
from unildiff.utils.errors import UserError
from unildiff.weights.base import load_base
from unildiff.weights.folder import save_base

REPO = "stabilityai/stable-diffusion-xl-base-1.0"
XL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.fixture(scope="module")
def base() -> Base:
    return sdxl_like_base()


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> Path:
    save_base(base, tmp_path / "base")
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(XL_INDEX))
    return tmp_path / "base"


def weights(base: Base) -> dict[str, torch.Tensor]:
    parts = {"unet": base.unet, "vae": base.vae, "text": base.text}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def same(first: Base, second: Base) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def failure(name: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_base(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folder_with_two_text_encoders(base: Base, folder: Path) -> None:
    loaded = load_base(str(folder))
    assert same(base, loaded)
    assert loaded.scheduler["beta_schedule"] == "scaled_linear" and loaded.scheduler["steps_offset"] == 1
    # diffusers' own pipeline embeds captions the same way: penultimate layers, pooled embedding of the second
    pipeline = StableDiffusionXLPipeline(
        loaded.vae,
        *loaded.text.encoders,
        *loaded.text.tokenizers,
        loaded.unet,
        EulerDiscreteScheduler.from_config(loaded.scheduler),
        add_watermarker=False,
    )
    tokens, _, pooled, _ = pipeline.encode_prompt("a red cat", device="cpu", do_classifier_free_guidance=False)
    ours = loaded.text(["a red cat"])
    assert torch.equal(ours.tokens, tokens) and torch.equal(ours.pooled, pooled)
    assert tokens.shape == (1, 12, 40) and pooled.shape == (1, 20)


def test_folder_with_one_text_encoder(tmp_path: Path) -> None:
    base = small_base()
    save_base(base, tmp_path)
    loaded = load_base(str(tmp_path))
    assert same(base, loaded) and loaded.text(["a cat"]).pooled is None


def test_sharded(base: Base, folder: Path) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    base.unet.save_pretrained(unet, max_shard_size="300KB")
    shards = sorted(unet.glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert same(base, load_base(str(folder)))
    shards[1].unlink()
    assert f"{shards[1]} is missing" in failure(folder)


def test_half_precision_variant_is_taken_only_when_alone(base: Base, folder: Path) -> None:
    half = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).half()
    half.save_pretrained(folder / "unet", variant="fp16")
    assert same(base, load_base(str(folder)))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    loaded = load_base(str(folder))
    weight = loaded.unet.conv_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, base.unet.conv_in.weight.half().float())
    assert not torch.equal(weight, base.unet.conv_in.weight)


def test_sharded_variant(base: Base, folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    half = sdxl_like_base().unet.half()
    half.save_pretrained(folder / "unet", variant="fp16", max_shard_size="100KB")
    assert len(list((folder / "unet").glob("*fp16*.safetensors"))) > 1
    assert torch.equal(load_base(str(folder)).unet.conv_in.weight, half.conv_in.weight.float())


def test_single_file(base: Base, folder: Path, tmp_path: Path) -> None:
    path = folder / "sd_xl.safetensors"
    write_single_file(base, path)
    assert same(base, load_base(str(path)))
    elsewhere = tmp_path / "alone.safetensors"
    path.rename(elsewhere)
    message = failure(elsewhere)
    assert "tokenizers and configs" in message and str(elsewhere) in message and "hf download" in message


def test_another_vae(base: Base, folder: Path, tmp_path: Path) -> None:
    other = sdxl_like_base(seed=1)
    other.vae.register_to_config(scaling_factor=0.5)
    other.vae.save_pretrained(tmp_path / "fixed")
    loaded = load_base(str(folder), vae=str(tmp_path / "fixed"))
    assert torch.equal(loaded.vae.post_quant_conv.weight, other.vae.post_quant_conv.weight)
    assert loaded.vae.config.scaling_factor == 0.5
    assert torch.equal(loaded.unet.conv_in.weight, base.unet.conv_in.weight)
    whole = tmp_path / "whole"  # the folder of a base works too, and so does a single file
    save_base(other, whole)
    assert load_base(str(folder), vae=str(whole)).vae.config.scaling_factor == 0.5
    write_single_file(other, tmp_path / "vae.safetensors")
    from_file = load_base(str(folder), vae=str(tmp_path / "vae.safetensors")).vae
    assert torch.equal(from_file.post_quant_conv.weight, other.vae.post_quant_conv.weight)
    assert "is truncated" in failure(folder, vae=str(cut(whole / "vae" / "diffusion_pytorch_model.safetensors").parent))


class WideAllocations(TorchDispatchMode):
    """Counts tensors of four or more bytes per number that are as large as a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and out.itemsize >= 4 and out.numel() > 256:
            self.count += 1
        return out


def test_weights_arrive_in_their_dtype_without_a_detour(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "unildiff.weights.base.check_scheduler", lambda *_: None
    )  # its thousand float32 values are not weights
    for part in ("unet", "vae"):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file, {"format": "pt"})
    with WideAllocations() as wide:
        loaded = load_base(str(folder), torch.bfloat16)
    assert {value.dtype for value in weights(loaded).values()} == {torch.bfloat16}
    assert wide.count == 0
    with WideAllocations() as wide:  # the counter works
        load_base(str(folder))
    assert wide.count > 0


def cut(path: Path) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 100])
    return path


@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder_2/model.safetensors", "vae/config.json"]
)
def test_damaged_files_are_named(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    named = str(folder / file) if file.endswith("safetensors") else str((folder / file).parent)
    cut(folder / file)
    assert named in failure(folder)
    (folder / file).write_bytes(b"")
    assert named in failure(folder)
    (folder / file).unlink()
    assert str((folder / file).parent) in failure(folder)
    (folder / file).write_bytes(whole)
    load_base(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prediction_type", None, "lacks 'prediction_type'"),
        ("beta_schedule", "squaredcos_cap_v2", "is not supported: beta_schedule 'squaredcos_cap_v2'"),
        ("use_karras_sigmas", True, "sets use_karras_sigmas"),
    ],
)
def test_another_schedule_is_named_before_weights_are_read(
    key: str, value: object, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {key: value}
    file.write_text(json.dumps({name: given for name, given in config.items() if given is not None}))
    monkeypatch.setattr("unildiff.weights.base._part", lambda *_: pytest.fail("read"))
    found = failure(folder)
    assert message in found and str(file.parent) in found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("time_cond_proj_dim", 256, "sets time_cond_proj_dim to 256: it needs a guidance embedding"),
        ("class_embed_type", "timestep", "it needs class labels"),
        ("addition_embed_type", "image", "sets addition_embed_type to 'image'"),
    ],
)
def test_a_unet_with_other_inputs_is_named_before_weights_are_read(
    key: str, value: object, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    monkeypatch.setattr("unildiff.weights.base._part", lambda *_: pytest.fail("read"))
    found = failure(folder)
    assert message in found and str(file.parent) in found


def test_a_missing_weight_is_named(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = load_file(file)
    content.pop("mid_block.resnets.0.conv1.weight")
    save_file(content, file, {"format": "pt"})
    assert "1 missing keys, mid_block.resnets.0.conv1.weight" in failure(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 8}))
    assert f"{folder / 'vae'} cannot be loaded" in failure(folder)


@pytest.mark.parametrize("part", ["unet", "scheduler", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    (folder / part).rename(folder / "gone")
    assert f"it lacks {part}/" in failure(folder)


def test_a_name_that_is_neither_folder_nor_id() -> None:
    for name in ("/nowhere/sdxl", "./sdxl", "sdxl", "a/b/c", "sd_xl_base.safetensors"):
        message = failure(name)
        assert f"no folder or file {name}" in message and "configs/tiny/joint.yaml" in message


# --- Hugging Face ids ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def in_cache(cache: Path, folder: Path) -> Path:
    """Copy ``folder`` into the layout of the hub's cache, and return the snapshot."""
    home = cache / f"models--{REPO.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "snapshots").mkdir()
    return folder.rename(home / "snapshots" / COMMIT)


def test_an_id_that_is_cached_needs_no_network(
    base: Base, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = in_cache(cache, folder)
    assert same(base, load_base(REPO))
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    message = failure(REPO)
    assert "HF_HUB_OFFLINE is set" in message and str(cache) in message


def test_no_network_is_one_line_within_seconds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    )
    began = time.monotonic()
    message = failure(REPO, vae="madebyollin/sdxl-vae-fp16-fix")
    assert time.monotonic() - began < 10
    for part in (REPO, str(cache), f"hf download {REPO}", "--model.base FOLDER", "configs/tiny/joint.yaml"):
        assert part in message


def test_only_the_needed_files_of_an_id_are_fetched(
    base: Base, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).half()
    half.save_pretrained(folder / "unet", variant="fp16")
    (folder / "sd_xl_base_1.0.safetensors").write_bytes(b"large")
    (folder / "unet" / "model.onnx").write_bytes(b"large")
    with hub(folder, REPO) as (address, fetched):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        assert same(base, load_base(REPO))
        assert "unet/diffusion_pytorch_model.safetensors" in fetched
        assert not [name for name in fetched if "fp16" in name or "onnx" in name or name.startswith("sd_xl")]
        again = len(fetched)
        load_base(REPO)
        assert len(fetched) == again


def test_an_id_with_half_precision_only(base: Base, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).half().save_pretrained(
        folder / "unet", variant="fp16"
    )
    file.unlink()
    with hub(folder, REPO) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        loaded = load_base(REPO)
    assert torch.equal(loaded.unet.conv_in.weight, base.unet.conv_in.weight.half().float())


def test_weights_are_mapped_without_random_initialisation(folder: Path) -> None:
    wide = UNet2DConditionModel(**SDXL_LIKE["unet"] | {"block_out_channels": (64, 192, 384)})
    wide.save_pretrained(folder / "unet")
    first = load_base(str(folder))  # kept: what loading takes once, and no memory to use again
    before, drawn = own_memory(), torch.get_rng_state()
    loaded = load_base(str(folder))
    assert own_memory() - before < sum(value.nbytes for value in loaded.unet.parameters()) / 4
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(each.unet.conv_in.weight, wide.conv_in.weight) for each in (first, loaded))
