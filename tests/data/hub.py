"""A stand-in for the Hugging Face hub on this machine, and archives to put into it."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tests.fake_trees.cdd11 import DEGRADATIONS

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
    """The files that the test hub serves, and the requests it received."""

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


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that go away; its thread would write into the errors that a test compares."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore it."""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub that ``HF_ENDPOINT`` names."""
    hub = Hub()
    server = QuietServer(("127.0.0.1", 0), hub.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    yield hub
    server.shutdown()
    server.server_close()


def cdd11_archives() -> dict[str, bytes]:
    """Return CDD-11's repository with one scene a split."""
    return {
        ".gitattributes": b"*.zip lfs",
        **{
            f"{split}.zip": zipped(
                {f"{split}/{place}/1.png": png(100 * number + n) for n, place in enumerate(("clear", *DEGRADATIONS))}
                | {f"__MACOSX/{split}/clear/._1.png": b"junk", f"{split}/.DS_Store": b"junk"}
            )
            for number, split in enumerate(("train", "test"))
        },
    }
