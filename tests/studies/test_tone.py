from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studies import tone_samples
from studies.tone import main, products_of, squared_error, train_gate
from tests.small import small_model
from unildiff.core.tone import DESCRIBED, ToneCorrection
from unildiff.weights.folder import load_model, save_model


def test_the_error_of_a_correction_follows_from_products() -> None:
    image, gt = (torch.rand(2, 3, 20, 28) * 2 - 1 for _ in range(2))
    correction, numbers = ToneCorrection(), torch.tensor([0.1, -0.2, 0.3, 0.5, -0.4, 0.2, 0.05, 0.1, 0, 0.3, 0, -0.1])
    with torch.no_grad():
        correction.output.bias.copy_(torch.cat([numbers, torch.tensor([100.0])]))
        expected = ((correction(image, image) - gt) / 2).square().mean((1, 2, 3))
    made = squared_error(products_of(image, gt), numbers.expand(2, 12))
    torch.testing.assert_close(made.float(), expected, atol=1e-6, rtol=1e-4)


def test_the_gate_learns_which_images_are_clean() -> None:
    clean, described = torch.arange(400) % 3 == 0, torch.zeros(400, DESCRIBED)
    described[clean, :9] = 1.0
    error = torch.full((400,), 1e-3, dtype=torch.float64)
    gate = train_gate(described, error, torch.where(clean, 0.0, 0.1).double(), steps=200, seed=0)
    with torch.no_grad():
        share = gate(described)
    assert share[clean].mean() > 0.9 and share[~clean].mean() < 0.1
    assert share.max() == 1 and share.min() == 0


def test_flat_images_show_nearly_one_colour() -> None:
    rng = np.random.default_rng(0)
    images = [tone_samples.flat(rng, 20, 30) for _ in range(50)]
    assert images[0].shape == (20, 30, 3) and images[0].dtype == np.uint8
    spread = [float(image.std(axis=(0, 1)).mean()) for image in images]
    assert np.median(spread) < 12 < max(spread)  # of 255
    assert np.ptp([image.mean() for image in images]) > 150


def test_later_batches_have_other_degradations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 72, 3), np.uint8)).save(tmp_path / "forest.png")
    monkeypatch.setattr(tone_samples, "_OTHER_SHAPES", {(32, 64): 1.0})
    samples = tone_samples.Samples(tmp_path, tmp_path / "scenes", 1)
    first = tone_samples.WHOLE + tone_samples.SMALL
    batches = [samples.batch(number) for number in range(first, first + 4)]
    assert all((each.gt != each.lq).flatten(1).any(1).all() for each in batches)
    flags = torch.cat([each.never_kept for each in batches])
    assert flags.any() and not flags.all() and not samples.batch(first - 1).never_kept.any()


def test_a_model_is_made_from_photographs_and_an_interrupted_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    for name in ("snow_field-1", "forest-2"):
        Image.fromarray(rng.integers(0, 256, (40, 72, 3), np.uint8)).save(tmp_path / "photographs" / f"{name}.png")
    save_model(small_model(), tmp_path / "model", torch.float32)
    monkeypatch.setattr(tone_samples, "_SHAPES", {(32, 64): 1.0})
    given = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--scene_count", "2", "--steps", "2"]
    given += ["--gate_steps", "2"]
    folders = {"--photographs": "photographs", "--scenes": "scenes", "--cache": "cache"}
    given += [text for option, name in folders.items() for text in (option, str(tmp_path / name))]
    assert main([*given, "--batches", "1"]) == 0
    first = (tmp_path / "cache" / "00000.npz").read_bytes()
    assert main([*given, "--batches", "2"]) == 0
    assert (tmp_path / "cache" / "00000.npz").read_bytes() == first
    with np.load(tmp_path / "cache" / "00000.npz") as one:
        np.savez(tmp_path / "cache" / "00001.npz", d=one["d"], p=one["p"])  # as before there was a gate
    assert main([*given, "--batches", "2"]) == 2
    assert "00001.npz is of an earlier version" in capsys.readouterr().err
    made, before = load_model(tmp_path / "out"), load_model(tmp_path / "model")
    again = ["--model", str(tmp_path / "out"), "--out", str(tmp_path / "second"), "--cache", str(tmp_path / "again")]
    assert main([*given, *again, "--batches", "1"]) == 0  # the correction of the first run is replaced, not corrected
    with np.load(tmp_path / "again" / "00000.npz") as second, np.load(tmp_path / "cache" / "00000.npz") as one:
        np.testing.assert_allclose(second["d"], one["d"], atol=0.05)  # weights were stored in half precision
    assert made.config.detail.tone and not before.config.detail.tone
    assert made.decoder.tone is not None and made.decoder.tone.output.weight.any()
    kept = before.decoder.state_dict()
    assert all(
        torch.equal(value, kept[name].half().float())
        for name, value in made.decoder.state_dict().items()
        if name in kept
    )
