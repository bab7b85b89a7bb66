"""Every data command with every folder that can be wrong: one clear line, an exit code, nothing half-written taken for whole."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.hub import cdd11_archives, serving
from tests.fake_trees import cdd11
from unildiff.cli.main import main
from unildiff.data.tools import captioner, samples, synthesize

CHECKOUT = Path(__file__).parents[2]
COMMANDS = {
    "list": ("list",),
    "layout": ("layout", "cdd11"),
    "check": ("check", "cdd11", "--root", "{read}", "--json", "{write}/report.json"),
    "pack": ("pack", "cdd11", "--root", "{read}", "--out", "{write}"),
    "synthesize": ("synthesize", "cdd11", "--clean", "{clean}", "--out", "{write}"),
    "caption": ("caption", "--root", "{both}", "--model", "none"),
    "download": ("download", "cdd11", "--root", "{write}"),
    "sample": ("sample", "cdd11", "--root", "{write}/new"),
}
READ = {  # the folder given to read: what is said of it
    "gone": "no such folder: {place}",
    "empty": "empty folder: {place}",
    "file": "not a folder but a file: {place}",
    "strange": {
        "check": "nothing of cdd11 in {place}",
        "pack": "CDD-11 (test) not in {place}: expected onerestore: CDD-11_test/low + CDD-11_test/clear",
        "synthesize": "no images in {place}",
        "caption": "no clean images in {place}",
    },
    "locked": "no permission to read the folder: {place}",
}
WRITE = {  # the folder given to write to
    "file": "not a folder but a file: {place}",
    "file/below": "not a folder but a file: {place}",
    "closed": "no permission to write {place}",
}
UNPRIVILEGED = ("locked", "closed")  # these need a process of another user: nothing is locked for root
CASES = [(command, "read", kind) for command in ("check", "pack", "synthesize", "caption") for kind in READ]
CASES += [
    (command, "write", kind) for command in ("check", "pack", "synthesize", "download", "sample") for kind in WRITE
]
CASES += [("caption", "write", "closed")]


def line(command: str, side: str, kind: str, places: Path) -> list[str]:
    """Return the arguments of a command of which one folder is wrong."""
    good = {"read": places / "set", "clean": places / "set/CDD-11_test/clear", "write": places / "out"}
    if side == "read":
        wrong = places / kind
        filled = {"read": wrong, "clean": wrong, "both": wrong, "write": good["write"]}
    else:
        filled = {**good, "write": places / kind, "both": places / "set"}
    report = -2 if (command, side) == ("check", "read") else None  # its folder must be there, or that would be said
    return ["data", *(part.format(**filled) for part in COMMANDS[command][:report])]


def expected(command: str, side: str, kind: str, places: Path) -> str:
    """Return what the line must say."""
    text = {"read": READ, "write": WRITE}[side][kind]
    said = text if isinstance(text, str) else text[command]
    if command == "check" and kind == "file/below":
        said = "no such folder: {place}" if side == "read" else "not a folder but a file: {place}"
    place = places / "set" if command == "caption" and side == "write" else places / kind
    return said.format(place=place)


# Imports all that the commands load, then becomes another user: a Python in root's home could not be started by one.
AS_ANOTHER_USER = """
import contextlib, io, json, os, sys
import attrs, unicodedata, PIL.Image, rich.console, unildiff.cli.main, unildiff.cli.commands.data, unildiff.cli.parsing
import unildiff.data.tools.captioner, unildiff.data.tools.check, unildiff.data.tools.download, unildiff.data.tools.pack_writer
import unildiff.data.tools.samples, unildiff.data.tools.synthesize
PIL.Image.init()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert os.getuid() != 0
results = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
        code = unildiff.cli.main.main(arguments)
    results.append([code, error.getvalue()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """A CDD-11 of one scene, and every kind of wrong folder; not below pytest's own, which nobody else may enter."""
    with tempfile.TemporaryDirectory(prefix="unildiff-test-") as name:
        folder = Path(name)
        cdd11.write(folder / "set", "onerestore", "test", scenes=1)
        (folder / "empty").mkdir()
        (folder / "strange").mkdir()
        (folder / "strange/letter.txt").write_text("dear")
        (folder / "file").write_text("x")
        (folder / "locked").mkdir()
        shutil.copy(folder / "set/CDD-11_test/clear/00001.png", folder / "locked")
        (folder / "closed").mkdir()
        if os.getuid() == 0:
            folder.chmod(0o755)
        else:  # then it is the same user that must be kept out of what it owns
            subprocess.run(["chmod", "-R", "a-w", folder / "set"], check=True)
        (folder / "locked").chmod(0)
        (folder / "closed").chmod(0o555)
        yield folder
        subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)


@pytest.fixture(scope="module")
def as_another_user(places: Path) -> dict[tuple[str, str, str], tuple[int, str]]:
    """Exit code and errors of the cases that need a user without root's rights; one process for all."""
    cases = [case for case in CASES if case[2] in UNPRIVILEGED]
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER],
        input=json.dumps([line(*case, places) for case in cases]),
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "XDG_CACHE_HOME": str(places / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(cases, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize(("command", "side", "kind"), CASES, ids=map("-".join, CASES))
def test_a_wrong_folder(command, side, kind, places, as_another_user, capsys, monkeypatch) -> None:
    monkeypatch.chdir(places)
    before = sorted(places.rglob("*"))
    if kind in UNPRIVILEGED:
        code, error = as_another_user[command, side, kind]
    else:
        code, error = main(line(command, side, kind, places)), capsys.readouterr().err
    lines = [line for line in error.splitlines() if "expected (" not in line]  # the log's remark on the counts
    assert code == 2 and len(lines) == 1, error
    assert lines[0].startswith(f"unildiff: error: {expected(command, side, kind, places)}")
    assert sorted(places.rglob("*")) == before  # nothing made


# A full disk: files may not grow beyond 700 bytes, which every command's output does.

WHOLE = {  # what says that a command's work is done
    "check": "out/report.json",
    "pack": "out/data.mdb",
    "synthesize": "out/train",
    "caption": "big/captions.jsonl",
    "download": "out/download.json",
    "sample": "out/new",
}


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Images larger than the disk, a hub, a captioner; processes are threads, as their start would take longest."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(synthesize, "ProcessPoolExecutor", lambda count, context, start: ThreadPoolExecutor(count))
    monkeypatch.setattr(captioner, "load_captioner", lambda *_: lambda image: "a house and a tree " * 20)
    monkeypatch.setattr(samples, "LONGEST", 48)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (tmp_path / "big").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"big/{number}.png")
    cdd11.write(tmp_path / "set", "onerestore", "test", scenes=1)
    (tmp_path / "out").mkdir()
    with serving(monkeypatch) as hub:
        hub.files["gy65896/CDD-11"] = cdd11_archives()
        yield tmp_path


@pytest.mark.parametrize("command", WHOLE)
def test_a_full_disk(command: str, ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled = {"read": ready / "set", "clean": ready / "big", "both": ready / "big", "write": ready / "out"}
    arguments = ["data", *(part.format(**filled) for part in COMMANDS[command])]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = [line for line in capsys.readouterr().err.splitlines() if "expected (" not in line]
    assert len(lines) == 1 and re.match(
        r"unildiff: error: disk full while writing /.* \((File too large|No space left on device)\); free", lines[0]
    )
    if command == "caption":  # a line an image: those that are whole count, the cut one does not
        with open(ready / WHOLE[command], "rb") as file:
            assert [line[-1:] for line in file][-1] != b"\n"
    elif command != "pack":  # its database is there, without an index
        assert not (ready / WHOLE[command]).exists()
    assert main(arguments) == (1 if command in ("check", "download") else 0)  # counts are not the published ones
    assert (ready / WHOLE[command]).exists()
    if command == "caption":
        captions = [json.loads(line) for line in (ready / WHOLE[command]).read_text().splitlines()]
        assert [entry["file"] for entry in captions] == ["0.png", "1.png", "2.png"]


# Standard output.


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["list", "layout"])
def test_a_reader_that_has_gone(command: str, unbuffered: str) -> None:
    """``unildiff data list | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    done = printed(command, writer, unbuffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")  # 128 + SIGPIPE, as a shell says it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        done = printed("list", full.fileno(), "")
    assert done.returncode == 2
    assert done.stderr == "unildiff: error: cannot write to standard output: No space left on device\n"


def printed(command: str, output: int, unbuffered: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    line = [sys.executable, "-m", "unildiff", "data", *COMMANDS[command]]
    return subprocess.run(
        line, stdout=output, stderr=subprocess.PIPE, text=True, check=False, cwd=CHECKOUT, env=environment
    )
