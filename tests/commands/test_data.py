"""``unildiff data`` as a new user would try it: what works, and one line and an exit code for every mistake."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fake_trees import cdd11, rain
from unildiff.cli import main
from unildiff.data import captioner, synthesize
from unildiff.data.catalogue import DATASETS


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
        picture = np.random.default_rng(number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
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
        "import sys; from unildiff.cli import main; codes = [main(['data', 'list']), main(['data', 'layout', 'udc'])];"
        "heavy = {'torch', 'numpy', 'PIL', 'lightning', 'cv2'} & set(sys.modules); sys.exit(f'{codes} {heavy}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.stderr.strip() == "[0, 0] set()"
    for name, dataset in DATASETS.items():
        assert f"\n  {name} " in done.stdout
        for pictures in (*dataset.sets, *dataset.optional):
            for count in pictures.expected.values():
                assert f"{count:,}" in done.stdout
            assert pictures.home in done.stdout and pictures.expected_source in done.stdout
    assert "deadleaves" in done.stdout and "Poled_test/LQ + Poled_test/HQ" in done.stdout


def test_layouts_by_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cdd11", "rain", "five_task"):
        assert data("layout", name) == 0
    assert "CDD-11_test/<degradation> + CDD-11_test/clear" in capsys.readouterr().out
    assert "unknown set: 'rein'; choose from three_task" in refused(capsys, "layout", "rein")


def test_check_tells_and_writes(real_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert capsys.readouterr().out.endswith("  Rain100L train: not there\nclean\n")


def test_pack_then_again(real_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("pack", "cdd11", "--root", real_set) == 0  # beside it, by default
    out = capsys.readouterr().out
    assert "train 22 pairs, test 11 pairs; 36 pictures" in out and f"--data.packed {real_set}-packed" in out
    assert data("pack", "cdd11", "--root", real_set) == 0
    (real_set / "CDD-11_test/clear/00001.png").write_bytes((real_set / "CDD-11_test/low/00001.png").read_bytes())
    assert "another state of the data" in refused(capsys, "pack", "cdd11", "--root", real_set)


def test_synthesize_is_read_as_cdd11(clean: Path, tmp_path: Path, no_processes: None, capsys) -> None:
    out = tmp_path / "made"
    assert data("synthesize", "cdd11", "--clean", clean, "--out", out, "--split", "test") == 0
    assert "2 scenes under 11 degradations" in capsys.readouterr().out
    assert data("check", "cdd11", "--root", out) == 1
    assert "layout moceir; low 2, haze 2" in capsys.readouterr().out
    assert "give --clean" in refused(capsys, "synthesize", "cdd11", "--out", out)
    refused(capsys, "synthesize", "rain100l", "--clean", clean, "--out", out)
    assert "--processes 0" in refused(capsys, "synthesize", "cdd11", "--clean", clean, "--out", out, "--processes", 0)


def test_caption_lists_leaks(clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = iter(["a dog", "a blurry dog"])
    monkeypatch.setattr(captioner, "load_captioner", lambda *_: lambda picture: next(said))
    assert data("caption", "--root", clean, "--model", "some/model") == 0
    out = capsys.readouterr().out
    assert "2 clean pictures captioned by some/model" in out
    assert "1 captions name a degradation" in out and "1.png: blurry: a blurry dog" in out
    assert "give --root" in refused(capsys, "caption", "--root", clean)


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


COMMANDS = {
    "check": ("check", "cdd11", "--root", "{root}"),
    "pack": ("pack", "cdd11", "--root", "{root}", "--out", "{out}"),
    "synthesize": ("synthesize", "cdd11", "--clean", "{root}", "--out", "{out}"),
    "caption": ("caption", "--root", "{root}", "--model", "none"),
}
OUTPUTS = {
    "pack": ("pack", "cdd11", "--root", "{root}", "--out", "{out}"),
    "synthesize": ("synthesize", "cdd11", "--clean", "{clean}", "--out", "{out}"),
    "caption": ("caption", "--root", "{out}", "--model", "none"),
    "download": ("download", "cdd11", "--root", "{out}"),
    "sample": ("sample", "cdd11", "--root", "{out}/new"),
    "check": ("check", "cdd11", "--root", "{root}", "--json", "{out}/report.json"),
}


def filled(command: tuple[str, ...], **places: Path) -> list[str]:
    return [part.format(**places) for part in command]


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_folders(command: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "letter.txt").write_text("dear")
    for root, message in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "empty folder"),
        (clean / "0.png", "not a folder but a file"),
        (
            tmp_path / "strange",
            {"check": "nothing of cdd11 in", "pack": "found letter.txt"}.get(command, "pictures in"),
        ),
    ):
        error = refused(capsys, *filled(COMMANDS[command], root=root, out=tmp_path / "out"))
        assert message in error and str(root) in error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [command for command in OUTPUTS if command != "check"])
def test_a_file_where_the_output_should_go(command: str, real_set: Path, clean: Path, capsys) -> None:
    error = refused(capsys, *filled(OUTPUTS[command], root=real_set, clean=clean, out=clean / "0.png"))
    assert "file" in error and "0.png" in error


# Root may do anything; without its capabilities it is subject to a folder's rights like everybody. (Another user id would
# not find a Python that lies in root's home.)
UNPRIVILEGED = """
import contextlib, ctypes, io, json, sys
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3, this process; no capability
assert ctypes.CDLL(None).capset(header, none) == 0
from unildiff.cli import main
results = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
        code = main(["data", *arguments])
    results.append([code, error.getvalue()])
