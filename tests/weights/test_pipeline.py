import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants, hf_api
from PIL import Image

from tests.small import sdxl_like_base, small_model
from tests.weights.hub import hub
from unildiff.core.model import UniLDiff
from unildiff.data.batch import image_array
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.weights.pipeline import UniLDiffPipeline
from unildiff.weights.restoring import restore_image

SAMPLE = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)


@pytest.fixture(params=["tiny", "sdxl"])
def model(request: pytest.FixtureRequest) -> UniLDiff:
    return small_model(sdxl_like_base() if request.param == "sdxl" else None)


@pytest.fixture
def pipeline(model: UniLDiff) -> UniLDiffPipeline:
    made = UniLDiffPipeline.from_model(model)
    made.set_progress_bar_config(disable=True)
    return made


def test_same_pixels_as_restore(model: UniLDiff, pipeline: UniLDiffPipeline) -> None:
    expected = image_array(restore_image(model, SAMPLE, "a red cat", SamplingSettings(3, 4.0)))
    out = pipeline(Image.fromarray(SAMPLE), "a red cat", 3, 4.0)
    assert np.array_equal(np.asarray(out.images[0]), expected)
    seeded = image_array(restore_image(model, SAMPLE, "a red cat", SamplingSettings(3, 4.0), seed=7))
    out = pipeline(SAMPLE, "a red cat", 3, 4.0, generator=torch.Generator().manual_seed(7))
    assert np.array_equal(np.asarray(out.images[0]), seeded)
    assert not np.array_equal(seeded, expected)


def test_round_trip_through_a_folder(pipeline: UniLDiffPipeline, tmp_path: Path) -> None:
    before = pipeline(SAMPLE, "a cat", 2).images[0]
    pipeline.save_pretrained(tmp_path)
    loaded = UniLDiffPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded, DiffusionPipeline)
    assert np.array_equal(np.asarray(before), np.asarray(loaded(SAMPLE, "a cat", 2).images[0]))
    assert np.array_equal(np.asarray(before), np.asarray(pipeline(SAMPLE, "a cat", 2).images[0]))  # still usable
    index = DiffusionPipeline.load_config(tmp_path)
    assert index["_class_name"] == ["pipeline", "UniLDiffPipeline"]
    assert (
        set(loaded.components) == {"vae", "text", "lq_encoder", "unet", "decoder", "scheduler", "network"} <= set(index)
    )
    half = UniLDiffPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(SAMPLE, "a cat", 2).images[0].size == (70, 45)


def test_kinds_of_images_and_outputs(pipeline: UniLDiffPipeline) -> None:
    expected = np.asarray(pipeline(SAMPLE, num_inference_steps=1).images[0])
    tensor = torch.from_numpy(SAMPLE).permute(2, 0, 1).float() / 255
    several = pipeline([Image.fromarray(SAMPLE), SAMPLE, tensor, tensor[None]], num_inference_steps=1).images
    assert all(np.array_equal(np.asarray(each), expected) for each in several)
    (array,) = pipeline(SAMPLE, num_inference_steps=1, output_type="np").images
    assert array.dtype == np.float32 and np.array_equal((array * 255).round().astype(np.uint8), expected)
    (made,) = pipeline(SAMPLE, num_inference_steps=1, output_type="pt", return_dict=False)[0]
    assert made.shape == (3, 45, 70) and 0 <= made.min() and made.max() <= 1
    turned = Image.fromarray(SAMPLE).convert("RGBA")
    assert np.array_equal(np.asarray(pipeline(turned, num_inference_steps=1).images[0]), expected)
    grey = Image.fromarray(SAMPLE[..., 0].astype(np.uint16) * 257)
    same = Image.fromarray(SAMPLE[..., 0])
    results = pipeline([grey, same], num_inference_steps=1).images
    assert grey.mode.startswith("I;16") and np.array_equal(np.asarray(results[0]), np.asarray(results[1]))


