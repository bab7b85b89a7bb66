"""Restoring from lists and object stores; fsspec's memory file system stands for a store."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.weights.folder import save_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "below/b.png", "c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(tmp_path / "photos" / name)
    save_model(small_model(), tmp_path / "model", torch.float32)
    return tmp_path / "photos"


def restore(src: str | Path, out: Path) -> int:
    options = ["--model", str(out.parent / "model"), "--num_inference_steps", "1", "--device", "cpu"]
    return main(["restore", str(src), str(out), *options])


def results(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.suffix in (".png", ".jpg")}


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_list_of_images(kind: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert restore(photos, tmp_path / "plain") == 0
    names = ["a.png", "below/b.png", str(photos / "c.jpg")]
    file = photos / f"list.{kind}"
    lines = (
        names
        if kind == "txt"
        else [json.dumps({"file": name}) for name in names[:2]] + [json.dumps({"input": names[2]})]
    )
    file.write_text("\n\n".join(lines))
    assert restore(file, tmp_path / "out") == 0
    assert results(tmp_path / "out") == results(tmp_path / "plain")
    capsys.readouterr()
    assert restore(file, tmp_path / "out") == 0 and "3 done before" in capsys.readouterr().out
    file.write_text("\n".join([*lines, "gone.png" if kind == "txt" else '{"file": "gone.png"}']))
    assert restore(file, tmp_path / "out") == 3 and "gone.png" in capsys.readouterr().err


def test_an_object_store(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(photos), "/bucket/photos", recursive=True)
    store.pipe("/bucket/photos/notes.txt", b"no image")
    assert restore(photos, tmp_path / "plain") == 0
    assert restore("memory://bucket/photos", tmp_path / "out") == 0
    assert results(tmp_path / "out") == results(tmp_path / "plain")
    capsys.readouterr()
    assert restore("memory://bucket/photos", tmp_path / "out") == 0 and "3 done before" in capsys.readouterr().out
    store.pipe("/bucket/photos/a.png", (photos / "below/b.png").read_bytes() + b"0")  # another content, another size
    assert restore("memory://bucket/photos", tmp_path / "out") == 0 and "2 done before" in capsys.readouterr().out
    assert restore("memory://bucket/photos/c.jpg", tmp_path / "one") == 0
    assert results(tmp_path / "one") == {"c.jpg": results(tmp_path / "plain")["c.jpg"]}


def test_a_web_server_and_a_file_address(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    (photos / "c.jpg").rename(photos / "in Rome.jpg")
    assert restore(photos, tmp_path / "plain") == 0
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert restore(f"http://127.0.0.1:{server.server_port}/photos/", tmp_path / "web") == 0
        finally:
            server.shutdown()
    assert restore(f"file://{photos}", tmp_path / "file") == 0
    assert results(tmp_path / "web") == results(tmp_path / "file") == results(tmp_path / "plain")


@pytest.mark.parametrize(
    ("src", "message"),
    [
        ("memory://nothing/here", "no images in memory://nothing/here; give the address"),
        ("nosuch://bucket/a", "cannot read nosuch://bucket/a"),
        ("empty.txt", "no images in the list empty.txt"),
        ("twice.txt", "twice.txt has a.png more than once"),
        ("bad.jsonl", "line 2 of bad.jsonl names no file"),
        ("latin.txt", "cannot read the list latin.txt"),
    ],
)
def test_mistakes(src: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    Path("twice.txt").write_text("a.png\na.png\n")
    Path("bad.jsonl").write_text('{"file": "a.png"}\n[3]\n')
    Path("latin.txt").write_bytes(b"caf\xe9.png\n")
    assert main(["restore", src, "out"]) == 2
    assert message in capsys.readouterr().err and not Path("out").exists()
