"""Restored copies: pixels, depth, alpha, profile and metadata survive, read by Pillow, tifffile and OpenCV."""

import io
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from unildiff.data.images import load_image, read_rgb
from unildiff.data.images.writer import encode_restored

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
DEEP = RGB.astype(np.uint16) * 257 - RNG.integers(0, 100, RGB.shape).astype(np.uint16) * (RGB > 0)
ALPHA = RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)
WIDE = bytes(imagecodecs.cms_profile("adobergb"))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="Me"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
NOTE = {"software": "UniLDiff 1.0", "model": 'a"b&c', "seed": "7"}


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Copyright] = "Somebody"
    exif[ExifTags.IFD.Exif] = {0x829A: 0.004, 0x8827: 400, 0xA002: 60, 0xA003: 40}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 1.0)}
    return exif


def packet_of(image: Image.Image) -> bytes:
    packet = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
    return packet.encode() if isinstance(packet, str) else packet or image.tag_v2[700]  # type: ignore[attr-defined]


def copied(path: Path, format: str, note: dict[str, str] | None = None) -> tuple[bytes, list[str]]:
    """Return the file that a restorer which changes nothing would write."""
    image = load_image(path)
    values = image.rgb.astype(np.float32) / (257 if image.rgb.dtype == np.uint16 else 1)
    return encode_restored(values, image, format, note)


FORMATS = {"png": ("PNG", 0), "tif": ("TIFF", 0), "jpg": ("JPEG", 3), "webp": ("WEBP", 0), "avif": ("AVIF", 8)}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("profile", [None, WIDE], ids=["srgb", "wide"])
def test_metadata_and_pixels_survive(tmp_path: Path, suffix: str, profile: bytes | None) -> None:
    format, tolerance = FORMATS[suffix]
    path, out = tmp_path / f"a.{suffix}", tmp_path / f"out.{suffix}"
    extra: dict[str, Any] = {"webp": {"lossless": True, "exact": True}, "jpg": {"quality": 97, "subsampling": 0}}.get(
        suffix, {}
    )
    if suffix == "png":
        extra["pnginfo"] = PngInfo()
        extra["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    exif = camera_exif()
    if suffix == "tif":
        exif[700] = XMP
    Image.fromarray(RGB).save(path, exif=exif.tobytes(), icc_profile=profile, xmp=XMP, **extra)
    data, lost = copied(path, format)
    out.write_bytes(data)
    assert lost == []
    with Image.open(path) as before, Image.open(out) as after:
        exif = after.getexif()
        if suffix == "tif":  # Pillow looks for the file that it has closed
            exif = Image.Exif()
            exif.load_from_fp(io.BytesIO(data))
        details = exif.get_ifd(ExifTags.IFD.Exif)
        position = exif.get_ifd(ExifTags.IFD.GPSInfo)
        stored = np.rot90(np.array(before.convert("RGB")), 0 if suffix == "tif" else -1).astype(int)
        assert after.format == format and after.size == (40, 60)
        assert np.abs(np.array(after.convert("RGB")) - stored).max() <= tolerance + (profile is not None)
        assert after.info.get("icc_profile") == profile
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert (exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright]) == ("Maker", "Somebody")
        assert (details[0x8827], float(details[0x829A]), details[0xA002], details[0xA003]) == (400, 0.004, 40, 60)
        assert position[1] == "N"
        packet = packet_of(after)
        assert b'tiff:Orientation="1"' in packet and b'tiff:Make="Me"' in packet
    assert np.abs(read_rgb(out).astype(int) - read_rgb(path)).mean() <= tolerance / 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_and_alpha_to_the_last_bit(tmp_path: Path, suffix: str) -> None:
    path, out = tmp_path / f"a.{suffix}", tmp_path / f"out.{suffix}"
    deep_alpha = ALPHA.astype(np.uint16) * 257
    if suffix == "png":
        cv2.imwrite(str(path), np.dstack([DEEP[..., ::-1], deep_alpha]))
    else:
        tifffile.imwrite(path, np.dstack([DEEP, deep_alpha]), photometric="rgb", extrasamples=["unassalpha"])
    out.write_bytes(copied(path, FORMATS[suffix][0])[0])
    if suffix == "png":
        assert np.array_equal(
            cv2.imread(str(out), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]], np.dstack([DEEP, deep_alpha])
        )
    else:
        assert np.array_equal(tifffile.imread(out), np.dstack([DEEP, deep_alpha]))
        assert tifffile.TiffFile(out).pages.first.extrasamples == (2,)  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_of_eight_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    extra = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, **extra)
    with Image.open(io.BytesIO(copied(path, FORMATS[suffix][0])[0])) as image:
        assert np.array_equal(np.array(image), np.dstack([RGB, ALPHA]))
    data, lost = copied(path, "JPEG")
    assert lost == ["transparency: JPEG has none"] and Image.open(io.BytesIO(data)).mode == "RGB"


