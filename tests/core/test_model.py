"""The complete restorer against a pipeline assembled from diffusers' own parts, and counts of its work."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn

from tests.small import NETWORK, sdxl_like_base, small_base, small_model
from unildiff.core.base import Base
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.pixels import pad_to_multiple, to_uint8, to_unit
from unildiff.diffusion.noise import KeyedNoise
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.weights.folder import load_model, save_model
from unildiff.weights.load import stored_network

SETTINGS = SamplingSettings(num_inference_steps=4)
CAPTIONS = ["a red cat", "the table"]


def random_images(height: int = 32, width: int = 48, count: int = 2) -> Tensor:
    return KeyedNoise(list(range(count))).normal("lq", 3, height, width).tanh()


class Calls:
    """Counts the forward calls of a module, and the samples that went through."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        module.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any) -> None:
        self.calls += 1


@torch.no_grad()
def test_the_last_timestep_is_the_models_own_by_default() -> None:
    early = small_model(network=replace(NETWORK, last_timestep=900))
    features, whole = early.encode_lq(random_images()), replace(SETTINGS, last_timestep=0)
    seen: list[float] = []
    early.unet.register_forward_pre_hook(lambda unet, inputs: seen.append(float(inputs[1][0])))
    latents = early.sample_latents(features, CAPTIONS, [3, 4], SETTINGS)
    assert seen == [999, 966, 933, 900]
    all_the_way = early.sample_latents(features, CAPTIONS, [3, 4], whole)
    assert seen[4:] == [999, 749, 499, 249] and not torch.allclose(latents, all_the_way)
    assert torch.equal(all_the_way, small_model().sample_latents(features, CAPTIONS, [3, 4], SETTINGS))


@pytest.mark.parametrize("make", [small_base, sdxl_like_base])
@torch.no_grad()
def test_sampling_equals_diffusers_parts(make: Callable[[], Base]) -> None:
    model, lq = small_model(make()), random_images()
    features = model.encode_lq(lq)
    latents = model.sample_latents(features, CAPTIONS, [3, 4], SETTINGS)

    scheduler = EulerDiscreteScheduler.from_config(model.scheduler_config)
    scheduler.set_timesteps(4)
    mean = model.vae.encode(nn.PixelUnshuffle(model.lq_encoder.factor)(lq))
    noise = KeyedNoise([3, 4]).normal("sampling", *features.latents.shape[1:])
    z = scheduler.add_noise(
        mean.latent_dist.mode() * model.vae.config.scaling_factor, noise, scheduler.timesteps[:1].repeat(2)
    )
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(z, timestep)
        passes = []
        for captions in (["", ""], CAPTIONS):
            context = model.context(features.deep, model.text(captions), (32, 48))
            passes.append(model.unet(scaled, timestep.expand(2), context)[0])
        prediction = passes[0] + 5.0 * (passes[1] - passes[0])
        z = scheduler.step(prediction, timestep, z).prev_sample
    torch.testing.assert_close(latents, z, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "captions, scale, unet, text",
    [
        (CAPTIONS, 5.0, 4, 2),  # both passes in one doubled batch: one call per step
        (["a red cat", ""], 5.0, 4, 2),
        (["", ""], 5.0, 4, 1),  # both passes would be the same
        (CAPTIONS, 1.0, 4, 1),
    ],
)
def test_work_is_done_once_per_image_not_once_per_step(captions: list[str], scale: float, unet: int, text: int) -> None:
    model = small_model()
    counted = {name: Calls(part) for name, part in (
        ("lq", model.lq_encoder), ("vae", model.vae.encoder), ("text", model.text), ("unet", model.unet),
        ("lq tokens", model.unet.fusion.lq_in), ("fusion's text", model.unet.fusion.text_attention.key_value),
        ("decoder", model.decoder), ("plain decoder", model.vae.decoder),
    )}  # fmt: skip
    sizes: list[int] = []
    model.unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    model.restore(random_images(), captions, [1, 2], SamplingSettings(num_inference_steps=4, guidance_scale=scale))
    calls = {name: counter.calls for name, counter in counted.items()}
    once = dict.fromkeys(("lq", "vae", "lq tokens", "fusion's text", "decoder"), 1)
    assert calls == once | {"text": text, "unet": unet, "plain decoder": 0}
    assert sizes == [2] * 4  # the U-Net repeats what the captions share


