"""``unildiff data`` as a new user would try it; wrong folders are in ``test_data_mistakes.py``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fake_trees import cdd11, rain
from tests.fake_trees.images import pair
from unildiff.cli.main import main
from unildiff.data.catalogue import DATASETS
from unildiff.data.tools import captioner, synthesize


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, remember nothing of one another, and reach no network."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def real_set(tmp_path: Path) -> Path:
    cdd11.write(tmp_path / "cdd", "onerestore", "train")
    cdd11.write(tmp_path / "cdd", "onerestore", "test", scenes=1)
    return tmp_path / "cdd"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(synthesize, "ProcessPoolExecutor", lambda count, context, start: ThreadPoolExecutor(count))


def data(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail as a user's mistake, and return its line."""
    capsys.readouterr()
    assert data(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("unildiff: error: ") and error.count("\n") == 1 and "Traceback" not in error
    return error


def test_lists_everything_at_once() -> None:
    """Nothing heavy is imported: a process of its own shows it."""
    code = (
        "import sys; from unildiff.cli.main import main; codes = [main(['data', 'list']), main(['data', 'layout', 'udc'])];"
        "heavy = {'torch', 'numpy', 'PIL', 'lightning', 'cv2'} & set(sys.modules); sys.exit(f'{codes} {heavy}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.stderr.strip() == "[0, 0] set()"
    for name, dataset in DATASETS.items():
        assert f"\n  {name} " in done.stdout
        for images in dataset.all_sets:
            for count in images.expected.values():
                assert f"{count:,}" in done.stdout
            assert images.home in done.stdout and images.expected_source in done.stdout
    assert "deadleaves" in done.stdout and "Poled_test/LQ + Poled_test/HQ" in done.stdout


def test_layouts_by_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cdd11", "rain", "five_task"):
        assert data("layout", name) == 0
    assert "CDD-11_test/<degradation> + CDD-11_test/clear" in capsys.readouterr().out
    assert "unknown set: 'rein'; did you mean 'rain'? choose from three_task" in refused(capsys, "layout", "rein")


def test_check_reports_and_writes(real_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (real_set / "CDD-11_train/snow/00002.png").unlink()
    report = tmp_path / "report.json"
    assert data("check", "cdd11", "--root", real_set, "--json", report) == 1
    out = capsys.readouterr().out
    assert "FOUND orphan: CDD-11 train: " in out and "\n    CDD-11_train/clear/00002.png" in out
    written = json.loads(report.read_text())
    assert {finding["kind"] for finding in written["findings"]} == {"orphan", "count", "leak"}
    (orphan,) = [finding for finding in written["findings"] if finding["kind"] == "orphan"]
    assert orphan["files"] == ["CDD-11_train/clear/00002.png"] and orphan["where"] == "CDD-11 train"
    assert written["splits"][0]["expected"] == 1183


def test_check_of_a_clean_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rain.write(tmp_path / "rain", "promptir", "test", count=100)
    assert data("check", "derain", "--root", tmp_path / "rain") == 0
    assert capsys.readouterr().out.endswith("  Rain100L train: missing\nno findings\n")


def test_one_finding_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("train/{}/a.png", "train/{}/b.png", "test/{}/c.png")):
        pair(tmp_path, name.format("lq"), name.format("gt"), number)
    (tmp_path / "train/lq/b.png").unlink()
    assert data("check", "folder", "--root", tmp_path) == 1
    assert capsys.readouterr().out.endswith("\n1 finding\n")


def test_check_of_your_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(("train/{}/a.png", "train/{}/b.png", "test/{}/c.png")):
        pair(tmp_path, name.format("lq"), name.format("gt"), number)
    assert data("check", "folder", "--root", tmp_path) == 0
    out = capsys.readouterr().out
    assert "folder train: layout train/lq/* + train/gt/*; folder 2" in out and out.endswith("\nno findings\n")
    (tmp_path / "train/gt/b.png").rename(tmp_path / "test/gt/c.png")  # another image, and one without its partner
    assert data("check", "folder", "--root", tmp_path) == 1
    out = capsys.readouterr().out
    assert "FOUND orphan: folder train" in out and "train/lq/b.png" in out
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/raw.dng").write_bytes(b"?")
    (tmp_path / "photos/broken.png").write_bytes(b"?")
    assert data("check", "folder", "--root", tmp_path / "photos") == 1
    out = capsys.readouterr().out
    assert out.count("FOUND unreadable") == 2 and "raw.dng" in out and "broken.png" in out
    assert "rule: no 'nearly'" in refused(capsys, "check", "folder", "--root", tmp_path, "--rule", "nearly")


def test_pack_then_again(real_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("pack", "cdd11", "--root", real_set) == 0  # beside it, by default
    out = capsys.readouterr().out
    assert "train 22 pairs, test 11 pairs; 36 images" in out and f"--data.packed {real_set}-packed" in out
    assert data("pack", "cdd11", "--root", real_set) == 0
    (real_set / "CDD-11_test/clear/00001.png").write_bytes((real_set / "CDD-11_test/low/00001.png").read_bytes())
    assert "another state of the data" in refused(capsys, "pack", "cdd11", "--root", real_set)


def test_pack_of_the_folder_one_is_in(
    real_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(real_set / "CDD-11_test")
    assert data("pack", "folder", "--root", ".", "--lq", "low/*", "--gt", "clear/*") == 0
    assert (real_set / "CDD-11_test-packed/data.mdb").is_file()


def test_pack_of_a_folder(real_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, patterns = real_set / "CDD-11_test", ("--lq", "low/*", "--gt", "clear/*")
    assert data("pack", "folder", "--root", root, "--out", tmp_path / "out", *patterns) == 0
    assert "folder in" in (out := capsys.readouterr().out) and "--data folder --data.packed" in out
    wanted = "the test pairs need both patterns, lq and gt; give the other one, too"
    assert wanted in refused(capsys, "pack", "folder", "--root", root, "--lq", "low/*")
    assert "patterns and rule are for folder" in refused(capsys, "pack", "cdd11", "--root", real_set, *patterns)
    assert "no pairs to pack" in refused(capsys, "pack", "folder", "--root", root, "--out", tmp_path / "b")


def test_synthesize_is_read_as_cdd11(clean: Path, tmp_path: Path, no_processes: None, capsys) -> None:
    out = tmp_path / "made"
    assert data("synthesize", "cdd11", "--clean", clean, "--out", out, "--split", "test") == 0
    assert "2 scenes under 11 degradations" in capsys.readouterr().out
    assert data("check", "cdd11", "--root", out) == 1
    assert "layout moceir; low 2, haze 2" in capsys.readouterr().out
    assert "missing: --clean" in refused(capsys, "synthesize", "cdd11", "--out", out)
    refused(capsys, "synthesize", "rain100l", "--clean", clean, "--out", out)
    assert "processes is 0" in refused(capsys, "synthesize", "cdd11", "--clean", clean, "--out", out, "--processes", 0)


def test_caption_lists_leaks(clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = iter(["a dog", "a blurry dog"])
    monkeypatch.setattr(captioner, "load_captioner", lambda *_: lambda image: next(said))
    assert data("caption", "--root", clean, "--model", "some/model") == 0
    out = capsys.readouterr().out
    assert "2 clean images captioned by some/model" in out
    assert "1 captions name a degradation" in out and "1.png: blurry: a blurry dog" in out
    assert "missing: --model" in refused(capsys, "caption", "--root", clean)


def test_download_without_a_home_or_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "download", "derain"]) == 2
    captured = capsys.readouterr()
    assert "Rain100L (rain): linked by" in captured.out and "deraining/Rain100L/rainy" in captured.out
    assert "rain has no lasting home" in captured.err and captured.err.count("\n") == 1
    assert "cannot reach gy65896/CDD-11" in refused(capsys, "download", "cdd11", "--root", tmp_path / "out")
    refused(capsys, "download", "nothing")


def test_sample_then_everything_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("sample", "cdd11") == 0
    assert Path("data/cdd11/test/low_haze_rain").is_dir()
    assert data("check", "cdd11") == 1  # five scenes, not 200: its only finding
    assert capsys.readouterr().out.count("FOUND") == 1
    assert data("pack", "cdd11") == 0
    assert data("pack", "cdd11") == 0
