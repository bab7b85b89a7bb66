import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.core.pixels import to_uint8, to_unit
from unildiff.data.batch import image_array
from unildiff.data.images import read_rgb
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.weights.folder import save_model
from unildiff.weights.restoring import restore_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_model(small_model(), folder, torch.float32)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (35, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "rgb.png")
    Image.fromarray(image[..., 0]).save(folder / "deep" / "grey.png")
    Image.fromarray(np.dstack([image, image[..., :1]])).save(folder / "alpha.png")
    cv2.imwrite(str(folder / "sixteen.png"), image[..., ::-1].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright: stored 50 wide and 35 high, seen 35 wide and 50 high
    Image.fromarray(image).save(folder / "camera.jpg", exif=turned)
    return folder


def run(*arguments: object) -> int:
    return main(["restore", *map(str, arguments), "--num_inference_steps", "2", "--device", "cpu"])


def test_every_kind_of_image_keeps_name_and_size(photos: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, out, "--model", weights) == 0
    made = {path.relative_to(out).as_posix(): Image.open(path) for path in out.rglob("*.*g")}
    assert {name: (image.mode, image.size) for name, image in made.items()} == {
        "rgb.png": ("RGB", (50, 35)),
        "deep/grey.png": ("RGB", (50, 35)),
        "alpha.png": ("RGBA", (50, 35)),
        "sixteen.png": ("RGB", (50, 35)),
        "camera.jpg": ("RGB", (35, 50)),
    }
    sixteen = cv2.imread(str(out / "sixteen.png"), cv2.IMREAD_UNCHANGED)
    assert sixteen.dtype == np.uint16 and (sixteen % 257 != 0).any()  # not an 8-bit result in 16 bits
    assert made["camera.jpg"].getexif()[0x0112] == 1


def test_result_depends_on_pixels_and_seed_only(photos: Path, weights: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "all", "--model", weights)
    shutil.copy(photos / "rgb.png", tmp_path / "other name.png")
    run(tmp_path / "other name.png", tmp_path / "one.png", "--model", weights)
    run(tmp_path / "other name.png", tmp_path / "seed.png", "--model", weights, "--seed", 1)
    alone = read_rgb(tmp_path / "one.png")
    assert np.array_equal(alone, read_rgb(tmp_path / "all" / "rgb.png"))
    # 16 bits of 257 x the 8-bit value are the same image; its result was rounded to 16 bits first
    assert np.abs(alone.astype(int) - read_rgb(tmp_path / "all" / "sixteen.png")).max() <= 1
    assert not np.array_equal(alone, read_rgb(tmp_path / "seed.png"))


def test_same_pixels_as_test_and_predict(photos: Path, weights: Path, tmp_path: Path) -> None:
    from datamodules.folder import FolderDataModule
    from unildiff.stages.decoder import DecoderFinetuneModule

    stage = DecoderFinetuneModule(base=str(weights), init_from=str(weights), sampling=SamplingSettings(2))
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path / "predict",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = FolderDataModule(root=str(photos), num_workers=0)
    predicted = trainer.predict(stage, datamodule=data)
    assert predicted is not None
    run(photos, tmp_path / "out", "--model", weights, "--format", "png")
    names = data.predict_dataloader().dataset.names  # type: ignore[attr-defined]
    assert len(names) == len(predicted) == 5
    for name, image in zip(names, predicted, strict=True):
        restored = read_rgb((tmp_path / "out" / name).with_suffix(".png"))
        difference = np.abs(restored.astype(int) - image_array(image[0]))
        assert difference.max() <= (1 if name.startswith("sixteen") else 0)


def test_caption_reaches_the_model(photos: Path, weights: Path, tmp_path: Path) -> None:
    run(photos / "rgb.png", tmp_path / "without.png", "--model", weights)
    line = json.dumps({"file": "rgb.png", "caption": "a red cat"})
    (photos / "captions.jsonl").write_text(line + "\n")
    run(photos / "rgb.png", tmp_path / "with.png", "--model", weights)
    expected = restore_image(small_model(), read_rgb(photos / "rgb.png"), "a red cat", SamplingSettings(2))
    assert np.array_equal(read_rgb(tmp_path / "with.png"), image_array(expected))
    assert not np.array_equal(read_rgb(tmp_path / "with.png"), read_rgb(tmp_path / "without.png"))


def test_a_broken_file_is_named_and_the_rest_goes_on(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "rgb.png").read_bytes()
    (photos / "half.png").write_bytes(whole[: len(whole) // 2])
    assert run(photos, tmp_path / "out", "--model", weights) == 3
    captured = capsys.readouterr()
    assert "5 of 6 images restored" in captured.out
    assert [line for line in captured.err.splitlines() if "half.png" in line and "rgb" not in line]
    assert len(list((tmp_path / "out").rglob("*.*g"))) == 5


def test_what_is_not_finite_is_named_and_not_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = small_model()
    broken.decoder.conv_out.bias[0] = float("nan")
    save_model(broken, tmp_path / "broken", torch.float32)
    assert run(photos, tmp_path / "out", "--model", tmp_path / "broken") == 3
    captured = capsys.readouterr()
    assert "0 of 5 images restored" in captured.out and not list((tmp_path / "out").rglob("*.png"))
    lines = [line for line in captured.err.splitlines() if line.startswith("unildiff: not restored: ")]
    assert len(lines) == 5 and f"{photos / 'rgb.png'}: the restored image is not finite" in "\n".join(lines)


def test_names_that_would_collide_keep_their_suffix(photos: Path, weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(photos / "rgb.jpg")
    assert run(photos, tmp_path / "out", "--model", weights) == 0
    assert {path.name for path in (tmp_path / "out").glob("rgb*")} == {"rgb.png", "rgb.jpg"}
    assert run(photos, tmp_path / "png", "--model", weights, "--format", "png") == 0
    assert {path.name for path in (tmp_path / "png").glob("rgb*")} == {"rgb.png", "rgb.jpg.png"}


def test_results_of_an_earlier_run_are_no_input(photos: Path, weights: Path) -> None:
    for _ in range(2):
        assert run(photos, photos / "restored", "--model", weights) == 0
    assert len(list((photos / "restored").rglob("*.*g"))) == 5


def test_a_full_disk_ends_the_run_at_the_first_image(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unildiff.utils.files.os.fsync", full)
    assert run(photos, tmp_path / "out", "--model", weights) == 2
    assert "disk full while writing" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["manifest.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "out"], "no such folder: nowhere"),
        (["empty", "out"], "empty folder: empty"),
        (["text", "out"], "no images in text"),
        (["", "out"], "the path of the images is empty"),
        (["pipe.png", "out"], "not a file: pipe.png"),
        (["photos/rgb.png", "photos/rgb.png"], "would be overwritten"),
        (["photos", "photos"], "give another folder"),
        (["photos", "out", "--model", "nothing"], "no file or folder nothing"),
        (["photos", "out", "--model", "text"], "no unildiff.json"),
        (["photos", "out", "--model", "text/a.txt"], "is not a checkpoint"),
        (["photos", "out", "--device", "cuda:7"], "device: cuda:7 cannot be used"),
        (["photos", "out", "--num_inference_steps", "0"], "num_inference_steps is 0"),
        (["photos", "out", "--num_inference_steps", "1001"], "num_inference_steps is 1001; it must be in 1..1000"),
        (["photos", "out", "--last_timestep", "1000"], "last_timestep is 1000; it must be below the sampler's first"),
        (["photos", "text/a.txt"], "not a folder but a file: text/a.txt"),
        (["photos", "out.jpg"], "a folder and out.jpg a file name"),
        (["photos/rgb.png", "out/a.gif"], "out/a.gif cannot be written"),
        (["photos/rgb.png", "out/a.png", "--format", "jpg"], "give --format or the name, not both"),
        (["photos", "out", "--shard", "0/2"], "'0/2' is not I/N"),
        (["photos", "out", "--tile_size", "64"], "tile_size is 64"),
        (["photos", "out", "--captions", "none.jsonl"], "cannot read captions: none.jsonl"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str],
    expected: str,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    os.mkfifo("pipe.png")
    model = [] if "--model" in arguments else ["--model", str(weights)]
    assert (
        main(
            ["restore", *arguments, *model, "--device", "cpu"]
            if "--device" not in arguments
            else ["restore", *arguments, *model]
        )
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and expected in error[0], error
    assert not (tmp_path / "out").exists()


def test_bfloat16_is_close(weights: Path) -> None:
    image = np.full((32, 32, 3), 90, dtype=np.uint8)
    full = restore_image(small_model(), image, settings=SamplingSettings(2)).float()
    half = restore_image(small_model().to(torch.bfloat16), image, settings=SamplingSettings(2)).float()
    other = restore_image(small_model(), image, settings=SamplingSettings(2), seed=1).float()
    assert 0 < (full - half).abs().mean() < (full - other).abs().mean() / 2


def test_pixels_survive_the_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_unit(every)), every)