def test_without_text_there_is_one_pass_and_captions_have_no_effect() -> None:
    model = small_model(network=NetworkConfig(NETWORK.fusion, NETWORK.detail, use_text=False))
    unet = Calls(model.unet)
    first = model.restore(random_images(), CAPTIONS, [1, 2], SETTINGS)
    assert unet.calls == 4
    assert torch.equal(first, model.restore(random_images(), ["", ""], [1, 2], SETTINGS))


def test_guidance_detail_and_keys_have_an_effect() -> None:
    model, lq = small_model(), random_images()
    plain = model.restore(lq, CAPTIONS, [1, 2], SETTINGS)
    assert torch.equal(plain, model.restore(lq, CAPTIONS, [1, 2], SETTINGS))
    for other in (
        model.restore(lq, CAPTIONS, [1, 3], SETTINGS)[1],
        model.restore(lq, CAPTIONS, [1, 2], SamplingSettings(4, guidance_scale=2.0))[1],
        model.restore(lq, CAPTIONS, [1, 2], SETTINGS, detail=False)[1],
        model.restore(lq, ["a red cat", ""], [1, 2], SETTINGS)[1],
    ):
        assert (other - plain[1]).abs().max() > 1e-3


def test_start_has_an_effect_where_the_last_timestep_has_signal() -> None:
    for make, least, most in ((sdxl_like_base, 1e-3, 2.0), (small_base, 0.0, 1e-3)):  # tiny: a sigma of 4096
        model, lq = small_model(make()), random_images()
        first, second = (model.restore(lq, CAPTIONS, [1, 2], replace(SETTINGS, start=kind)) for kind in ("lq", "noise"))
        assert least <= (first - second).abs().max() < most


@pytest.mark.parametrize("height, width", [(32, 32), (37, 50), (16, 5), (1, 1)])
def test_every_size_is_kept(height: int, width: int) -> None:
    restored = small_model().restore(random_images(height, width, 1), [""], [1], SamplingSettings(1))
    assert restored.shape == (1, 3, height, width) and restored.dtype == torch.float32
    assert restored.min() >= -1 and restored.max() <= 1


def test_a_batch_equals_its_images_one_by_one() -> None:
    model, lq = small_model(), random_images(40, 24)
    together = model.restore(lq, CAPTIONS, [8, 9], SETTINGS)
    for index in range(2):
        one = slice(index, index + 1)
        alone = model.restore(lq[one], CAPTIONS[one], [8, 9][one], SETTINGS)
        torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("height, width", [(16, 32), (17, 30), (3, 9), (1, 5)])
def test_padding_is_a_reflection(height: int, width: int) -> None:
    image = random_images(height, width, 1)
    missing = (-height % 16, -width % 16)
    # numpy reflects repeatedly if a side is shorter than the padding.
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="reflect")
    np.testing.assert_array_equal(pad_to_multiple(image, 16).numpy(), expected)


def test_pixels_by_hand() -> None:
    # 0 is -1, 255 is 1, 51 is 51 / 127.5 - 1 = -0.6; back to 8 bits every value is itself.
    pixels = torch.arange(256, dtype=torch.uint8)
    assert to_unit(pixels)[[0, 51, 255]].tolist() == pytest.approx([-1, -0.6, 1])
    assert torch.equal(to_uint8(to_unit(pixels)), pixels)
    # (x + 1) * 127.5: -0.997 is 0.38, -0.996 is 0.51; outside of the range it is clamped.
    assert to_uint8(torch.tensor([-0.997, -0.996, -3.0, 1.2])).tolist() == [0, 1, 0, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_never_become_a_colour(value: float) -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 0, 0] = value
    with pytest.raises(UserError, match=r"^b: the restored image is not finite"):
        to_uint8(images, ["a", "b"])
    with pytest.raises(UserError, match=r"^image 2 of 2: the restored"):
        to_uint8(images)
    model = small_model()
    features = model.encode_lq(random_images())
    model.vae.decoder.conv_out.bias[0] = value  # in the last addition, so that an infinity is still one
    assert model.decode(features.latents, features, (4, 4), detail=False).isnan().any()


