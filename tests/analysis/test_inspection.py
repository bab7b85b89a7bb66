"""Observations of a model while it restores, compared with the model's own parts called one by one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import NETWORK, small_model
from unildiff.analysis.inspection import observe, reference_images
from unildiff.analysis.model_figures import Options, draw_all
from unildiff.analysis.model_figures import test_samples as read_samples
from unildiff.cli.commands.figures import figures
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.core.network import NetworkConfig
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.tools.samples import write_sample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError

SETTINGS = SamplingSettings(3, 1.0)
WINDOWS = NetworkConfig(
    replace(NETWORK.fusion, token_experts=3, token_top_k=2, patch_size=2),
    replace(NETWORK.detail, routing="window", window_size=8),
)


def sample(name="a", degradation="low", caption="a red cat", size=(20, 28)):
    noise = torch.Generator().manual_seed(len(degradation) * 7 + ord(name))
    gt, lq = (torch.randint(0, 256, (3, *size), generator=noise, dtype=torch.uint8) for _ in range(2))
    return {"lq": lq, "gt": gt, "caption": caption, "degradation": degradation, "name": name, "key": ord(name)}


def test_inspection_changes_no_pixel():
    model, image = small_model(), sample()
    found = observe(model, image, replace(SETTINGS, guidance_scale=5.0))  # guidance is not used
    expected = to_uint8(model.restore(to_unit(image["lq"][None]), ["a red cat"], [image["key"]], SETTINGS))[0]
    assert torch.equal(found.restored, expected)
    assert not model.unet.fusion._forward_hooks and not any(level._forward_hooks for level in model.decoder.details)


def test_gate_and_strength_are_the_fusions_own():
    model, image = small_model(), sample()
    found = observe(model, image, SETTINGS)
    assert found.timesteps.tolist() == model.schedule.sampling_timesteps(3).tolist()
    features = model.encode_lq(model.pad(to_unit(image["lq"][None])))
    context = model.context(features.deep, model.embed(["a red cat"]), (20, 28)).fusion
    hidden = torch.randn(1, 8, *features.latents.shape[2:], generator=torch.Generator().manual_seed(0))
    for step, gate in zip(found.timesteps, found.gate, strict=True):  # the gate depends only on the timestep
        other = model.unet.fusion(hidden, torch.tensor([step]), context)
        assert gate == pytest.approx(float(other.gate[0]), rel=1e-5)
    assert found.feature == pytest.approx(features.deep[0].mean(dim=(1, 2)).numpy(), rel=1e-5)
    assert (found.strength > 0).all()
    with torch.no_grad():
        model.unet.fusion.output.weight.mul_(2), model.unet.fusion.output.bias.mul_(2)
    assert observe(model, image, SETTINGS).strength[0] == pytest.approx(2 * found.strength[0], rel=1e-4)


def test_a_plain_injection_has_no_gate():
    plain = small_model(network=replace(NETWORK, fusion=FusionConfig(kind="plain"), detail=DetailConfig(kind="none")))
    found = observe(plain, sample(), SETTINGS)
    assert found.gate is None and found.maps == {} and len(found.strength) == 3


def test_image_routing_is_one_choice_per_level():
    model, image = small_model(), sample()
    found = observe(model, image, SETTINGS)
    features = model.encode_lq(model.pad(to_unit(image["lq"][None])))
    latents = model.sample_latents(features, ["a red cat"], [image["key"]], SETTINGS)
    routings = model.decoder(latents, features.skips, features.lq)[1]
    assert list(found.maps) == [f"detail {level + 1}" for level in range(len(routings))]
    for routing, (layer, chosen) in zip(routings, found.maps.items(), strict=True):
        assert chosen.choices.tolist() == [[int(routing.indices[0, 0])]]
        assert chosen.experts == ("3x3", "5x5") and chosen.cell == (32.0, 32.0)  # 20x28, padded to multiples of 16
        assert found.usage[layer].sum() == 1


def test_windows_and_tokens_have_their_positions():
    model = small_model(network=WINDOWS)
    found = observe(model, sample(), SETTINGS)
    factor, padded = model.downscale_factor, np.array([32, 32])
    for layer, chosen in found.maps.items():
        reach = np.array(chosen.choices.shape) * chosen.cell
        assert (reach >= padded).all() and (reach - padded < chosen.cell).all(), layer
    tokens = found.maps["tokens 1 LQ"]
    assert tokens.cell == (2.0 * factor, 2.0 * factor) and tokens.experts == ("1", "2", "3")
    # Every token of every step chooses two of three experts.
    assert found.usage["tokens 1 LQ"].sum() == 3 * 2 * tokens.choices.size
    finest = list(found.maps)[-1]
    assert finest.startswith("detail") and found.usage[finest].sum() == found.maps[finest].choices.size > 1


def test_references_are_the_models_parts():
    model, image = small_model(), sample()
    found = reference_images(model, image)
    assert torch.equal(found["input"], image["lq"])
    features = model.encode_lq(model.pad(to_unit(image["lq"][None])))
    assert torch.equal(found["no diffusion"], to_uint8(model.decode(features.latents, features, (20, 28)))[0])
    ground_truth = model.encode_lq(model.pad(to_unit(image["gt"][None])))
    expected = to_uint8(model.decode(ground_truth.latents, ground_truth, (20, 28), detail=False))[0]
    assert torch.equal(found["VAE round trip"], expected)


def test_every_figure_is_drawn_and_its_numbers_kept(tmp_path):
    samples = [sample(name, degradation) for degradation in ("low", "haze") for name in "ab"]
    options = Options(SETTINGS, (1, 2), (1.0,), "gmsd", 1)
    about = {"model": "small", "protocol": "onerestore"}
    lines = draw_all(small_model(), samples, tmp_path, options, about)
    names = {line.partition(":")[0] for line in lines} - {"figures.json"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.pdf")} == names
    assert {"fusion_gate", "fusion_strength", "experts_usage_detail_1", "experts_map_low", "lq_features"} < names
    assert {"sampling", "perception_distortion"} < names
    assert all(Image.open(path).width > 500 for path in tmp_path.glob("*.png"))
    numbers = json.loads((tmp_path / "figures.json").read_text())
    assert sum(numbers["expert_usage"]["detail 1"]["low"].values()) == 2  # two images, one choice each
    assert len(numbers["gate"]) == 3 and -1 <= numbers["silhouette"] <= 1
    assert {"input", "no diffusion", "VAE round trip", "1 step, guidance 5", "20 steps, guidance 1"} <= set(
        numbers["settings"]
    )


def test_impossible_figures_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    plain = small_model(network=replace(NETWORK, fusion=FusionConfig(kind="plain"), detail=DetailConfig(kind="none")))
    options = Options(SETTINGS, (1,), (1.0, 5.0), "lpips", 1)
    lines = draw_all(plain, [sample(caption="")], tmp_path / "out", options, {"protocol": "onerestore"})
    text = "\n".join(lines)
    for part in ("fusion_gate: left out", "experts_usage, experts_map: left out", "lq_features: left out"):
        assert part in text
    assert "perception_distortion: left out, lpips: its weights could not be fetched" in text
    assert "sampling: without guidance" in text
    with pytest.raises(UserError, match=r"choose .*lpips"):
        draw_all(plain, [sample()], tmp_path / "out", replace(options, perception="ssim"), {"protocol": "onerestore"})


def test_settings_that_cannot_be_swept_are_refused_before_the_model_is_inspected(tmp_path, monkeypatch):
    monkeypatch.setattr("unildiff.analysis.model_figures.observe", lambda *_: pytest.fail("inspected"))
    options = Options(SETTINGS, (1,), (1.0, 5.0), "gmsd", 1)
    for wrong, message in (
        ({"sweep_images": 0}, "sweep_images 0; give at least 1"),
        ({"steps": (4, 1001)}, "steps: num_inference_steps is 1001"),
        ({"sampling": SamplingSettings(1001)}, "figures: num_inference_steps is 1001"),
    ):
        with pytest.raises(UserError, match=message):
            draw_all(small_model(), [sample()], tmp_path, replace(options, **wrong), {"protocol": "onerestore"})


def test_images_of_a_data_set_are_cut_to_their_centre(tmp_path, capsys):
    write_sample("udc", tmp_path / "udc")
    samples, about = read_samples("udc", tmp_path / "udc", 2, 64, 0)
    assert [(each["degradation"], each["name"]) for each in samples] == [
        (display, name) for display in ("toled", "poled") for name in ("astronaut", "chelsea")
    ]
    assert about == {"data": "udc", "data_kind": "sample", "protocol": "unildiff"}
    whole = np.asarray(Image.open(next((tmp_path / "udc").rglob("chelsea.png"))))
    assert samples[1]["lq"].shape == (3, 64, 64) and min(whole.shape[:2]) > 64
    ground_truth = read_samples("udc", tmp_path / "udc", 2, 4096, 0)[0][1]["gt"]
    top, left = (ground_truth.shape[1] - 64) // 2, (ground_truth.shape[2] - 64) // 2
    assert torch.equal(samples[1]["gt"], ground_truth[:, top : top + 64, left : left + 64])
    for arguments, message in (
        ({"data": "udcc"}, "did you mean udc"),
        ({"data": "udc", "root": tmp_path / "none"}, "no such folder"),
        ({"data": "deadleaves", "root": tmp_path}, "takes no root"),
        ({"data": "udc", "root": tmp_path / "udc", "model": "none"}, "no file or folder none"),
    ):
        with pytest.raises(UserError, match=message):
            figures(**arguments, out=tmp_path / "out")