def test_callback_sees_and_changes_latents(pipeline: UniLDiffPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(pipe: UniLDiffPipeline, step: int, timestep: float, values: dict[str, torch.Tensor]) -> dict:  # type: ignore[type-arg]
        assert pipe is pipeline and values["latents"].shape[0] == 1
        seen.append((step, timestep))
        return values

    plain = pipeline(SAMPLE, num_inference_steps=3).images[0]
    noted = pipeline(SAMPLE, num_inference_steps=3, callback_on_step_end=note).images[0]
    assert np.array_equal(np.asarray(plain), np.asarray(noted))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [timestep for _, timestep in seen] == pipeline.model.schedule.sampling_timesteps(3).tolist()
    grey = pipeline(
        SAMPLE,
        num_inference_steps=3,
        callback_on_step_end=lambda pipe, step, timestep, values: {"latents": values["latents"] * 0},
    ).images[0]
    assert not np.array_equal(np.asarray(plain), np.asarray(grey))


def test_progress_bar_counts_steps(pipeline: UniLDiffPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.set_progress_bar_config(disable=False)
    pipeline([SAMPLE, SAMPLE], num_inference_steps=2)
    assert "4/4" in capsys.readouterr().err


def test_mistakes(pipeline: UniLDiffPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 values of prompt for 3 images"):
        pipeline([SAMPLE] * 3, ["a", "b"])
    with pytest.raises(ValueError, match="must be pil, np, pt or latent"):
        pipeline(SAMPLE, output_type="jpg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0 to 255"):
        pipeline(SAMPLE.astype(np.float32))
    with pytest.raises(ValueError, match=r"floating \(3, H, W\)"):
        pipeline(torch.zeros(45, 70, 3))


def test_tiles(pipeline: UniLDiffPipeline) -> None:
    wide = np.tile(SAMPLE, (1, 4, 1))
    out = pipeline(wide, num_inference_steps=1, tile_size=128).images[0]
    assert out.size == (280, 45)
    assert not np.array_equal(np.asarray(out), np.asarray(pipeline(wide, num_inference_steps=1).images[0]))


def test_parts_are_moved_and_offloaded(pipeline: UniLDiffPipeline) -> None:
    assert pipeline.to(torch.bfloat16).dtype == torch.bfloat16
    assert next(pipeline.model.unet.fusion.parameters()).dtype == torch.bfloat16
    pytest.importorskip("accelerate")
    pipeline.to(torch.float32)
    before = pipeline(SAMPLE, "a cat", 1).images[0]
    pipeline.enable_model_cpu_offload(device="cpu")
    assert all(
        hasattr(pipeline.components[name], "_hf_hook") for name in ("text", "lq_encoder", "vae", "unet", "decoder")
    )
    assert np.array_equal(np.asarray(before), np.asarray(pipeline(SAMPLE, "a cat", 1).images[0]))


def test_missing_extras_are_reported(pipeline: UniLDiffPipeline, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"call enable_model_cpu_offload\(\)"):
        pipeline.enable_sequential_cpu_offload()
    pipeline.save_pretrained(tmp_path)
    for name in (str(tmp_path), "some/id"):
        with pytest.raises(TypeError, match="no option torch_dtyp; there are dtype, torch_dtype"):
            UniLDiffPipeline.from_pretrained(name, torch_dtyp=torch.float16)
    assert UniLDiffPipeline.from_pretrained(tmp_path, local_files_only=True).dtype == torch.float32


def test_goes_to_the_hub_and_back_with_its_card(
    pipeline: UniLDiffPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "a-token")
    pipeline.card = "---\nlibrary_name: diffusers\n---\n# This very model\n"
    before = pipeline(SAMPLE, "a cat", 1).images[0]
    for upload in ("push_to_hub", "save_pretrained"):
        remote = tmp_path / upload
        remote.mkdir()
        with hub(remote, f"me/{upload}") as (address, fetched):
            monkeypatch.setattr(constants, "ENDPOINT", address)
            monkeypatch.setattr(hf_api.api, "endpoint", address)
            url = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
            if upload == "push_to_hub":
                pipeline.push_to_hub(f"me/{upload}")
            else:
                pipeline.save_pretrained(tmp_path / "local", push_to_hub=True, repo_id=f"me/{upload}")
            assert {"README.md", "model_index.json", "unildiff.json"} <= {file.name for file in remote.iterdir()}
            assert (remote / "README.md").read_text() == pipeline.card
            loaded = UniLDiffPipeline.from_pretrained(f"me/{upload}")
        assert "fusion/model.safetensors" in fetched and loaded.card == pipeline.card
        assert np.array_equal(np.asarray(before), np.asarray(loaded(SAMPLE, "a cat", 1).images[0]))


def test_loads_and_restores_without_lightning(tmp_path: Path) -> None:
    UniLDiffPipeline.from_model(small_model()).save_pretrained(tmp_path)
    code = (
        "import sys, numpy; from unildiff.weights.pipeline import UniLDiffPipeline as P;"
        f"P.from_pretrained({str(tmp_path)!r})(numpy.zeros((8, 8, 3), 'uint8'), num_inference_steps=1);"
        "print([m for m in sys.modules if m.startswith(('lightning', 'pytorch_lightning', 'torchmetrics'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
