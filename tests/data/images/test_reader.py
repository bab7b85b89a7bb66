"""Reading images of every kind, against Pillow and hand-made arrays; broken ones are refused by name."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unildiff.data.images import image_size, list_images, read_grey, read_rgb, write_png
from unildiff.utils.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)


def save(path: Path, image: np.ndarray, mode: str = "RGB", **options) -> Path:
    Image.fromarray(image, mode).save(path, **options)
    return path


def test_rgb_comes_back_as_it_is(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, RGB)
    assert (read_rgb(path) == RGB).all() and read_rgb(path).dtype == np.uint8
    assert image_size(path) == (6, 9)


def test_cmyk_is_converted(tmp_path):
    ink = np.full((8, 8, 4), (0, 255, 255, 0), np.uint8)  # no cyan, full magenta and yellow: red
    path = save(tmp_path / "c.jpg", ink, "CMYK", quality=95)
    assert np.abs(read_rgb(path).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_rounded_not_cut(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), DEEP[..., ::-1])
    expected = np.floor(DEEP / 257 + 0.5)  # 65535 / 255 = 257
    assert (read_rgb(path) == expected).all()
    assert (np.asarray(Image.open(path).convert("RGB")) != expected).any()  # Pillow's own way loses half a level
    cv2.imwrite(str(path), DEEP[..., 0])
    assert (read_rgb(path) == expected[..., :1]).all()


@pytest.mark.parametrize(("largest", "middle"), [(65535, 128), (1023, 511), (255, 100)])
def test_portable_greymaps_are_scaled_to_their_largest_value(tmp_path, largest, middle):
    values = np.array([[0, 1, middle, largest]], ">u2" if largest > 255 else "u1")
    expected = np.floor(values.astype(float) * 255 / largest + 0.5)
    for kind, image in (("pgm", values), ("ppm", np.repeat(values[..., None], 3, axis=2))):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(f"P{5 if kind == 'pgm' else 6}\n4 1\n{largest}\n".encode() + image.tobytes())
        assert (read_rgb(path) == expected[..., None]).all() and read_rgb(path).shape == (1, 4, 3)
        assert image_size(path) == (1, 4)


def test_brightness_is_opencvs(tmp_path):
    grey = cv2.resize(RGB[..., 0], (40, 24), interpolation=cv2.INTER_CUBIC)
    colour = cv2.resize(RGB, (40, 24), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, mode in (("l.png", grey, "L"), ("rgb.png", colour, "RGB"), ("l.jpg", grey, "L")):
        path = save(tmp_path / name, image, mode, exif=exif)
        expected = cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY)
        assert read_grey(path).shape == (40, 24) and (read_grey(path) == expected).all()
    # A colour JPEG's own brightness plane: equal but for the rounding of its colours on the way there and back.
    path = save(tmp_path / "rgb.jpg", colour, quality=100, subsampling=0)
    assert np.abs(read_grey(path).astype(int) - cv2.cvtColor(read_rgb(path), cv2.COLOR_RGB2GRAY)).max() <= 1
    path = save(tmp_path / "equal.jpg", np.repeat(grey[..., None], 3, axis=2))
    assert (read_grey(path) == read_rgb(path)[..., 1]).all()
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), DEEP[..., 0])
    assert (read_grey(path) == read_rgb(path)[..., 0]).all()
    with pytest.raises(UserError, match=r"no such file: .*gone\.jpg"):
        read_grey(tmp_path / "gone.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_files_are_refused_by_name(tmp_path, suffix):
    path = save(tmp_path / f"cut.{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"unreadable image: .*cut\.{suffix}") as error:
        read_rgb(path)
    assert "\n" not in str(error.value)


def test_other_broken_files_are_refused_by_name(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    floats = tmp_path / "float.tif"
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(floats)
    for path, message in [
        (text, "unreadable"),
        (empty, "unreadable"),
        (floats, "floating-point"),
        (tmp_path / "no.png", "no such"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            read_rgb(path)
        assert path.name in str(error.value)
    with pytest.raises(UserError, match=r"unreadable.*text\.png"):
        image_size(text)


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "file"
    target.write_text("in the way")
    with pytest.raises(UserError, match="not a folder but a file"):
        write_png(target / "a.png", RGB)
    with pytest.raises(ValueError, match="expected uint8"):
        write_png(tmp_path / "b.png", RGB.astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_lists_are_sorted_and_hold_images_only(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["a.jpg", "b.PNG", "c.png"]
