"""Downloads from a stand-in hub on this machine: sizes said before, resumed, verified, unpacked whole or not at all."""

import hashlib
import io
import json
import os
import resource
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.data.download import HOMES, download, elsewhere
from unildiff.data.extract import extract
from unildiff.data.listing import picture_sets
from unildiff.errors import UserError

SHA = "0123456789abcdef0123456789abcdef01234567"


def png(seed: int, side: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Hub:
    """What the stand-in serves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.sums: dict[str, str] = {}  # wrong checksums to claim
        self.cut: int | None = None  # bytes after which each answer breaks off, and no further one comes
        self.asked: list[str] = []

    def handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self, code: int, data: bytes = b"", **headers: str) -> None:
                self.send_response(code)
                for key, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
                repo = "/".join(path.removeprefix("/api").split("/")[2:4])
                if repo not in hub.files:
                    return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
                files = hub.files[repo]
                if path.startswith("/api/"):
                    listed = [
                        {"rfilename": name, "size": len(data), "blobId": "0", "lfs": self.lfs(name, data)}
                        for name, data in files.items()
                    ]
                    body = {"id": repo, "sha": SHA, "siblings": listed, "private": False, "gated": False}
                    return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
                name = path.partition(f"/resolve/{SHA}/")[2]
                data = files[name]
                headers = {
                    "ETag": f'"{self.lfs(name, data)["sha256"]}"',
                    "X_Repo_Commit": SHA,
                    "Accept_Ranges": "bytes",
                }
                if self.command == "HEAD":
                    self.send_response(200)
                    for key, value in {**headers, "Content-Length": str(len(data))}.items():
                        self.send_header(key.replace("_", "-"), value)
                    return self.end_headers()
                if hub.cut == 0:
                    return self.answer(500, b"{}")
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                whole = data[start:]
                if hub.cut is not None:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(whole)))
                    self.end_headers()
                    self.wfile.write(whole[: hub.cut])
                    hub.cut, self.close_connection = 0, True
                    return None
                code = 206 if start else 200
                return self.answer(code, whole, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", **headers)

            def lfs(self, name: str, data: bytes) -> dict[str, object]:
                sha256 = hub.sums.get(name) or hashlib.sha256(data).hexdigest()
                return {"sha256": sha256, "size": len(data), "pointerSize": 1}

            do_HEAD = do_GET

        return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    yield hub
    server.shutdown()
    server.server_close()


DEGRADATIONS = ("low", "haze", "rain", "snow", "low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow")
ALL = (*DEGRADATIONS, "low_haze_rain", "low_haze_snow")


@pytest.fixture
def cdd11(hub: Hub) -> Hub:
    """CDD-11's repository with one scene a split."""
    hub.files["gy65896/CDD-11"] = {
        ".gitattributes": b"*.zip lfs",
        **{
            f"{split}.zip": zipped(
                {f"{split}/{place}/1.png": png(100 * number + n) for n, place in enumerate(("clear", *ALL))}
                | {f"__MACOSX/{split}/clear/._1.png": b"junk", f"{split}/.DS_Store": b"junk"}
            )
            for number, split in enumerate(("train", "test"))
        },
    }
    return hub


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fetches_unpacks_and_says_the_size_before(cdd11: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    before = lambda line: said.append(line) or (tmp_path / "root/train").exists()
    assert download("cdd11", tmp_path / "root", say=before) == ["train.zip", "test.zip"]
    sizes = [len(cdd11.files["gy65896/CDD-11"][f"{split}.zip"]) for split in ("train", "test")]
    listed = f"train.zip {sizes[0] / 1e6:.1f} MB, test.zip {sizes[1] / 1e6:.1f} MB"
    assert said == [f"gy65896/CDD-11: {listed}; {sum(sizes) / 1e6:.1f} MB to download to {tmp_path / 'root'}"]
    found = tree(tmp_path / "root")
    record = json.loads(found.pop("download.json"))
    assert set(found) == {f"{split}/{place}/1.png" for split in ("train", "test") for place in ("clear", *ALL)}
    assert found["test/haze/1.png"] == png(102)
    assert record["test.zip"]["revision"] == SHA and record["test.zip"]["files"] == 12
    cdd11.asked.clear()
    assert download("cdd11", tmp_path / "root", say=said.append) == []
    assert "nothing is missing" in said[-1] and cdd11.asked == ["GET /api/datasets/gy65896/CDD-11"]


def test_one_archive_only(cdd11: Hub, tmp_path: Path) -> None:
    assert download("cdd11", tmp_path / "root", only="test", say=str) == ["test.zip"]
    assert not (tmp_path / "root/train").exists()
    with pytest.raises(UserError, match=r"no archive named val in gy65896/CDD-11; it has train\.zip, test\.zip"):
        download("cdd11", tmp_path / "root", only="val", say=str)


def test_goes_on_where_the_connection_broke(cdd11: Hub, tmp_path: Path) -> None:
    cdd11.cut = 5500
    with pytest.raises(UserError, match=r"cannot reach gy65896/CDD-11 at http://127.*what was fetched is kept") as e:
        download("cdd11", tmp_path / "root", say=str)
    assert "\n" not in str(e.value) and not (tmp_path / "root/train").exists()
    cdd11.cut = None
    cdd11.asked.clear()
    download("cdd11", tmp_path / "root", say=str)
    (resumed,) = [line for line in cdd11.asked if line.startswith("GET") and "train.zip" in line]
    assert int(resumed.partition("bytes=")[2].rstrip("-")) in range(4000, 5501)  # whole chunks of 1,000
    assert tree(tmp_path / "root")["train/clear/1.png"] == png(0)


def test_a_wrong_checksum_is_refused(cdd11: Hub, tmp_path: Path) -> None:
    cdd11.sums["train.zip"] = "f" * 64
    with pytest.raises(UserError, match=r"damaged download: train\.zip"):
        download("cdd11", tmp_path / "root", say=str)
    assert tree(tmp_path / "root") == {}
    del cdd11.sums["train.zip"]
    download("cdd11", tmp_path / "root", say=str)


def test_no_network_and_no_such_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="deepinv/CBSD68 is not there any more, or needs a login"):
        download("cbsd68", tmp_path / "root", say=str)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match=r"cannot reach .* at http://127.0.0.1:9: .*; check the network") as error:
        download("cbsd68", tmp_path / "root", say=str)
    assert "\n" not in str(error.value)


