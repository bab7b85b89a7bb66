"""Size and pixels over every format, bit depth, orientation, alpha kind and profile that Pillow, tifffile and OpenCV write.

The oracle shares nothing with the reader: lossless files hold the array that was written, lossy ones are decoded by
imagecodecs, rotations follow Exif 2.3 and colours the published primaries of each profile.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from unildiff.data.images import image_size, load_image, read_rgb

RNG = np.random.default_rng(0)
RGB = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (23, 14), interpolation=cv2.INTER_CUBIC)
DEEP = (RGB.astype(np.int32) * 257 + RNG.integers(-99, 99, RGB.shape)).clip(0, 65535).astype(np.uint16)
ALPHA = RNG.integers(1, 256, RGB.shape[:2], dtype=np.uint8)
ORIENTATIONS = (1, 2, 3, 4, 5, 6, 7, 8)
D65, P3 = [0.3127, 0.3290, 1.0], [0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0]
PROFILES = {
    "none": None,
    "srgb": bytes(imagecodecs.cms_profile("srgb")),
    "adobe": bytes(imagecodecs.cms_profile("adobergb")),
    "p3": bytes(imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=P3, gamma=2.2)),
}
# Linear light to linear sRGB, from the primaries and D65 (Adobe RGB (1998), section 4.3; SMPTE EG 432-1), and the exponent.
COLOURS = {
    "adobe": ([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]], 563 / 256),
    "p3": ([[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09828]], 2.2),
}


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return the array as a viewer shows it (Exif 2.3, tag 0x0112), by rotations."""
    mirrored = array[:, ::-1] if orientation in (2, 4, 5, 7) else array
    return np.rot90(mirrored, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])


def in_srgb(array: np.ndarray, profile: str) -> np.ndarray:
    """Return the colours in 0..255, float, as sRGB (IEC 61966-2-1)."""
    values = array.astype(float) / np.iinfo(array.dtype).max
    if profile in COLOURS:
        matrix, exponent = COLOURS[profile]
        light = (values**exponent @ np.array(matrix).T).clip(0, 1)
        values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * values


def check(
    path: Path, colours: np.ndarray, alpha: np.ndarray | None, orientation: int = 1, profile: str = "none"
) -> None:
    """Compare size, depth, pixels and alpha with what was stored."""
    colours = colours if colours.ndim == 3 else colours[..., None]
    expected = in_srgb(np.repeat(colours, 4 - colours.shape[2], 2) if colours.shape[2] == 1 else colours, profile)
    image, case = load_image(path), (path.name, orientation, profile)
    expected = upright(expected, orientation)
    assert image_size(path) == expected.shape[:2] == image.rgb.shape[:2], case
    assert image.rgb.dtype == colours.dtype, case
    top = np.iinfo(colours.dtype).max
    tolerance = (0.1 if top > 255 else 1.01) if profile in COLOURS else 1e-9  # of 255
    bright = expected.min(axis=2) > 12 if profile in COLOURS else np.s_[:]  # the toe of sRGB is steep in 8 bits
    assert np.abs(image.rgb * (255 / top) - expected)[bright].max(initial=0) <= tolerance, case
    assert np.array_equal(read_rgb(path), np.floor(image.rgb * (255 / top) + 0.5)), case
    assert (image.alpha is None) == (alpha is None), case
    assert alpha is None or np.array_equal(image.alpha, upright(alpha, orientation)), case


def pillow_image(mode: str) -> tuple[Image.Image, np.ndarray, np.ndarray | None]:
    """Return an image of a Pillow mode, its colours and its alpha."""
    grey = DEEP[..., 0] if mode == "I;16" else RGB[..., 0]
    if mode in ("L", "I;16"):
        return Image.fromarray(grey), grey, None
    if mode in ("LA", "RGBA"):
        colours = RGB[..., 0] if mode == "LA" else RGB
        return Image.fromarray(np.dstack([colours, ALPHA])), colours, ALPHA
    if mode in ("P", "PA", "1"):
        image = Image.fromarray(RGB).convert("1") if mode == "1" else Image.fromarray(RGB).quantize(7)
        colours, alpha = np.array(image.convert("L" if mode == "1" else "RGB")), None
        if mode == "PA":  # a palette with a transparent entry
            alpha = np.where(np.array(image) == 3, 0, 255).astype(np.uint8)
            image.info["transparency"] = 3
        return image, colours, alpha
    if mode == "CMYK":
        ink = np.dstack([255 - RGB, np.zeros_like(ALPHA)])  # without black, RGB is what the inks leave
        return Image.fromarray(ink, "CMYK"), RGB, None
    return Image.fromarray(RGB), RGB, None


