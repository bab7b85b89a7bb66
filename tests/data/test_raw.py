"""Raw mosaics: exact at the sampled sites, every file type, patterns never guessed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from datamodules.udc import UDCDataModule
from unildiff.data.raw import demosaic, mosaic, raw_to_rgb, read_raw
from unildiff.utils.errors import UserError

RNG = np.random.default_rng(0)
PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mosaic_takes_each_sites_own_colour(pattern):
    rgb = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    raw = mosaic(rgb, pattern)
    for row in range(4):
        for column in range(6):
            letter = pattern[2 * (row % 2) + column % 2]
            assert raw[row, column] == rgb[row, column, "RGB".index(letter)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_there_and_back_is_exact_at_the_sampled_sites(pattern, dtype):
    raw = RNG.integers(0, 256, (10, 14)).astype(dtype)
    rgb = demosaic(raw, pattern)
    assert rgb.shape == (10, 14, 3) and rgb.dtype == dtype
    assert (mosaic(rgb, pattern) == raw).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_flat_colours_and_ramps_come_back_whole(pattern):
    flat = np.broadcast_to(np.array([200, 100, 30], np.uint8), (8, 8, 3))
    assert (demosaic(mosaic(flat, pattern), pattern) == flat).all()
    ramp = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 16, 3))
    inner = np.s_[2:-2, 2:-2]  # bilinear means are exact on planes, but not where the border mirrors them
    assert np.allclose(demosaic(mosaic(ramp, pattern), pattern)[inner], ramp[inner])


def test_missing_colours_are_means_of_their_neighbours():
    raw = np.arange(16, dtype=np.float64).reshape(4, 4)
    rgb = demosaic(raw, "RGGB")
    # Site (1, 1) is B. R lies on its diagonals: (0+2+8+10)/4 = 5; G beside it: (1+4+6+9)/4 = 5.
    assert rgb[1, 1].tolist() == [5, 5, 5]
    # Site (1, 2) is G. R above and below: (2+10)/2 = 6; B left and right: (5+7)/2 = 6.
    assert rgb[1, 2].tolist() == [6, 6, 6]


def test_every_file_type_gives_the_same_mosaic(tmp_path):
    raw = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
    packed = raw.reshape(3, 2, 4, 2).transpose(0, 2, 1, 3).reshape(3, 4, 4)  # four sites of a cell, in reading order
    np.save(tmp_path / "a.npy", raw)
    np.save(tmp_path / "packed.npy", packed)
    savemat(tmp_path / "b.mat", {"raw": raw})
    for name in ("c.png", "d.tif"):
        cv2.imwrite(str(tmp_path / name), raw)
    cv2.imwrite(str(tmp_path / "e.png"), packed[..., [2, 1, 0, 3]])
    for path in sorted(tmp_path.iterdir()):
        assert (read_raw(path) == raw).all(), path.name


def test_wrong_raw_files_are_named(tmp_path):
    np.save(tmp_path / "float.npy", np.zeros((4, 4)))
    np.save(tmp_path / "rgb.npy", np.zeros((4, 4, 3), np.uint16))
    savemat(tmp_path / "two.mat", {"a": np.zeros(3), "b": np.zeros(3)})
    (tmp_path / "broken.mat").write_bytes(b"?" * 200)
    (tmp_path / "broken.npy").write_bytes(b"?")
    (tmp_path / "empty.mat").touch()
    savemat(tmp_path / "whole.mat", {"raw": np.zeros((6, 8), np.uint16)})
    whole = (tmp_path / "whole.mat").read_bytes()
    for length in range(1, len(whole) - 96, 7):  # 96 bytes of pixels: scipy raises half a dozen kinds of exception
        (tmp_path / f"cut{length}.mat").write_bytes(whole[:length])
    (tmp_path / "whole.mat").unlink()
    cv2.imwrite(str(tmp_path / "eight.png"), np.zeros((4, 4), np.uint8))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name) as error:
            read_raw(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="even sides"):
        mosaic(np.zeros((3, 4, 3)), "RGGB")
    with pytest.raises(UserError, match="not a Bayer pattern"):
        mosaic(np.zeros((4, 4, 3)), "RGBG")  # type: ignore[arg-type]


def test_raw_to_rgb_scales_by_the_white_level():
    raw = np.array([[0, 1023], [512, 2000]], np.uint16)
    rgb = raw_to_rgb(raw, "RGGB", 1023)
    assert mosaic(rgb, "RGGB").tolist() == [[0, 255], [128, 255]]  # 512 * 255 / 1023 = 127.6


def raw_tree(root: Path) -> np.ndarray:
    raw = RNG.integers(0, 1024, (16, 16), dtype=np.uint16)
    for folder in ("LQ", "HQ"):
        (root / f"Toled_test/{folder}").mkdir(parents=True)
    np.save(root / "Toled_test/LQ/1.npy", raw // 5)
    savemat(root / "Toled_test/HQ/1.mat", {"raw": raw})
    return raw


def test_the_datamodule_reads_raw_only_with_a_pattern(tmp_path):
    raw = raw_tree(tmp_path)
    with pytest.raises(UserError, match=r"RAW needs --data\.bayer .* never guessed"):
        UDCDataModule(root=str(tmp_path), format="raw")
    data = UDCDataModule(root=str(tmp_path), displays=["toled"], format="raw", bayer="GBRG", white_level=1023)
    sample = data.test_set()[0]
    assert (sample["gt"].permute(1, 2, 0).numpy() == raw_to_rgb(raw, "GBRG", 1023)).all()
    assert sample["degradation"] == "toled"


def test_rgb_can_go_through_a_mosaic(tmp_path):
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for folder in ("POLED/poled_images", "POLED/test_GT"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "1.png"), image[..., ::-1])
    data = UDCDataModule(root=str(tmp_path), displays=["poled"], through_raw=True, bayer="RGGB")
    made = data.test_set()[0]["lq"].permute(1, 2, 0).numpy()
    assert (mosaic(made, "RGGB") == mosaic(image, "RGGB")).all() and (made != image).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "raw", "bayer": "RGGB", "through_raw": True}, "udc: through_raw is for RGB files"),
        ({"bayer": "RGGB"}, "udc: bayer RGGB is for RAW; give --data.format raw or --data.through_raw true too"),
        ({"white_level": 1023}, "udc: white_level 1023 is for RAW files; give --data.format raw too"),
        ({"through_raw": True, "bayer": "RGGB", "white_level": 1023}, "udc: white_level 1023 is for RAW files"),
        ({"displays": []}, r"displays: \[\]; give toled, poled or both, each once"),
        ({"displays": ["toled", "toled"]}, "displays: .*; give toled, poled or both"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        UDCDataModule(**settings)


def test_the_fingerprint_is_of_how_raw_is_read_too(tmp_path):
    raw_tree(tmp_path)
    for folder in ("POLED/poled_images", "POLED/test_GT"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "1.png"), RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    raw, rgb = ({"root": str(tmp_path), "displays": [display]} for display in ("toled", "poled"))
    raw |= {"format": "raw"}
    made = [UDCDataModule(**raw, bayer=pattern).fingerprint() for pattern in ("RGGB", "GBRG")]
    made += [UDCDataModule(**raw, bayer="RGGB", white_level=1023).fingerprint(), UDCDataModule(**rgb).fingerprint()]
    made += [UDCDataModule(**rgb, through_raw=True, bayer=pattern).fingerprint() for pattern in ("RGGB", "GBRG")]
    assert len(set(made)) == len(made)
