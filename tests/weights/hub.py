"""A stand-in for the Hugging Face hub: one repository of files from a folder, over HTTP on this machine.

Commits are taken as well; their files are written into the folder.
"""

import base64
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

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            data, etag = b"", ""
            names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
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
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            address = f"http://{self.headers['Host']}/{repo}"
            reply: dict[str, object] = {"name": repo, "url": address}  # to /api/repos/create
            if self.path.endswith("/api/validate-yaml"):
                reply = {"errors": [], "warnings": []}
            elif "/preupload/" in self.path:
                wanted = [file["path"] for file in json.loads(body)["files"]]
                reply = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in wanted]}
            elif self.path.startswith(f"/api/models/{repo}/commit/"):
                for entry in map(json.loads, body.splitlines()):
                    if entry["key"] == "file":
                        path = folder / entry["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(entry["value"]["content"]))
                reply = {"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
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
