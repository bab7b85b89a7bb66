"""Unusual image files: rare depths, damaged profiles and chunks, and what is refused.

The oracle is the array that was written, inverted or rotated by hand, and Pillow's ImageCms, which the reader does not use.
"""

import io
import struct
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from unildiff.data.images import image_size, load_image, read_rgb
from unildiff.utils.errors import UserError

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (23, 14), interpolation=cv2.INTER_CUBIC)
DEEP = RGB.astype(np.uint16) * 257 + RNG.integers(-100, 100, RGB.shape).astype(np.int32).clip(0).astype(np.uint16) // 2
DEEP = np.maximum(DEEP, RGB)  # no overflow at 65535
WIDE = bytes(imagecodecs.cms_profile("adobergb"))


def check(path: Path, colours: np.ndarray, orientation: int = 1) -> None:
    """Compare with what a viewer shows; orientation 6 is a quarter turn to the right."""
    eight = np.floor(colours / 257 + 0.5) if colours.dtype == np.uint16 else colours
    expected = np.rot90(eight if eight.ndim == 3 else eight[..., None], 0 if orientation == 1 else -1)
    assert image_size(path) == expected.shape[:2] == load_image(path).rgb.shape[:2]
    assert (read_rgb(path) == expected).all() and load_image(path).alpha is None


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_tiff_of_every_depth(tmp_path: Path, bits: int, white_is_zero: bool) -> None:
    values = RNG.integers(0, 2**bits, (9, 16)).astype(np.uint16 if bits > 8 else np.uint8)
    stored = (2**bits - 1 - values) if white_is_zero else values
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored.astype(bool) if bits == 1 else stored,
        photometric="miniswhite" if white_is_zero else "minisblack",
        bitspersample=bits,
        metadata=None,
    )
    expected = np.rint(values * 255.0 / (2**bits - 1))
    assert np.abs(read_rgb(tmp_path / "a.tif") - expected[..., None]).max() <= (1 if bits > 8 else 0)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_cmyk_tiff(tmp_path: Path, depth: type) -> None:
    top = np.iinfo(depth).max
    ink = RNG.integers(0, top + 1, (9, 8, 4)).astype(depth)
    tifffile.imwrite(tmp_path / "a.tif", ink, photometric="separated", metadata=None)
    share = ink / top
    expected = 255 * (1 - share[..., :3]) * (1 - share[..., 3:])
    assert np.abs(read_rgb(tmp_path / "a.tif") - expected).max() <= 1
    tifffile.imwrite(tmp_path / "p.tif", np.moveaxis(ink, -1, 0), photometric="separated", planarconfig="separate")
    assert np.array_equal(read_rgb(tmp_path / "p.tif"), read_rgb(tmp_path / "a.tif"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("profile", ["adobergb", "damaged", "CMYK"])
def test_profiles_are_applied(tmp_path: Path, suffix: str, profile: str) -> None:
    srgb = ImageCms.createProfile("sRGB")
    icc = {"adobergb": WIDE, "sRGB": ImageCms.ImageCmsProfile(srgb).tobytes(), "damaged": WIDE[:200]}.get(profile)
    icc = icc or WIDE[:16] + b"CMYK" + WIDE[20:]  # a profile of other channels than the image has
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, icc_profile=icc, exif=exif(6))
    with Image.open(path) as image:
        stored = ImageOps.exif_transpose(image).convert("RGB")
    expected = stored
    if profile == "adobergb":
        expected = ImageCms.profileToProfile(stored, io.BytesIO(WIDE), srgb)  # type: ignore[assignment, arg-type]
        assert np.abs(np.array(expected).astype(int) - np.array(stored)).max() > 10
    assert np.abs(read_rgb(path).astype(int) - np.array(expected)).max() <= (1 if profile == "adobergb" else 0)
    assert bool(load_image(path).source.warnings) == (profile in ("damaged", "CMYK"))
    assert load_image(path).source.metadata.icc == icc


def test_profiles_of_sixteen_bits_and_grey(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", iccprofile=WIDE)
    eight = Image.fromarray(np.floor(DEEP / 257 + 0.5).astype(np.uint8))
    expected = np.array(ImageCms.profileToProfile(eight, io.BytesIO(WIDE), ImageCms.createProfile("sRGB")))  # type: ignore[arg-type]
    assert load_image(tmp_path / "a.tif").rgb.dtype == np.uint16
    error = np.abs(read_rgb(tmp_path / "a.tif").astype(int) - expected)
    assert error[expected.min(axis=2) > 40].max() <= 2  # 8 bits are coarse in the dark
    grey = bytes(imagecodecs.cms_profile("gray", gamma=1.0))  # linear light
    Image.fromarray(RGB[..., 0]).save(tmp_path / "l.png", icc_profile=grey)
    linear = RGB[..., 0] / 255
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(read_rgb(tmp_path / "l.png")[..., 0] - 255 * encoded).max() <= 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(tmp_path: Path, extra: bytes, last: bool = False) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    data = buffer.getvalue()
    place = data.index(b"IEND") - 4 if last else 33
    path = tmp_path / "chunk.png"
    path.write_bytes(data[:place] + extra + data[place:])
    return path


def test_ancillary_chunks_never_make_a_png_unreadable(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(2**26), 9)  # 67 MB in 65 kB
    turned = exif(6).tobytes().removeprefix(b"Exif\0\0")
    for extra in (
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"profile\0\0" + bomb),
        chunk(b"zTXt", b"Comment\0\0broken"),
        chunk(b"eXIf", b"nonsense"),
        chunk(b"tEXt", b"no separator"),
        chunk(b"tEXt", b"a\0b") * 2000,
        b"\0\0\0\4gAMA1234bad!",  # a wrong checksum
    ):
        check(png_with(tmp_path, extra), RGB)
        assert extra.count(b"tEXta") > 1 or b"gAMA" in extra or load_image(tmp_path / "chunk.png").source.warnings
    check(png_with(tmp_path, chunk(b"eXIf", turned), last=True), RGB, orientation=6)


@pytest.mark.parametrize("kind", ["int16", "float32", "float16", "uint32", "int8"])
def test_ranges_that_nothing_states_are_refused(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(kind), photometric="rgb")
    for read in (read_rgb, image_size):
        with pytest.raises(UserError, match=r"unsupported image: .*a\.tif holds (signed|floating-point|32-bit)"):
            read(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_orientation_that_is_not_a_number_is_ignored(tmp_path: Path) -> None:
    text = b"II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0x0112, 2, 3, b"ab\0\0", 0)  # type 2: ASCII
    for colours in (RGB, DEEP[..., 0]):
        Image.fromarray(colours).save(tmp_path / "a.png", exif=text)
        check(tmp_path / "a.png", colours)
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=[(274, "s", 3, "ab", True)])
    check(tmp_path / "a.tif", RGB)


def test_raw_camera_data_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.dng", RGB, photometric="rgb", extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    with pytest.raises(UserError, match=r"raw camera data \(DNG\); develop it first"):
        read_rgb(tmp_path / "a.dng")


def test_the_limit_names_itself_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (10000, 9500)).save(tmp_path / "phone.png")  # 95 Mpx: above Pillow's own limit
    assert image_size(tmp_path / "phone.png") == (9500, 10000)
    for path in (tmp_path / "phone.png", tmp_path / "a.tif", tmp_path / "a.bmp"):
        if path.suffix != ".png":
            Image.fromarray(RGB).save(path)
        pixels = 14 * 23 if path.suffix != ".png" else 95_000_000
        monkeypatch.setenv("UNILDIFF_MAX_PIXELS", str(pixels - 1))
        for read in (read_rgb, image_size):
            with pytest.raises(UserError, match=rf"{pixels} pixels.*UNILDIFF_MAX_PIXELS={pixels}"):
                read(path)
        monkeypatch.setenv("UNILDIFF_MAX_PIXELS", str(pixels))
        assert image_size(path)[0] in (14, 9500)
    monkeypatch.setenv("UNILDIFF_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="'many' is not a positive number"):
        read_rgb(tmp_path / "a.tif")
