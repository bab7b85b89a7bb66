"""The doctor finds every kind of planted fault and nothing else, and looks at unchanged files only once."""

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.data.tools.check import check, look_at
from unildiff.utils.errors import UserError

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
    """Rain100L as PromptIR keeps it, whole: 200 and 100 pairs of tiny images, every one different."""
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
    assert report.findings == [] and report.absent == []
    assert report.images == 600
    assert [(part.split, part.layout, part.counts) for part in report.parts] == [
        ("train", "promptir", {"rain": 200}),
        ("test", "promptir", {"rain": 100}),
    ]
    assert check("rain", rain100l).findings == []  # the set's own name does as well


def test_every_planted_fault_and_nothing_else(rain100l: Path) -> None:
    root = rain100l
    (root / CLEAN / "norain-1.png").unlink()  # orphan, and one pair less
    write(root / RAINY / "rain-2.bmp", noise(4000))  # rain-2 twice: no telling which, so one pair less
    broken = root / RAINY / "rain-3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (root / CLEAN / "norain-4.png").write_bytes(b"not an image")
    write(root / INPUT / "5.png", noise(5, height=8))  # another size than 9x12
    write(root / INPUT / "6.png", np.zeros((9, 12, 3), np.uint8))
    write(root / TARGET / "7.png", np.full((9, 12, 3), 255, np.uint8))
    write(root / INPUT / "8.png", noise(3008))  # the same as its ground truth
    (root / TARGET / "9.png").unlink()
    write(root / TARGET / "9.bmp", noise(1050))  # the pixels of norain-50.png, in another format
    assert found(root) == {
        ("count", "Rain100L train", ()),
        ("orphan", "Rain100L train", (f"{RAINY}/rain-1.png",)),
        ("duplicate", "Rain100L train", (f"{RAINY}/rain-2.bmp", f"{RAINY}/rain-2.png")),
        ("unreadable", "Rain100L train", (f"{RAINY}/rain-3.png",)),
        ("unreadable", "Rain100L train", (f"{CLEAN}/norain-4.png",)),
        ("size", "Rain100L test", (f"{INPUT}/5.png and {TARGET}/5.png (12x8 against 12x9)",)),
        ("flat", "Rain100L test", (f"{INPUT}/6.png (black)", f"{TARGET}/7.png (white)")),
        ("undegraded", "Rain100L test", (f"{INPUT}/8.png",)),
        ("leak", "train and test", (f"{CLEAN}/norain-50.png = {TARGET}/9.bmp",)),
    }
    texts = {finding.kind: finding.text for finding in check("derain", root).findings}
    assert texts["count"] == "198 pairs, 200 expected (the paper's supplement, 2.1)"


def test_unchanged_files_are_not_looked_at_again(rain100l: Path, cache_home: Path) -> None:
    assert check("derain", rain100l).looked_at == 600
    assert check("derain", rain100l).looked_at == 0
    changed = rain100l / INPUT / "5.png"
    write(changed, noise(9999))
    report = check("derain", rain100l)
    assert report.looked_at == 1 and report.findings == []
    os.utime(changed, ns=(1, 1))  # same size, other time
    assert check("derain", rain100l).looked_at == 1
    (cache,) = (cache_home / "unildiff" / "check").iterdir()
    assert check("derain", rain100l).looked_at == 0
    (cache / "data.mdb").write_bytes(b"?" * 9000)  # damaged: every file is read again
    report = check("derain", rain100l)
    assert report.looked_at == 600 and report.findings == []


BYTES_A_FILE = 2000  # 1,300 measured: 100,000 files take 0.13 GB beside what Python and its libraries take


def test_memory_grows_little_with_the_number_of_files(tmp_path: Path) -> None:
    """The peak of all that Python and numpy allocate, of a check that looks and one that remembers."""
    peaks: dict[str, list[int]] = {"looks": [], "remembers": []}
    counts = (100, 500)
    for count in counts:
        root = tmp_path / f"a-folder-whose-name-is-about-as-long-as-they-are/{count}"
        for number in range(count):
            write(root / INPUT / f"{number}.png", noise(number))
            write(root / TARGET / f"{number}.png", noise(number + count))
        for peak in peaks.values():
            tracemalloc.start()
            report = check("derain", root)
            peak.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert report.images == 2 * count and report.looked_at == 0
    for peak in peaks.values():
        assert (peak[1] - peak[0]) / (2 * (counts[1] - counts[0])) < BYTES_A_FILE