print(json.dumps(results))
"""


def test_without_permission(tmp_path: Path) -> None:
    """As an unprivileged user: folders that may not be read, then ones that may not be written."""
    locked, readable, closed = tmp_path / "locked", tmp_path / "readable", tmp_path / "closed"
    cdd11.write(readable, "onerestore", "test", scenes=1)
    pictures = readable / "CDD-11_test/clear"
    shutil.copytree(readable, closed)
    shutil.copytree(pictures, locked)
    locked.chmod(0)
    for folder in (closed, readable):
        subprocess.run(["chmod", "-R", "a=rX", folder], check=True)
    free = tmp_path / "free"
    reads = [filled(command, root=locked, out=free) for command in COMMANDS.values()]
    places = {"root": readable, "clean": pictures, "out": closed}
    writes = [filled(command, **places) for name, command in OUTPUTS.items() if name != "pack"]
    writes.append(filled(OUTPUTS["pack"], **{**places, "out": closed / "new"}))
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED],
        input=json.dumps([*reads, *writes]),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    subprocess.run(["chmod", "-R", "u+rwx", tmp_path], check=True)  # so that pytest can remove it
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for arguments, (code, error), place in zip([*reads, *writes], results, [locked] * 4 + [closed] * 6, strict=True):
        lines = [line for line in error.splitlines() if "published" not in line]  # the log's remark on the counts
        assert code == 2 and len(lines) == 1, (arguments, error)
        assert "unildiff: error: no permission" in lines[0] and str(place) in lines[0], (arguments, error)
    assert not free.exists()


@pytest.mark.parametrize("command", ["pack", "synthesize", "sample", "check"])
def test_full_disk(command: str, real_set: Path, tmp_path: Path, no_processes: None, capsys) -> None:
    """A limit on the length of files stands for the disk; afterwards the same command finishes the work."""
    big = tmp_path / "big"
    big.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(big / f"{number}.png")
    arguments = filled(OUTPUTS[command], root=real_set, clean=big, out=tmp_path / "out")
    if command == "check":
        (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        assert "disk full" in refused(capsys, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    whole = {"pack": "index.json", "synthesize": "train", "sample": "new", "check": "report.json"}[command]
    assert not (tmp_path / "out" / whole).exists()
    assert data(*arguments) == (1 if command == "check" else 0)
    assert (tmp_path / "out" / whole).exists()
