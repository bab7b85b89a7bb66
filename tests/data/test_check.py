"""The doctor finds every kind of planted fault and nothing else, and looks at unchanged files only once."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.data.check import check, look_at
from unildiff.errors import UserError

INPUT, TARGET = "test/derain/Rain100L/input", "test/derain/Rain100L/target"
RAINY, CLEAN = "Train/Derain/rainy", "Train/Derain/gt"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def rain100l(tmp_path: Path) -> Path:
    """Rain100L as PromptIR keeps it, whole: 200 and 100 pairs of tiny pictures, every one different."""
    root = tmp_path / "rain"
    for number in range(1, 201):
        write(root / RAINY / f"rain-{number}.png", noise(number))
        write(root / CLEAN / f"norain-{number}.png", noise(1000 + number))
    for number in range(1, 101):
        write(root / INPUT / f"{number}.png", noise(2000 + number))
        write(root / TARGET / f"{number}.png", noise(3000 + number))
    return root


def found(root: Path, name: str = "derain") -> set[tuple[str, str, tuple[str, ...]]]:
    return {(finding.kind, finding.where, finding.files) for finding in check(name, root).findings}


def test_a_whole_set_is_clean(rain100l: Path) -> None:
    report = check("derain", rain100l)
    assert report.findings == [] and report.absent == ["Rain100L train"]


def test_half_a_layout_is_a_fault(rain100l: Path) -> None:
    (rain100l / CLEAN).rename(rain100l / "Train/Derain/clean")
    report = check("derain", rain100l)
    assert [(finding.kind, finding.where) for finding in report.findings] == [("layout", "Rain100L train")]
    assert "lacks Train/Derain/gt" in report.findings[0].text


def test_cdd11_counts_scenes_a_degradation(tmp_path: Path) -> None:
    for degradation in ("low", "haze", "rain", "snow", "low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow"):
        write(tmp_path / "data/test" / degradation / "1.png", noise(len(degradation)))
    write(tmp_path / "data/test/clear/1.png", noise(1))
    with pytest.raises(UserError, match="layout moceir lacks test/low_haze_rain, test/low_haze_snow"):
        check("cdd11", tmp_path / "data")
    for degradation in ("low_haze_rain", "low_haze_snow"):
        write(tmp_path / "data/test" / degradation / "1.png", noise(50))
    (finding,) = check("cdd11", tmp_path / "data").findings
    assert finding.kind == "count"
    assert finding.text.startswith("1 pairs of low, haze, rain, snow, low_haze")
    assert finding.text.endswith("200 expected (scenes, 11 degradations each, as reported)")


def test_refusals(rain100l: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root, message in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "empty folder"),
        (rain100l / INPUT / "1.png", "not a folder but a file"),
        (rain100l / INPUT, "nothing of derain in .*; see `unildiff data layout derain`"),
    ):
        with pytest.raises(UserError, match=message):
            check("derain", root)
    with pytest.raises(UserError, match="unknown set: 'drain'; choose from three_task"):
        check("drain", rain100l)


def test_content_is_that_of_the_pixels(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.tif"):
        write(tmp_path / name, noise(1))
    looks = [look_at(tmp_path / name) for name in ("a.png", "a.bmp", "a.tif")]
    assert looks[0] == looks[1] == looks[2]
    write(tmp_path / "b.png", noise(1).reshape(12, 9, 3))  # same bytes, other shape
    assert look_at(tmp_path / "b.png").content != looks[0].content