LOSSY: dict[str, Callable[[bytes], np.ndarray]] = {
    "jpg": imagecodecs.jpeg8_decode,
    "mpo": imagecodecs.jpeg8_decode,
    "webp": imagecodecs.webp_decode,
    "avif": imagecodecs.avif_decode,
}
PILLOW: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "png": (("L", "LA", "RGB", "RGBA", "P", "PA", "1", "I;16"), {}),
    "tif": (("L", "LA", "RGB", "RGBA", "P", "1", "I;16", "CMYK"), {}),
    "lossless.webp": (("RGB", "RGBA"), {"lossless": True, "exact": True}),
    "webp": (("RGB",), {}),
    "jpg": (("L", "RGB"), {"quality": 90}),
    "progressive.jpg": (("L", "RGB"), {"progressive": True, "subsampling": 0}),
    "mpo": (("RGB",), {}),
    "avif": (("RGB",), {}),
    "bmp": (("L", "RGB", "RGBA", "P", "1"), {}),
    "dib": (("RGB",), {}),
    "gif": (("L", "P", "PA"), {}),
    "tga": (("L", "LA", "RGB", "RGBA", "P"), {}),
    "jp2": (("L", "LA", "RGB", "RGBA", "I;16"), {}),
    "ppm": (("RGB",), {}),
    "pgm": (("L", "I;16"), {}),
}


@pytest.mark.parametrize("format", PILLOW)
def test_what_pillow_writes(tmp_path: Path, format: str) -> None:
    modes, settings = PILLOW[format]
    suffix = format.rpartition(".")[2]
    managed, turned = suffix in ("png", "tif", "webp", "jpg", "avif"), suffix in ("png", "tif", "webp", "jpg", "avif")
    for mode, orientation, profile in itertools.product(
        modes, ORIENTATIONS if turned else (1,), PROFILES if managed else ("none",)
    ):
        if profile != "none" and mode in ("L", "LA", "1", "I;16", "CMYK"):
            continue  # these profiles have three colours
        image, colours, alpha = pillow_image(mode)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{mode.replace(';', '')}.{suffix}"
        more: dict[str, Any] = {"exif": exif} if turned else {}
        image.save(path, **settings | more | ({"icc_profile": PROFILES[profile]} if PROFILES[profile] else {}))
        if suffix in LOSSY and "lossless" not in format:
            colours = LOSSY[suffix](path.read_bytes())
        check(path, colours, None if suffix == "bmp" else alpha, orientation, profile)  # Pillow's BMPs state no alpha


