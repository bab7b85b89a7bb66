"""A folder as it comes from phones and cameras, restored by the README's first command: same formats, upright, with metadata."""

import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from skimage import data

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.data.walk import readable_suffixes
from unildiff.weights.folder import save_model

GPS = {1: "N", 2: (48.0, 8.0, 30.0), 3: "E", 4: (11.0, 34.0, 12.0)}
LATIN = os.fsdecode(b"caf\xe9.jpg")


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112], made[0x010F], made[0x0132] = orientation, "Phone", "2026:11:30 12:00:00"
    made.get_ifd(0x8825).update(GPS)
    return made


def take_photographs(folder: Path) -> None:
    """Write twenty files: photographs in every format and mode that phones, cameras and chats produce, and three bad ones."""
    (folder / "2026" / "trip").mkdir(parents=True)
    (folder / "@eaDir").mkdir()
    photo = Image.fromarray(data.astronaut()).resize((48, 64))
    cat = Image.fromarray(data.chelsea()).resize((72, 48))
    wide = bytes(imagecodecs.cms_profile("adobergb"))
    deep = np.asarray(cat).astype(np.uint16) * 257 + 3
    grey = cat.convert("L")
    see_through = cat.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(cat.size))
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "from the terrace")
    for number in (1, 3, 6, 8):
        photo.save(folder / f"IMG_000{number}.JPG", exif=exif(number), quality=90)
    cat.save(folder / "wide.jpg", icc_profile=wide, quality=95, subsampling=0)
    cat.save(folder / "2026" / "trip" / "two.jpg", "MPO", save_all=True, append_images=[cat.resize((24, 16))])
    cat.save(folder / LATIN)
    cv2.imwrite(str(folder / "deep.png"), deep[..., ::-1])
    tifffile.imwrite(folder / "2026" / "scan.tif", deep, photometric="rgb")
    see_through.save(folder / "sticker.png", pnginfo=note)
    see_through.save(folder / "chat.webp", quality=90)
    cat.save(folder / "2026" / "small.avif", quality=90)
    grey.save(folder / "old.jpg")
    grey.save(folder / "old.png")
    cat.convert("CMYK").save(folder / "print.jpg")
    cat.quantize(64).save(folder / "palette.png")
    cat.quantize(64).save(folder / "loop.gif")
    (folder / "cut.jpg").write_bytes((folder / "IMG_0001.JPG").read_bytes()[:600])
    (folder / "letter.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("not an image")
    photo.save(folder / "@eaDir" / "thumb.jpg")


def srgb8(image: Image.Image) -> np.ndarray:
    """Return an image as a colour-managed viewer shows it, by Pillow alone."""
    upright = ImageOps.exif_transpose(image)
    if profile := image.info.get("icc_profile"):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        upright = ImageCms.profileToProfile(upright, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(upright.convert("RGB")).astype(float)


def test_photographs_come_back_as_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    photos, out = tmp_path / "photos", tmp_path / "restored"
    take_photographs(photos)
    command = ["restore", str(photos), str(out), "--model", str(tmp_path / "weights"), "--device", "cpu"]
    assert main([*command, "--num_inference_steps", "1", "--colour", "input"]) == 3  # colours tell what is up
    errors = capsys.readouterr().err
    assert "cut.jpg" in errors and "letter.jpg" in errors and "Traceback" not in errors
    sources = sorted(path for path in photos.rglob("*") if path.is_file())
    bad = {"cut.jpg", "letter.jpg", "notes.txt", "thumb.jpg"}
    expected = {path.relative_to(photos) for path in sources if path.name not in bad}
    results = {path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.suffix != ".jsonl"}
    assert results == {path.with_suffix(".png") if path.suffix == ".gif" else path for path in expected}
    for name in expected:
        result = out / (name.with_suffix(".png") if name.suffix == ".gif" else name)
        with Image.open(photos / name) as before, Image.open(result) as after:
            assert after.format == {"MPO": "JPEG", "GIF": "PNG"}.get(before.format or "", before.format), name
            assert after.size == ImageOps.exif_transpose(before).size, name
            tags = after.getexif()
            assert tags.get(0x0112, 1) == 1 and tags.get(0x010F) == before.getexif().get(0x010F), name
            assert dict(tags.get_ifd(0x8825)) == dict(before.getexif().get_ifd(0x8825)), name
            assert after.info.get("icc_profile") == before.info.get("icc_profile"), name
            assert after.info.get("Comment") == before.info.get("Comment"), name
            if "A" in before.getbands():
                assert np.array_equal(after.getchannel("A"), before.getchannel("A")), name
            shown = [cv2.resize(srgb8(each), (8, 8), interpolation=cv2.INTER_AREA).ravel() for each in (before, after)]
            assert np.corrcoef(*shown)[0, 1] > 0.9, name
    assert cv2.imread(str(out / "deep.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert tifffile.imread(out / "2026" / "scan.tif").dtype == np.uint16


def test_heic_becomes_png_and_stays_upright(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    save_model(small_model(), tmp_path / "weights", torch.float32)
    photo = Image.fromarray(data.astronaut()).resize((48, 64))
    heif.from_pillow(photo).save(tmp_path / "IMG.heic", exif=exif(1).tobytes(), quality=90)
    code = "from pathlib import Path; from unildiff.data.images import image_size; print(image_size(Path('IMG.heic')))"
    read = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert read.stdout == "(64, 48)\n"  # in a process where nothing else has registered the format, as imageio does
    command = ["restore", str(tmp_path / "IMG.heic"), str(tmp_path / "out"), "--model", str(tmp_path / "weights")]
    assert main([*command, "--device", "cpu", "--num_inference_steps", "1"]) == 0
    with Image.open(tmp_path / "out" / "IMG.png") as after:
        assert after.size == photo.size and after.getexif()[0x010F] == "Phone"
        assert dict(after.getexif().get_ifd(0x8825)) == GPS


def test_files_that_need_a_package_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr("unildiff.data.walk.find_spec", lambda name: None)
    readable_suffixes.cache_clear()
    try:
        (tmp_path / "in").mkdir()
        for name in ("IMG.heic", "b.jxl"):
            (tmp_path / "in" / name).write_bytes(b"0000ftypheic")
        assert main(["restore", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
        assert "`pip install pillow-heif pillow-jxl-plugin` or convert them to PNG" in capsys.readouterr().err
        assert main(["restore", str(tmp_path / "in" / "IMG.heic"), str(tmp_path / "out")]) == 2
        assert "`pip install pillow-heif` or replace" in capsys.readouterr().err
    finally:
        readable_suffixes.cache_clear()
