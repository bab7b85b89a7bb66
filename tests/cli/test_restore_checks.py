"""Seams, colours and uncertainty of restored images, by hand-made arrays and on files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage import data

from tests.small import NETWORK, small_model
from unildiff.cli.main import main
from unildiff.data.shipped_photographs import load as load_photograph
from unildiff.data.shipped_photographs import photographs
from unildiff.degradations.cdd11 import CleanImage, degrade
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.restoring.checks import (
    DOUBT,
    CheckedImage,
    _borders,
    _check_colour,
    _check_seams,
    _keep_doubtful,
    check_and_correct,
)
from unildiff.restoring.colour import judged, low_frequencies, shift, transferred
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.seams import HIGH, seam_score
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_model
from unildiff.weights.load import load_restorer
from unildiff.weights.pipeline import UniLDiffPipeline
from unildiff.weights.restoring import as_levels, restore_images

RNG = np.random.default_rng(0)
TO_PIXELS = replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_model(small_model(), folder, torch.float32)
    return folder


def test_a_step_at_a_border_is_seen_and_texture_is_not() -> None:
    original = RNG.uniform(60, 200, (64, 96, 3)).astype(np.float32)
    noise = RNG.normal(0, 2, original.shape).astype(np.float32)
    assert seam_score(original + noise, original, [32], [48]) < HIGH
    stepped = original + noise
    stepped[32:] += 12
    assert seam_score(stepped, original, [32], [48]) > 2
    assert seam_score(stepped, original, [], [48]) < HIGH  # not at that border
    assert seam_score(original, original, [32], [48]) <= 1


def test_low_frequencies_are_transferred_and_detail_is_kept() -> None:
    detail = RNG.normal(0, 10, (64, 64, 3)).astype(np.float32)
    ramp = np.linspace(60, 180, 64, dtype=np.float32)[:, None, None]
    original, restored = np.broadcast_to(ramp, (64, 64, 3)), ramp + 30 + detail
    corrected = transferred(restored, original)
    assert np.abs(low_frequencies(corrected) - low_frequencies(original)).mean() < 1
    assert max(map(abs, shift(corrected, original))) < 0.5 and shift(restored, original)[0] > 29
    high = corrected - low_frequencies(corrected)
    assert np.corrcoef(high.ravel(), (restored - low_frequencies(restored)).ravel())[0, 1] > 0.99
    assert np.allclose(transferred(restored, original, 0.0), restored.clip(0, 255))


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_the_manifest_has_seams_colours_and_spread(weights: Path, tmp_path: Path) -> None:
    photo = tmp_path / "in" / "wide.png"
    photo.parent.mkdir()
    Image.fromarray(RNG.integers(0, 256, (128, 300, 3), dtype=np.uint8)).save(photo)
    fixed = ["--model", str(weights), "--num_inference_steps", "1", "--device", "cpu"]
    out = tmp_path / "out"
    assert main(["restore", str(photo.parent), str(out), *fixed, "--tile_size", "128", "--uncertainty", "2"]) == 0
    (entry,) = lines(out)
    assert entry["seam_score"] > 0 and entry["uncertainty"] > 0 and len(entry["colour_shift"]) == 3  # type: ignore[operator, arg-type]
    with Image.open(out / "wide.uncertainty.png") as spread:
        assert spread.size == (300, 128) and np.array(spread).max() > 0
    assert main(["restore", str(photo.parent), str(tmp_path / "input"), *fixed, "--colour", "input"]) == 0
    moved = lines(tmp_path / "input")[0]["colour_shift"]
    assert max(map(abs, moved)) < max(map(abs, entry["colour_shift"]))  # type: ignore[call-overload]


def test_only_images_whose_borders_show_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of one pass: the first scores high and then lower, the second is left alone whatever the second pass gives."""
    scores = iter([1.5, 1.1, 1.4])
    monkeypatch.setattr("unildiff.restoring.checks.seam_score", lambda *_: next(scores))
    originals = [np.zeros((128, 300, 3), np.float32)] * 2
    results = [CheckedImage(original) for original in originals]
    again = [np.ones_like(original) for original in originals]
    _check_seams(small_model(), results, originals, frozenset({128}), lambda: again)
    assert [float(result.levels.mean()) for result in results] == [1, 0]
    assert [result.measured for result in results] == [{"seam_score": 1.4, "overlap": 0.5}, {"seam_score": 1.1}]
    assert results[0].warnings == ["tile borders may show (seam score 1.4)"] and not results[1].warnings