def test_colours_outside_srgb_are_kept(tmp_path: Path) -> None:
    green = np.zeros((8, 8, 3), np.uint8)
    green[..., 1] = 255  # of Adobe RGB: no sRGB colour
    Image.fromarray(green).save(tmp_path / "a.png", icc_profile=WIDE)
    assert np.abs(read_rgb(tmp_path / "a.png").astype(int) - [0, 255, 0]).max() <= 1
    with Image.open(io.BytesIO(copied(tmp_path / "a.png", "PNG")[0])) as image:
        assert np.abs(np.array(image).astype(int) - green).max() <= 1 and image.info["icc_profile"] == WIDE


def test_profiles_that_no_longer_hold_are_dropped(tmp_path: Path) -> None:
    grey = bytes(imagecodecs.cms_profile("gray", gamma=1.0))
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.png", icc_profile=grey)
    data, lost = copied(tmp_path / "a.png", "PNG")
    assert "icc_profile" not in Image.open(io.BytesIO(data)).info and "colour profile" in lost[0]
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), read_rgb(tmp_path / "a.png"))


@pytest.mark.parametrize(("quality", "subsampling"), [(98, 0), (98, 2), (30, 2), (60, 1)])
def test_jpeg_quality_is_kept_or_better(tmp_path: Path, quality: int, subsampling: int) -> None:
    from PIL.JpegImagePlugin import get_sampling

    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, quality=quality, subsampling=subsampling)
    with Image.open(path) as before, Image.open(io.BytesIO(copied(path, "JPEG")[0])) as after:
        for key, table in after.quantization.items():  # type: ignore[attr-defined]
            assert sum(table) <= sum(before.quantization[key])  # type: ignore[attr-defined]
        assert get_sampling(after) == subsampling


def test_png_text_and_thumbnails(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("Title", "Ein Foto")
    text.add_itxt("Comment", "写真", zip=True)
    text.add_text("Author", "me", zip=True)
    Image.fromarray(RGB).save(tmp_path / "a.png", pnginfo=text, dpi=(300, 300))
    with Image.open(io.BytesIO(copied(tmp_path / "a.png", "PNG")[0])) as image:
        assert image.text == {"Title": "Ein Foto", "Comment": "写真", "Author": "me"}  # type: ignore[attr-defined]
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    thumbnail = b"II*\0\x08\0\0\0" + bytes.fromhex("01001201030001000000060000001a000000")
    thumbnail += bytes.fromhex("010001020400010000002c00000000000000") + b"\xff\xd8thumb"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + thumbnail)
    data, _ = copied(tmp_path / "a.jpg", "JPEG")
    assert b"thumb" not in data and Image.open(io.BytesIO(data)).getexif()[274] == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_provenance_is_readable_and_replaced(tmp_path: Path, suffix: str) -> None:
    format = FORMATS[suffix][0]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path)
    plain = copied(path, format)[0]
    assert b"UniLDiff" not in plain and b"unildiff" not in plain
    for seed in ("7", "8"):
        path.write_bytes(copied(path, format, NOTE | {"seed": seed})[0])
    with Image.open(path) as image:
        assert image.getexif()[ExifTags.Base.Software] == "UniLDiff 1.0"
        packet = packet_of(image)
    assert packet.count(b"unildiff:seed") == 1 and b'unildiff:seed="8"' in packet
    assert b"unildiff:model='a\"b&amp;c'" in packet


def test_damaged_exif_does_not_stop_the_writer(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x02\0")
    Image.fromarray(RGB).save(
        tmp_path / "b.png", exif=b"II*\0\x08\0\0\0" + bytes.fromhex("010012010200030000006162000000000000")
    )
    for name in ("a.png", "b.png"):
        data, _ = copied(tmp_path / name, "PNG", NOTE)
        assert np.array_equal(np.array(Image.open(io.BytesIO(data))), RGB)


def test_cmyk_becomes_srgb(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    data, _ = copied(tmp_path / "a.jpg", "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB" and np.abs(np.array(image).astype(int) - read_rgb(tmp_path / "a.jpg")).mean() < 3