LAYOUTS: list[dict[str, Any]] = [
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
def test_what_tifffile_writes(tmp_path: Path, layout: dict[str, Any]) -> None:
    kinds = itertools.product((np.uint8, np.uint16), (False, True), (None, "unassalpha", "assocalpha", "unspecified"))
    for number, (depth, grey, extra) in enumerate(kinds):
        top = np.iinfo(depth).max
        colours = (DEEP if depth == np.uint16 else RGB)[..., : 1 if grey else 3]
        alpha = ALPHA.astype(depth) * (top // 255)
        stored = colours
        if extra == "assocalpha":
            stored = np.rint(colours * (alpha[..., None] / top)).astype(depth)
            colours = np.minimum(np.rint(stored / (alpha[..., None] / top)), top).astype(depth)
        stored = stored if extra is None else np.dstack([stored, alpha])
        planar = layout.get("planarconfig") == "separate" and stored.shape[2] > 1
        settings = {key: value for key, value in layout.items() if key != "planarconfig" or planar}
        every = itertools.product(ORIENTATIONS, ("none",) if grey else ("none", "adobe", "p3"))
        for orientation, profile in every if not layout else [(ORIENTATIONS[number % 8], "none")]:
            path = tmp_path / f"{number}.tif"
            tifffile.imwrite(
                path,
                np.moveaxis(stored, -1, 0) if planar else stored if stored.shape[2] > 1 else stored[..., 0],
                photometric="minisblack" if grey else "rgb",
                extrasamples=None if extra is None else [extra],
                extratags=[(274, "H", 1, orientation, True)],
                iccprofile=PROFILES[profile],
                metadata=None,
                **({"planarconfig": "contig"} if not planar and stored.shape[2] > 1 else {}) | settings,
            )
            check(path, colours, alpha if extra in ("unassalpha", "assocalpha") else None, orientation, profile)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm", "pgm", "jp2", "bmp", "webp", "jpg", "avif"])
def test_what_opencv_writes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    depths = (np.uint8, np.uint16) if suffix in ("png", "tif", "ppm", "pgm", "jp2") else (np.uint8,)
    for depth, channels in itertools.product(depths, (1, 3, 4)):
        if (suffix == "pgm") != (channels == 1) and suffix in ("pgm", "ppm"):
            continue
        if channels == 4 and suffix not in ("png", "tif", "webp"):
            continue
        colours = np.tile(DEEP if depth == np.uint16 else RGB, (3, 3, 1))  # OpenCV's JPEG 2000 wants 32 pixels
        alpha = np.tile(ALPHA, (3, 3)).astype(depth) * (np.iinfo(depth).max // 255) if channels == 4 else None
        written = colours[..., 0] if channels == 1 else colours[..., ::-1]
        settings = {"jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000], "webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
        cv2.imwrite(str(path), written if alpha is None else np.dstack([written, alpha]), settings.get(suffix, []))
        expected = colours[..., 0] if channels == 1 else colours
        if suffix in ("jpg", "avif", "jp2"):
            decoder = imagecodecs.jpeg2k_decode if suffix == "jp2" else LOSSY[suffix]
            expected = decoder(path.read_bytes())
        check(path, expected, alpha)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "RGBa"])
def test_heic_of_ten_bits(tmp_path: Path, mode: str, orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    alpha = np.maximum(ALPHA, 128).astype(np.uint16) * 257
    colours = np.minimum(DEEP, alpha[..., None])[..., : 3 if "RGB" in mode else 1]
    stored = colours if mode in ("L", "RGB") else np.dstack([colours, alpha])
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = heif.from_bytes(f"{mode};16", (23, 14), np.ascontiguousarray(stored).tobytes())
    made.save(tmp_path / "a.heic", quality=-1, chroma=444, exif=exif.tobytes())
    image = load_image(tmp_path / "a.heic")
    share = alpha[..., None] / 65535 if mode == "RGBa" else 1.0  # colours multiplied by alpha
    expected = upright(np.broadcast_to(colours, RGB.shape) / share, orientation)
    assert image_size(tmp_path / "a.heic") == expected.shape[:2] and image.rgb.dtype == np.uint16
    assert np.abs(image.rgb - expected).max() < 3 * 64 * (2 if mode == "RGBa" else 1)  # three steps of 10 bits
    assert (image.alpha is None) == (mode in ("L", "RGB"))
    if image.alpha is not None:
        assert np.abs(image.alpha.astype(int) - upright(alpha, orientation)).max() <= 64


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_more_than_eight_bits(tmp_path: Path, bits: int) -> None:
    alpha = (ALPHA.astype(np.uint16) * 257)[..., None]
    for stored in (DEEP[..., 0], DEEP, np.concatenate([DEEP, alpha], 2)):
        layout = "400" if stored.ndim == 2 else "444"
        written = imagecodecs.avif_encode(stored >> (16 - bits), bitspersample=bits, level=100, pixelformat=layout)
        (tmp_path / "a.avif").write_bytes(written)
        image, step = load_image(tmp_path / "a.avif"), 2 ** (16 - bits)
        assert np.abs(image.rgb - (stored[..., None] if stored.ndim == 2 else DEEP).astype(int)).max() <= step
        assert (image.alpha is not None) == (stored.shape[2:] == (4,)) and image_size(tmp_path / "a.avif") == (14, 23)