def test_tiles_after_memory_ran_out_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    plain = model.decoder.forward

    def limited(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if latents.shape[-1] * model.downscale_factor > 320:
            raise torch.OutOfMemoryError("too large")
        return plain(latents, *args, **kwargs)

    monkeypatch.setattr(model.decoder, "forward", limited)
    image = RNG.integers(0, 256, (160, 600, 3), dtype=np.uint8)
    settings = SamplingSettings(1)
    checked = check_and_correct(model, [image], [""], ["photo"], settings, RestoreOptions(), torch.device("cpu"))
    assert checked[0].measured["seam_score"] > 0


def test_borders_of_the_decoders_tiles_are_checked(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(RNG.integers(0, 256, (128, 300, 3), dtype=np.uint8)).save(tmp_path / "in" / "wide.png")
    fixed = ["--model", str(weights), "--num_inference_steps", "1", "--device", "cpu", "--vae_tile", "128"]
    for tile in (320, 192):  # the image is one tile for the U-Net, or two
        assert main(["restore", str(tmp_path / "in"), str(tmp_path / f"{tile}"), *fixed, "--tile_size", str(tile)]) == 0
        assert lines(tmp_path / f"{tile}")[0]["seam_score"] > 0  # type: ignore[operator]


def test_the_spacing_of_the_steps_is_followed(weights: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(photo)
    fixed = ["--model", str(weights), "--num_inference_steps", "2", "--device", "cpu", "--timestep_spacing"]
    made = {}
    for spacing in ("leading", "trailing"):
        assert main(["restore", str(photo), str(tmp_path / f"{spacing}.png"), *fixed, spacing]) == 0
        with Image.open(tmp_path / f"{spacing}.png") as image:
            made[spacing] = np.array(image)
        pipeline = UniLDiffPipeline.from_pretrained(weights)
        same = pipeline(photo, num_inference_steps=2, timestep_spacing=spacing).images[0]  # type: ignore[arg-type]
        assert np.array_equal(made[spacing], np.array(same))
    assert not np.array_equal(made["leading"], made["trailing"])


def test_the_shipped_model_returns_a_clean_image_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = np.asarray(Image.fromarray(data.coffee()).resize((200, 150)))
    given = {"clean.png": clean, "rain.png": degrade(clean, "rain", 3).image}
    (tmp_path / "in").mkdir()
    for name, image in given.items():
        Image.fromarray(image).save(tmp_path / "in" / name)
    fixed = ["--num_inference_steps", "1", "--device", "cpu"]
    assert main(["restore", str(tmp_path / "in"), str(tmp_path / "out"), *fixed]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "judged clean" in line]
    assert len(told) == 1 and "clean.png" in told[0]
    for name, image in given.items():
        with Image.open(tmp_path / "out" / name) as restored:
            assert np.array_equal(np.array(restored), image) == (name == "clean.png")


def test_a_warning_of_many_images_is_printed_three_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / f"black{number}.png")
    assert (
        main(["restore", str(tmp_path / "in"), str(tmp_path / "out"), "--num_inference_steps", "1", "--device", "cpu"])
        == 0
    )
    told = [line for line in capsys.readouterr().err.splitlines() if "judged clean" in line]
    assert len(told) == 4 and told[-1] == "unildiff: 3 more images: judged clean and left as it is"


def test_eight_tiles_show_no_more_than_the_whole_image() -> None:
    """The shipped model on degraded photographs: bends at the same lines, in tiles and in one piece."""
    model, scores = load_restorer("tiny"), []
    shipped = [load_photograph(name, 600)[0] for name in photographs("val")[1:]]
    depth = np.tile(np.linspace(0, 1, 208, dtype=np.float32)[:, None], (1, 368))
    kinds = ("haze", "rain", "low", "snow", "low_haze_rain")
    for photo, kind in zip((data.coffee(), data.astronaut(), data.rocket(), *shipped), kinds, strict=True):
        image = np.asarray(ImageOps.fit(Image.fromarray(photo), (368, 208), Image.Resampling.LANCZOS))
        image = degrade(CleanImage(image, depth), kind, 0).image
        made = [
            as_levels(restore_images(model, [image], [""], SamplingSettings(1, tile_size=tile))[0], "photo")
            for tile in (128, None)
        ]
        rows, columns = _borders(model, 208, 368, 128)
        assert (len(rows), len(columns)) == (1, 3)  # eight tiles
        scores.append([seam_score(each, image.astype(np.float32), rows, columns) for each in made])
    tiled, whole = np.transpose(scores)
    assert whole.min() > 0.5  # none was judged clean and left alone
    assert (tiled - whole).mean() <= 0 and (tiled - whole).max() < 0.05, scores


@pytest.mark.parametrize(
    ("side", "moved", "warns"), [(64, 13, True), (64, 11, False), (200, 13, False), (200, 25, True)]
)
def test_a_moved_colour_is_a_warning_sooner_in_small_images(side: int, moved: int, warns: bool) -> None:
    original = np.full((side, 210, 3), 100, np.float32)
    result = CheckedImage(original + np.float32([0, -moved, 0]))
    _check_colour(result, original, "none", 0.0)
    assert result.measured["colour_shift"] == [0, -moved, 0] and bool(result.warnings) == warns
    if warns:
        start = f"the image is small (210x{side}) and its" if side < 128 else "its"
        assert result.warnings == [
            f"{start} mean colour moved by -{moved} of 255; if it should not, use --colour input"
        ]


def test_auto_colour_needs_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small_model(), tmp_path / "plain")
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = ["restore", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", str(tmp_path / "plain")]
    assert main([*command, "--colour", "auto"]) == 2
    assert "colour: auto follows DAEM's brightness gate, which this model lacks" in capsys.readouterr().err
    command += ["--num_inference_steps", "2", "--colour", "input", "--tile_size", "256"]
    assert main(command) == 0
    with Image.open(tmp_path / "b.png") as image:
        note = image.info["xmp"].decode() if isinstance(image.info["xmp"], bytes) else image.info["xmp"]
    assert "steps 2, guidance 5, start lq, last timestep 0, tiles 256, colour input, dtype float32" in note


def test_gates_judge_every_image_of_a_batch_by_itself() -> None:
    model, settings = small_model(network=TO_PIXELS), SamplingSettings(1)
    images = [RNG.integers(0, high, (64, 64, 3), dtype=np.uint8) for high in (40, 256)]
    judgements = []
    for batch in (images, images[:1], images[1:]):
        with judged(model) as shares:
            restore_images(model, batch, [""] * len(batch), settings)
        judgements.append(np.mean(shares, axis=0))
    assert np.allclose(judgements[0], np.concatenate(judgements[1:]), atol=1e-5)
    assert abs(judgements[0][0] - judgements[0][1]) > 5e-5


def test_the_input_is_kept_where_seeds_disagree() -> None:
    original = np.full((64, 64, 3), 100, np.float32)
    levels = original + 50
    spread = np.zeros_like(original)
    spread[:, 32:] = 2 * DOUBT
    result = CheckedImage(levels, spread=spread)
    _keep_doubtful([result], [original])
    assert np.allclose(result.levels[:, :24], 150) and np.allclose(result.levels[:, 40:], 100)
    assert result.measured["input_kept"] == pytest.approx(0.5, abs=0.06)
    with pytest.raises(UserError, match="in_doubt: input needs --uncertainty"):
        RestoreOptions(in_doubt="input")
