"""What users of diffusers expect of every pipeline."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image

from tests.small import sdxl_like_base, small_model
from unildiff.data.images import load_image, write_png
from unildiff.diffusion.noise import KeyedNoise
from unildiff.utils.errors import UserError
from unildiff.utils.keys import image_key
from unildiff.weights.pipeline import UniLDiffPipeline
from unildiff.weights.pipeline_inputs import as_array

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def pipe() -> UniLDiffPipeline:
    made = UniLDiffPipeline.from_model(small_model())
    made.set_progress_bar_config(disable=True)
    return made


def restored(pipe: UniLDiffPipeline, *arguments: Any, **settings: Any) -> np.ndarray:
    made = pipe(*arguments, num_inference_steps=2, output_type="np", **settings).images
    assert isinstance(made, np.ndarray) and made.ndim == 4
    return made


def test_components_and_from_pipe_give_the_same_pixels(pipe: UniLDiffPipeline) -> None:
    pipe.register_modules(
        network=replace(pipe.network, last_timestep=300)
    )  # a switch that the components do not determine
    expected = restored(pipe, IMAGE)
    for other in (UniLDiffPipeline(**pipe.components), UniLDiffPipeline.from_pipe(pipe)):
        other.set_progress_bar_config(disable=True)
        assert np.array_equal(restored(other, IMAGE), expected)
    assert "network" in pipe.components
    with pytest.raises(ValueError, match="parts are missing: vae"):
        UniLDiffPipeline(**{**pipe.components, "vae": None})


def test_loading_options(pipe: UniLDiffPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    assert UniLDiffPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu").dtype == torch.bfloat16
    scheduler = EulerDiscreteScheduler.from_config(dict(pipe.scheduler.config) | {"timestep_spacing": "linspace"})
    assert UniLDiffPipeline.from_pretrained(tmp_path, use_safetensors=True, scheduler=scheduler).scheduler is scheduler
    for options, message in (
        ({"variant": "fp16"}, "variant is 'fp16'"),
        ({"use_safetensors": False}, "safetensors only"),
        ({"device_map": "nowhere"}, "device_map is 'nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            UniLDiffPipeline.from_pretrained(tmp_path, **options)


def test_a_replaced_scheduler_is_used_or_refused(pipe: UniLDiffPipeline) -> None:
    before = restored(pipe, IMAGE)
    config = dict(pipe.scheduler.config)
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        config | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False}
    )
    assert not np.array_equal(restored(pipe, IMAGE), before)
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="scheduler is DDIMScheduler; only EulerDiscreteScheduler"):
        pipe(IMAGE)


def test_a_generator_advances_and_its_first_use_is_its_seed(pipe: UniLDiffPipeline) -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = restored(pipe, IMAGE, generator=generator), restored(pipe, IMAGE, generator=generator)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, restored(pipe, IMAGE, generator=torch.Generator().manual_seed(7)))


def test_prompts_copies_and_batches(pipe: UniLDiffPipeline) -> None:
    cat, table = restored(pipe, IMAGE, "a cat"), restored(pipe, IMAGE, "red table")
    assert np.array_equal(restored(pipe, IMAGE, ["a cat", "red table"]), np.concatenate([cat, table]))
    three = restored(pipe, IMAGE, "a cat", num_images_per_prompt=3)
    assert len(three) == 3 and np.array_equal(three[:1], cat) and len(np.unique(three.reshape(3, -1), axis=0)) == 3
    batch = np.stack([IMAGE, IMAGE[::-1]])
    expected = np.concatenate([restored(pipe, IMAGE), restored(pipe, IMAGE[::-1].copy())])
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    for given in (batch, batch.astype(np.float32) / 255, tensor, [Image.fromarray(each) for each in batch]):
        assert np.array_equal(restored(pipe, given), expected)
    made = pipe([IMAGE, IMAGE[:16]], num_inference_steps=1, output_type="pt").images
    assert isinstance(made, list) and [tuple(each.shape) for each in made] == [(3, 24, 32), (3, 16, 32)]


def test_negative_prompts_and_embeddings() -> None:
    for base in (None, sdxl_like_base()):
        pipe = UniLDiffPipeline.from_model(small_model(base))
        pipe.set_progress_bar_config(disable=True)
        plain = restored(pipe, IMAGE, "a cat")
        assert not np.array_equal(restored(pipe, IMAGE, "a cat", negative_prompt="red table"), plain)
        assert np.array_equal(restored(pipe, IMAGE, "a cat", negative_prompt=""), plain)
        text = pipe.text(["a cat"])
        embeds = {"prompt_embeds": text.tokens, "pooled_prompt_embeds": text.pooled}
        assert np.array_equal(restored(pipe, IMAGE, **embeds), plain)
        with pytest.raises(ValueError, match="prompt and prompt_embeds are both given"):
            pipe(IMAGE, "a cat", **embeds)


def test_latents_in_and_out(pipe: UniLDiffPipeline) -> None:
    seen: list[torch.Tensor] = []

    def keep(_: UniLDiffPipeline, step: int, timestep: float, tensors: dict[str, torch.Tensor]) -> None:
        seen.append(tensors["latents"].clone())

    out = pipe(IMAGE, num_inference_steps=2, output_type="latent", callback_on_step_end=keep).images
    assert isinstance(out, torch.Tensor) and out.ndim == 4 and torch.equal(out, seen[-1])
    drawn = KeyedNoise([image_key(0, IMAGE)]).normal("sampling", *out.shape[1:])
    assert np.array_equal(restored(pipe, IMAGE, latents=drawn), restored(pipe, IMAGE))  # what seed 0 draws
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    mine = restored(pipe, IMAGE, latents=noise)
    assert np.array_equal(mine, restored(pipe, IMAGE, latents=noise)) and not np.array_equal(
        mine, restored(pipe, IMAGE)
    )


def test_callbacks_may_return_nothing_and_interrupt(pipe: UniLDiffPipeline) -> None:
    plain = restored(pipe, IMAGE)
    assert np.array_equal(restored(pipe, IMAGE, callback_on_step_end=lambda *values: None), plain)
    with pytest.raises(ValueError, match="no noise_pred"):
        pipe(IMAGE, callback_on_step_end_tensor_inputs=["latents", "noise_pred"])
    seen: list[int] = []
    calls: list[int] = []
    handle = pipe.unet.register_forward_hook(lambda *values: calls.append(1))

    def stop(pipeline: UniLDiffPipeline, step: int, timestep: float, values: dict[str, torch.Tensor]) -> None:
        seen.append(step)
        pipeline._interrupt = step == 1

    made = pipe(IMAGE, num_inference_steps=6, callback_on_step_end=stop).images
    handle.remove()
    assert seen == [0, 1] and len(calls) == 2 and pipe.interrupt and made[0].size == (32, 24)
    assert np.array_equal(restored(pipe, IMAGE), plain)  # the next call runs completely


def test_tiling_switches(pipe: UniLDiffPipeline) -> None:
    wide = np.tile(IMAGE, (1, 20, 1))  # 640 pixels
    whole = restored(pipe, wide)
    pipe.enable_vae_tiling()
    pipe.enable_vae_slicing()
    assert np.array_equal(restored(pipe, wide), restored(pipe, wide, tile_size=512))
    assert not np.array_equal(restored(pipe, wide), whole)
    pipe.disable_vae_tiling()
    assert np.array_equal(restored(pipe, wide), whole)


def test_paths_and_pillow_modes(pipe: UniLDiffPipeline, tmp_path: Path) -> None:
    write_png(tmp_path / "photo.png", IMAGE)
    assert np.array_equal(restored(pipe, str(tmp_path / "photo.png")), restored(pipe, IMAGE))
    with pytest.raises(UserError, match=r"no such file: .*none\.jpg"):
        pipe(str(tmp_path / "none.jpg"))
    grey = IMAGE[..., 0]
    deep = Image.fromarray(grey.astype(np.int32) * 257)
    share = Image.fromarray(grey.astype(np.float32) / 255)
    assert (deep.mode, share.mode) == ("I", "F")
    assert np.array_equal(as_array(deep), np.repeat(grey[..., None].astype(np.uint16) * 257, 3, axis=2))
    assert np.array_equal(as_array(share), np.repeat(grey[..., None], 3, axis=2))
    for broken, message in (
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "NaN"),
        (Image.fromarray(np.full((4, 4), -5, np.int32)), "0 to 65535, got -5"),
        (np.full((4, 4, 3), 2.0), r"\[0, 1\], got 2"),
        (torch.full((3, 4, 4), float("inf")), "infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            as_array(broken)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png", exif=turned)
    with Image.open(tmp_path / "deep.png") as opened:
        assert np.array_equal(as_array(opened), load_image(tmp_path / "deep.png").rgb)


def test_the_package_gives_the_pipeline_without_importing_torch_first() -> None:
    code = (
        "import sys, unildiff; assert 'torch' not in sys.modules; from unildiff import UniLDiffPipeline;"
        "print(UniLDiffPipeline.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "UniLDiffPipeline"
