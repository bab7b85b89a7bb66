"""The photographs' download: resumed, checked by hash, only what is missing; from a stand-in package on this machine."""

import hashlib
import io
import lzma
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unildiff.data.tools import photographs
from unildiff.utils.errors import UserError

FILES = {"forest0.jpg": b"trees" * 50, "sea1.jpg": b"water" * 40, "nebula2.jpg": b"not listed"}
PLACES = {"train/forest0.jpg": FILES["forest0.jpg"], "validation/sea1.jpg": FILES["sea1.jpg"]}


def debian_package() -> bytes:
    """Return an ar archive as dpkg-deb writes it: debian-binary, control and data, each padded to even length."""
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w") as archive:
        for name, data in FILES.items():
            entry = tarfile.TarInfo(f"./usr/share/games/endless-sky/images/land/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(inside.getvalue())}
    package = b"!<arch>\n"
    for name, data in members.items():
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return package


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    package, asked = debian_package(), []

    class Handler(BaseHTTPRequestHandler):
        cut = 100  # the first answer breaks off after so many bytes

        def do_GET(self) -> None:
            asked.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
            self.send_response(206 if start else 200)
            self.end_headers()
            self.wfile.write(package[start:][: Handler.cut])
            Handler.cut = len(package)

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    monkeypatch.setattr(photographs, "mirrors", lambda: [f"http://127.0.0.1:{serving.server_port}/debian"] * 2)
    monkeypatch.setattr(photographs, "SIZE", len(package))
    monkeypatch.setattr(photographs, "SHA256", hashlib.sha256(package).hexdigest())
    monkeypatch.setattr(
        photographs, "hashes", lambda: {place: hashlib.sha256(data).hexdigest() for place, data in PLACES.items()}
    )
    yield asked
    serving.shutdown()


def found(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.jpg")}


def test_a_broken_download_continues_and_only_the_listed_files_are_written(server: list, tmp_path: Path) -> None:
    assert photographs.fetch(tmp_path, say=str) == 2
    assert found(tmp_path) == PLACES and server == [None, "bytes=100-"]
    assert {path.name for path in tmp_path.iterdir()} == {"train", "validation", "README.md"}
    assert photographs.fetch(tmp_path, say=str) == 0 and len(server) == 2
    (tmp_path / "train/forest0.jpg").write_bytes(b"damaged")
    package = tmp_path / "here.deb"
    package.write_bytes(debian_package())
    assert photographs.fetch(tmp_path, package, say=str) == 1 and found(tmp_path) == PLACES and len(server) == 2


def test_another_package_or_no_network_is_one_line(server: list, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "other.deb").write_bytes(b"!<arch>\nsomething else")
    with pytest.raises(UserError, match=r"other\.deb is not endless-sky-data_.*SHA-256 differs"):
        photographs.fetch(tmp_path / "a", tmp_path / "other.deb", say=str)
    monkeypatch.setattr(photographs, "mirrors", lambda: ["http://127.0.0.1:9/debian"])
    with pytest.raises(UserError, match=r"cannot download endless-sky-data.*--package"):
        photographs.fetch(tmp_path / "b", say=str)


def test_the_list_holds_both_splits_and_apts_mirror_comes_first(tmp_path: Path, monkeypatch) -> None:
    places = photographs.hashes()
    assert sum(place.startswith("train/") for place in places) == 134
    assert sum(place.startswith("validation/") for place in places) == 28
    assert all(len(digest) == 64 for digest in places.values())
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [signed-by=/k] http://mirror.example/debian bookworm main\n# deb http://no/debian x\n"
    )
    (tmp_path / "sources.list.d/a.sources").write_text(
        "Types: deb\nURIs: http://near.example/debian/\nSuites: bookworm\n"
    )
    monkeypatch.setattr(photographs, "_APT", tmp_path)
    expected = ["http://mirror.example/debian", "http://near.example/debian", *photographs.ARCHIVES]
    assert photographs.mirrors() == expected