@pytest.mark.parametrize(("make", "to_pixels"), [(small_base, False), (sdxl_like_base, False), (small_base, True)])
def test_a_saved_folder_is_the_same_model_and_leaves_this_one_usable(
    make: Callable[[], Base], to_pixels: bool, tmp_path: Path
) -> None:
    network = replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=to_pixels, tone=to_pixels))
    model, lq = small_model(make(), network=network), random_images()
    before = model.restore(lq, CAPTIONS, [1, 2], SETTINGS)
    save_model(model, tmp_path / "model", torch.float32)
    assert torch.equal(model.restore(lq, CAPTIONS, [1, 2], SETTINGS), before)
    loaded = load_model(tmp_path / "model").eval()
    assert loaded.config == model.config
    state, expected = loaded.state_dict(), model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    # Weights from a memory map have another alignment, which changes the last bit of some sums.
    torch.testing.assert_close(loaded.restore(lq, CAPTIONS, [1, 2], SETTINGS), before, atol=1e-4, rtol=0)


def test_a_model_saved_over_another_replaces_all_its_files(tmp_path: Path) -> None:
    large, small = small_model(sdxl_like_base()), small_model(seed=1)
    save_model(large, tmp_path, torch.float32)
    stale = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"  # of weights in several files
    stale.write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    save_model(small, tmp_path, torch.float32)
    assert not stale.exists() and not (tmp_path / "text_encoder_2").exists()
    loaded, expected = load_model(tmp_path).state_dict(), small.state_dict()
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in loaded)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r" is not valid JSON \(Expecting value: line 1 column 1 \(char 0\)\)"),
        (
            "[]",
            r": network is \[\]; it must be a set of keys: .*; it is damaged, or another version of unildiff wrote it",
        ),
        ("{}", r": network lacks the key detail; it is damaged, or another version"),
        (
            '{"fusion": {}, "detail": {"kernel_sizes": [3]}, "newer": 1}',
            r": network has an unknown key 'newer'; known keys are",
        ),
    ],
)
def test_a_damaged_config_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    save_model(small_model(), tmp_path)
    (tmp_path / "unildiff.json").write_text(text)
    for read in (load_model, stored_network):
        with pytest.raises(UserError, match=r"unildiff\.json" + message):
            read(tmp_path)


@pytest.mark.parametrize("fails", ["sample_latents", "decode"])
def test_a_failed_attempt_leaves_no_features_behind(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an out-of-memory error, the next attempt starts without the skips and features of the first."""
    model = small_model()
    alive: list[weakref.ref[Tensor]] = []
    encode_lq, attempt = UniLDiff.encode_lq, getattr(UniLDiff, fails)
    attempts = [0]

    def encode(self: UniLDiff, *args: Any, **kwargs: Any) -> Any:
        assert not [each for each in alive if each() is not None]
        features = encode_lq(self, *args, **kwargs)
        alive.extend(weakref.ref(skip) for skip in features.skips)
        return features

    def too_large(self: UniLDiff, *args: Any, **kwargs: Any) -> Any:
        attempts[0] += 1
        if attempts[0] == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        assert not [each for each in alive if each() is not None]
        return attempt(self, *args, **kwargs)

    monkeypatch.setattr(UniLDiff, "encode_lq", encode)
    monkeypatch.setattr(UniLDiff, fails, too_large)
    model.restore(torch.zeros(1, 3, 300, 300), [""], [1], SETTINGS)
    assert attempts == [2] and len(alive) == 2


def test_one_base_serves_one_model() -> None:
    model = UniLDiff(small_base(), NETWORK)
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    storage = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(storage) == len(set(storage))  # copies share no memory with their originals