def test_two_layouts_in_one_folder_are_a_fault(rain100l: Path) -> None:
    write(rain100l / "deraining/Rain100L/rainy/1.png", noise(5000))
    write(rain100l / "deraining/Rain100L/gt/1.png", noise(5001))
    (finding,) = check("derain", rain100l).findings
    assert (finding.kind, finding.where) == ("layout", "Rain100L test") and "moceir, promptir" in finding.text


def test_a_folder_that_may_not_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Path.rglob`` leaves it out without a message. Root may read all, so the system's refusal is acted."""
    (tmp_path / "RESIDE/Train/Dehaze/original").mkdir(parents=True)
    write(tmp_path / "RESIDE/Train/Dehaze/synthetic/part1/1_2.png", noise(1))
    (tmp_path / "RESIDE/Train/Dehaze/synthetic/part2").mkdir()
    real = os.scandir

    def refusing(path: str | Path) -> object:
        if str(path).endswith("part2"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"no permission to read the folder: .*part2"):
        check("dehaze", tmp_path / "RESIDE")


def test_what_is_named_like_an_image_but_is_not_one(rain100l: Path) -> None:
    """A pipe would make a reader wait for ever; a link may lead nowhere, a folder may end in .png."""
    for number, make in ((1, os.mkfifo), (2, lambda path: path.symlink_to("nowhere")), (3, Path.mkdir)):
        path = rain100l / INPUT / f"{number}.png"
        path.unlink()
        make(path)
    assert found(rain100l) == {("unreadable", "Rain100L test", (f"{INPUT}/{number}.png",)) for number in (1, 2, 3)}


def test_raw_arrays_are_looked_at_too(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 1024, (8, 12), dtype=np.uint16)
    for folder in ("LQ", "HQ"):
        (tmp_path / f"Toled_test/{folder}").mkdir(parents=True)
        for number in range(3):
            np.save(tmp_path / f"Toled_test/{folder}/{number}.npy", raw + number + (folder == "HQ") * 50)
    np.save(tmp_path / "Toled_test/LQ/1.npy", raw[:, :6])
    whole = (tmp_path / "Toled_test/HQ/2.npy").read_bytes()
    (tmp_path / "Toled_test/HQ/2.npy").write_bytes(whole[:-10])
    assert {(kind, files) for kind, _, files in found(tmp_path, "toled")} == {
        ("count", ()),
        ("size", ("Toled_test/LQ/1.npy and Toled_test/HQ/1.npy (6x8 against 12x8)",)),
        ("unreadable", ("Toled_test/HQ/2.npy",)),
    }


def test_a_terminal_sees_a_progress_bar(rain100l: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich behave as on a terminal
    check("derain", rain100l)
    captured = capsys.readouterr()
    assert "Checking" in captured.err and "100%" in captured.err and captured.out == ""


def test_what_it_remembers_gives_the_same_findings(rain100l: Path) -> None:
    write(rain100l / INPUT / "6.png", np.zeros((9, 12, 3), np.uint8))
    write(rain100l / TARGET / "9.png", noise(1050))
    first = found(rain100l)
    assert {kind for kind, _, _ in first} == {"flat", "leak"}
    assert found(rain100l) == first


def test_a_split_that_is_not_there_is_no_fault(rain100l: Path) -> None:
    (rain100l / "Train").rename(rain100l.parent / "elsewhere")
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
    with pytest.raises(UserError, match=r"unknown set: 'drain'; did you mean 'derain'\? choose from three_task"):
        check("drain", rain100l)


def test_content_is_that_of_the_pixels(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.tif"):
        write(tmp_path / name, noise(1))
    looks = [look_at(tmp_path / name) for name in ("a.png", "a.bmp", "a.tif")]
    assert looks[0] == looks[1] == looks[2]
    write(tmp_path / "b.png", noise(1).reshape(12, 9, 3))  # same bytes, other shape
    assert look_at(tmp_path / "b.png").content != looks[0].content
