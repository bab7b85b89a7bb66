"""A stand-in for the Hugging Face hub: one repository of files from a folder, over HTTP on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path, repo: str) -> Iterator[tuple[str, list[str]]]:
    """Serve ``folder`` as ``repo``; yields the address and a list that collects the names of fetched files."""
    fetched: list[str] = []
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            data, etag = b"", ""
            if path.startswith(f"/api/models/{repo}/tree/"):
                entries = [{"type": "file", "path": name, "size": (folder / name).stat().st_size} for name in names]
                data = json.dumps([entry | {"oid": "0"} for entry in entries]).encode()
            elif path.startswith(f"/api/models/{repo}"):
                files = [{"rfilename": name} for name in names]
                data = json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode()
            elif path.startswith(f"/{repo}/resolve/") and path.split("/", 5)[5] in names:
                data = (folder / path.split("/", 5)[5]).read_bytes()
                etag = hashlib.sha1(data).hexdigest()
                if body:
                    fetched.append(path.split("/", 5)[5])
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
