"""Every format, depth, orientation, alpha kind and profile that Pillow, tifffile and OpenCV write comes back as it was.

The oracle is the array that was written: rotated by hand, multiplied or inverted by hand, and converted from its profile
by Pillow's ImageCms, which the reader does not use.
"""

import io
import itertools
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
ALPHA = RNG.integers(1, 256, RGB.shape[:2], dtype=np.uint8)
ORIENTATIONS = (1, 2, 3, 4, 5, 6, 7, 8)
WIDE = bytes(imagecodecs.cms_profile("adobergb"))


def seen(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return the array as a viewer shows it (Exif 2.3, tag 0x0112), by rotations."""
    mirrored = array[:, ::-1] if orientation in (2, 4, 5, 7) else array
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation]
    return np.rot90(mirrored, turns)


def rounded(array: np.ndarray) -> np.ndarray:
    return np.floor(array / 257 + 0.5).astype(np.uint8) if array.dtype == np.uint16 else array


def check(
    path: Path, colours: np.ndarray, alpha: np.ndarray | None, orientation: int = 1, tolerance: float = 0
) -> None:
    expected = rounded(seen(colours if colours.ndim == 3 else np.repeat(colours[..., None], 3, 2), orientation))
    image = load_image(path)
    assert image_size(path) == expected.shape[:2] == image.rgb.shape[:2]
    assert np.abs(read_rgb(path).astype(int) - expected).max() <= tolerance
    assert (image.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(image.alpha, seen(alpha, orientation))


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_what_pillow_writes(tmp_path: Path, orientation: int) -> None:
    options: dict[str, dict[str, object]] = {"png": {}, "tif": {}, "webp": {"lossless": True, "exact": True}}
    for suffix, kind in itertools.product(options, ("L", "LA", "RGB", "RGBA", "P", "1", "I;16", "PA")):
        colours, alpha, image = RGB, None, Image.fromarray(RGB)
        if kind in ("L", "LA", "I;16"):
            colours = DEEP[..., 0] if kind == "I;16" else RGB[..., 0]
            image = Image.fromarray(colours)
        if kind in ("LA", "RGBA"):
            alpha = ALPHA
            image = Image.fromarray(np.dstack([colours, alpha]))
        if kind in ("P", "1"):
            image = image.quantize(7) if kind == "P" else image.convert("1")
            colours = np.array(image.convert("RGB"))
        if kind == "PA" and suffix == "png":  # a palette with a transparent entry
            image = Image.fromarray(RGB).quantize(7)
            colours = np.array(image.convert("RGB"))
            alpha = np.where(np.array(image) == 3, 0, 255).astype(np.uint8)
            image.info["transparency"] = 3
        if suffix == "webp" and kind not in ("RGB", "RGBA"):
            continue
        path = tmp_path / f"{kind.replace(';', '')}.{suffix}"
        image.save(path, exif=exif(orientation), **options[suffix])
        check(path, colours, alpha if kind != "PA" or suffix == "png" else None, orientation)


@pytest.mark.parametrize("suffix", ["jpg", "jfif", "jpe", "mpo", "avif", "bmp", "tga", "jp2", "ppm", "gif", "dib"])
def test_formats_that_pillow_alone_decodes(tmp_path: Path, suffix: str) -> None:
    for orientation, grey in itertools.product(ORIENTATIONS if suffix in ("jpg", "avif") else (1,), (False, True)):
        if grey and suffix in ("avif", "mpo"):
            continue
        path = tmp_path / f"a.{suffix}"
        image = Image.fromarray(RGB[..., 0] if grey else RGB)
        image.save(path, **({"exif": exif(orientation)} if suffix in ("jpg", "avif") else {}))
        with Image.open(path) as opened:
            decoded = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        check(path, seen(decoded, 1), None)
        assert np.abs(decoded.astype(int) - seen(np.array(image.convert("RGB")), orientation)).mean() < 12


LAYOUTS = [
    {},
    {"planarconfig": "separate"},
    {"byteorder": ">"},
    {"bigtiff": True},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw"},
    {"compression": "packbits"},
    {"compression": "zstd"},
    {"tile": (16, 16)},
    {"rowsperstrip": 3},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_tifffile_writes(tmp_path: Path, layout: dict[str, object]) -> None:
    kinds = itertools.product((np.uint8, np.uint16), (False, True), (None, "unassalpha", "assocalpha", "unspecified"))
    for number, (depth, grey, extra) in enumerate(kinds):
        orientation = ORIENTATIONS[number % 8]
        top = np.iinfo(depth).max
        colours = (DEEP if depth == np.uint16 else RGB)[..., : 1 if grey else 3]
        alpha = ALPHA.astype(depth) * (top // 255)
        stored = colours
        if extra == "assocalpha":
            stored = np.rint(colours * (alpha[..., None] / top)).astype(depth)
            colours = np.minimum(np.rint(stored / (alpha[..., None] / top)), top).astype(depth)
        if extra is not None:
            stored = np.dstack([stored, alpha])
        planar = layout.get("planarconfig") == "separate" and stored.shape[2] > 1
        settings = {key: value for key, value in layout.items() if key != "planarconfig" or planar}
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(
            path,
            np.moveaxis(stored, -1, 0) if planar else stored if stored.shape[2] > 1 else stored[..., 0],
            photometric="minisblack" if grey else "rgb",
            extrasamples=None if extra is None else [extra],
            extratags=[(274, "H", 1, orientation, True)],
            metadata=None,
            **({"planarconfig": "contig"} if not planar and stored.shape[2] > 1 else {}) | settings,
        )
        check(path, colours, alpha if extra in ("unassalpha", "assocalpha") else None, orientation)


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


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "jp2"])
def test_what_opencv_writes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    settings = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if suffix == "jp2" else []
    tolerance = 3 if suffix == "jp2" else 0
    for colours in (np.tile(DEEP, (4, 4, 1)), np.tile(RGB, (4, 4, 1))):
        cv2.imwrite(str(path), colours[..., ::-1], settings)
        check(path, colours, None, tolerance=tolerance)
        assert load_image(path).rgb.dtype == colours.dtype
        grey = path.with_suffix(".pgm") if suffix == "ppm" else path
        cv2.imwrite(str(grey), colours[..., 0], settings)
        check(grey, colours[..., 0], None, tolerance=tolerance)
        if suffix in ("png", "tif"):
            alpha = np.tile(ALPHA, (4, 4)).astype(colours.dtype) * (257 if colours.dtype == np.uint16 else 1)
            cv2.imwrite(str(path), np.dstack([colours[..., ::-1], alpha]))
            assert np.array_equal(read_rgb(path), rounded(colours))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("profile", ["adobergb", "sRGB", "damaged", "CMYK"])
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
    eight = Image.fromarray(rounded(DEEP))
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
    bomb = zlib.compress(bytes(2**28), 9)  # 268 MB in 261 kB
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
        check(png_with(tmp_path, extra), RGB, None)
        assert extra.count(b"tEXta") > 1 or b"gAMA" in extra or load_image(tmp_path / "chunk.png").source.warnings
    check(png_with(tmp_path, chunk(b"eXIf", turned), last=True), RGB, None, orientation=6)


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
        check(tmp_path / "a.png", colours, None)
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=[(274, "s", 3, "ab", True)])
    check(tmp_path / "a.tif", RGB, None)


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
