"""Malformed images are refused in one line, or read as an image of the size that was announced."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from tests.fuzz.mutations import bounded_memory, damaged, result_or_refusal
from unildiff.data.images import image_size, load_image, read_rgb
from unildiff.data.raw import read_raw

RANDOM = np.random.default_rng(7)
RGB = cv2.resize(RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8), (40, 24))


def pillow(kind: str, image: np.ndarray = RGB, **options: object) -> bytes:
    made = io.BytesIO()
    Image.fromarray(image).save(made, kind, **options)
    return made.getvalue()


def tiff(**options: object) -> bytes:
    made = io.BytesIO()
    tifffile.imwrite(made, RGB.astype(np.uint16) * 257, **options)
    return made.getvalue()


def deep_png() -> bytes:
    return bytes(cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1])


IMAGES: dict[str, Callable[[], bytes]] = {
    "a.png": lambda: pillow("PNG", pnginfo=None, dpi=(72, 72)),
    "deep.png": deep_png,
    "a.jpg": lambda: pillow("JPEG", quality=90),
    "progressive.jpg": lambda: pillow("JPEG", progressive=True),
    "a.webp": lambda: pillow("WEBP", lossless=True),
    "a.bmp": lambda: pillow("BMP"),
    "a.gif": lambda: pillow("GIF"),
    "a.tif": lambda: tiff(compression="zlib"),
    "tiled.tif": lambda: tiff(tile=(16, 16)),
    "a.tga": lambda: pillow("TGA"),
    "a.jp2": lambda: pillow("JPEG2000"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_damaged_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("UNILDIFF_MAX_PIXELS", "4000000")
    whole = IMAGES[name]()
    path, random = tmp_path / name, np.random.default_rng(1)
    with bounded_memory(300):
        for _ in range(60):
            path.write_bytes(damaged(whole, random))
            image = result_or_refusal(lambda: load_image(path))
            if image is not None:
                assert image.rgb.ndim == 3 and image.rgb.shape[2] == 3 and image.rgb.dtype in (np.uint8, np.uint16)
                assert image_size(path) == image.rgb.shape[:2]
                assert read_rgb(path).shape == image.rgb.shape


def npy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.arange(24 * 40, dtype=np.uint16).reshape(24, 40))
    return made.getvalue()


def mat() -> bytes:
    made = io.BytesIO()
    scipy.io.savemat(made, {"x": np.arange(24 * 40, dtype=np.uint16).reshape(24, 40)}, do_compression=True)
    return made.getvalue()


RAW: dict[str, Callable[[], bytes]] = {
    "a.png": lambda: bytes(cv2.imencode(".png", np.arange(960, dtype=np.uint16).reshape(24, 40))[1]),
    "a.npy": npy,
    "a.mat": mat,
}


@pytest.mark.parametrize("name", RAW)
def test_damaged_raw_files(name: str, tmp_path: Path) -> None:
    whole = RAW[name]()
    path, random = tmp_path / name, np.random.default_rng(2)
    with bounded_memory(300):
        for _ in range(60):
            path.write_bytes(damaged(whole, random))
            raw = result_or_refusal(lambda: read_raw(path))
            assert raw is None or (raw.dtype == np.uint16 and raw.ndim == 2)


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Small files that claim, or unpack to, gigabytes."""
    whole = deep_png()
    header, rest = whole[:33], whole[33:]
    huge = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    claim = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1), np.uint16)) | {"shape": (1 << 20, 1 << 16)}
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, claim)
    zeros = io.BytesIO()
    scipy.io.savemat(zeros, {"x": np.zeros((1 << 12, 1 << 13), np.uint16)}, do_compression=True)  # 64 MB in 65 KB
    return {
        "claims a chunk of 4 GB.png": header + chunk(b"IDAT", b"x", 0xFFFFFFF0) + rest,
        "claims a text of 4 GB.png": header + chunk(b"tEXt", b"x", 0x7FFFFFFF) + rest,
        "compressed text.png": header + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000))) + rest,
        "claims 7 GB of pixels.png": whole[:8] + chunk(b"IHDR", huge) + rest,
        "claims 128 GB.npy": array.getvalue() + bytes(100),
        "unpacks to 64 MB.mat": zeros.getvalue(),
    }


@pytest.fixture(scope="module")
def made_bombs() -> dict[str, bytes]:
    return bombs()


@pytest.mark.parametrize("name", ["claims a chunk of 4 GB.png", "claims a text of 4 GB.png", "compressed text.png", "claims 7 GB of pixels.png", "claims 128 GB.npy", "unpacks to 64 MB.mat"])  # fmt: skip
def test_small_files_cannot_fill_memory(
    name: str, made_bombs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNILDIFF_MAX_PIXELS", "4000000")
    path = tmp_path / name
    path.write_bytes(made_bombs[name])
    with bounded_memory(50):
        result_or_refusal(lambda: read_raw(path))
        result_or_refusal(lambda: load_image(path))