def test_pictures_of_small_sets_go_where_the_layouts_look(hub: Hub, tmp_path: Path) -> None:
    hub.files["deepinv/CBSD68"] = {"CBSD68.tar.gz": tarred({f"CBSD68/0/{n:04}.png": png(n, 8) for n in range(3)})}
    hub.files["eugenesiow/Urban100"] = {
        "data/Urban100_HR.tar.gz": tarred({"Urban100_HR/img_001.png": png(9, 8)}),
        "data/Urban100_LR_x2.tar.gz": tarred({"Urban100_LR_x2/img_001.png": png(8, 4)}),
    }
    for name in ("cbsd68", "urban100"):
        download(name, tmp_path / "root", say=str)
    found = {name for name in tree(tmp_path / "root") if name.endswith(".png")}
    assert found == {f"test/denoise/bsd68/{n:04}.png" for n in range(3)} | {"test/denoise/urban100/img_001.png"}
    for home in HOMES.values():
        assert picture_sets(home.check)


def test_a_full_disk(cdd11: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(UserError, match="disk full while writing"):
            download("cdd11", tmp_path / "root", say=str)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "root/train").exists()
    from types import SimpleNamespace

    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match=r"disk full: 0\.\d MB are needed"):
            download("cdd11", tmp_path / "root", say=str)
    download("cdd11", tmp_path / "root", say=str)
    assert len(tree(tmp_path / "root")) == 25


def test_archives_without_a_folder_get_one(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(zipped({"clear/1.png": png(0), "haze/1.png": png(1)}))
    assert extract(tmp_path / "train.zip", tmp_path / "root") == 2
    assert set(tree(tmp_path / "root")) == {"train/clear/1.png", "train/haze/1.png"}


def test_unpacking_goes_on_and_repairs(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({f"a/{n}.png": png(n) for n in range(3)}))
    extract(tmp_path / "a.zip", tmp_path / "root")
    whole = tree(tmp_path / "root")
    os.utime(tmp_path / "root/a/0.png", ns=(5, 5))
    (tmp_path / "root/a/1.png").write_bytes(b"half")
    (tmp_path / "root/a/2.png").unlink()
    extract(tmp_path / "a.zip", tmp_path / "root")
    assert tree(tmp_path / "root") == whole
    assert (tmp_path / "root/a/0.png").stat().st_mtime_ns == 5  # left alone


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png", "a\\out.png"])
def test_nothing_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.tar.gz").write_bytes(tarred({name: png(0)}))
    with pytest.raises(UserError, match="leads out of its folder"):
        extract(tmp_path / "bad.tar.gz", tmp_path / "root")
    assert not (tmp_path / "out.png").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    data = tarred({f"a/{n}.png": png(n) for n in range(3)})
    bent = bytearray(zipped({"a/1.png": png(1)}))
    bent[60] ^= 1
    for name, content in (
        ("cut.tar.gz", data[: len(data) // 2]),
        ("bent.zip", bytes(bent)),
        ("none.zip", b"hello"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged archive"):
            extract(tmp_path / name, tmp_path / "root")
    left = tree(tmp_path / "root") if (tmp_path / "root").exists() else {}
    assert all(data in (png(0), png(1), png(2)) for data in left.values())  # what is there is whole
    (tmp_path / "text.zip").write_bytes(zipped({"a/readme.txt": b""}))
    with pytest.raises(UserError, match="no pictures in"):
        extract(tmp_path / "text.zip", tmp_path / "root")


def test_other_sets_say_where_they_are(tmp_path: Path) -> None:
    text = elsewhere(picture_sets("derain"))
    assert "Rain100L (rain): linked by" in text and "Train/Derain/rainy + Train/Derain/gt" in text
    assert "`unildiff data download cbsd68`" in elsewhere(picture_sets("denoise"))
