"""Our PNGs, read by two libraries that we did not write."""

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from unildiff.data.png import encode_png

RNG = np.random.default_rng(0)


def images() -> dict[str, np.ndarray]:
    smooth = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (117, 63), interpolation=cv2.INTER_CUBIC)
    return {
        "noise": RNG.integers(0, 256, (31, 47, 3), dtype=np.uint8),
        "smooth": np.asarray(smooth),
        "grey": np.asarray(smooth[..., 1]),
        "one pixel": RNG.integers(0, 256, (1, 1, 3), dtype=np.uint8),
        "one row": RNG.integers(0, 256, (1, 300), dtype=np.uint8),
        "one column": RNG.integers(0, 256, (300, 1, 3), dtype=np.uint8),
        "black": np.zeros((500, 400, 3), np.uint8),
        "every other row": np.asarray(smooth[::2]),
        "BGR turned round": np.asarray(smooth[..., ::-1]),
        "large": RNG.integers(0, 256, (700, 900, 3), dtype=np.uint8),
    }


@pytest.mark.parametrize("kind", images())
def test_pillow_and_opencv_read_the_same_pixels(kind: str) -> None:
    image = images()[kind]
    data = encode_png(image)
    opened = Image.open(io.BytesIO(data))
    opened.verify()  # the chunks' checksums
    read = np.asarray(Image.open(io.BytesIO(data)))
    assert opened.mode == ("RGB" if image.ndim == 3 else "L")
    np.testing.assert_array_equal(read, image)
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    np.testing.assert_array_equal(raw[..., ::-1] if image.ndim == 3 else raw, image)


def test_python_s_own_zlib_reads_its_data() -> None:
    data = encode_png(images()["large"])
    start, length = data.index(b"IDAT") + 4, int.from_bytes(data[data.index(b"IDAT") - 4 : data.index(b"IDAT")], "big")
    rows = np.frombuffer(zlib.decompress(data[start : start + length]), np.uint8).reshape(700, 1 + 900 * 3)
    assert (rows[:, 0] == 2).all()


def test_files_are_about_as_small_as_opencvs() -> None:
    for kind in ("smooth", "grey", "noise"):
        image = images()[kind]
        found, theirs = len(encode_png(image)), len(cv2.imencode(".png", image)[1])
        assert found < 1.05 * theirs


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_refuses_what_is_no_such_image(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8|without pixels"):
        encode_png(image)
