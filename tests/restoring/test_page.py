"""The page of `unildiff serve`, clicked through in headless Chromium."""

import base64
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.results.chromium import Browser
from tests.small import small_model
from unildiff.cli.main import main
from unildiff.weights.folder import save_model

pytest.importorskip("gradio")
if shutil.which("chromium") is None:
    pytest.skip("needs chromium", allow_module_level=True)

PORT = 7893


def until(browser: Browser, expression: str) -> None:
    """Wait, for two minutes at most, until a JavaScript expression is true."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if browser.run(f"Boolean({expression})"):  # a DOM node would arrive here as {}
            return
        time.sleep(0.1)
    raise AssertionError((expression, browser.run("document.body.innerText")[-500:]))


def choose(browser: Browser, files: list[Path]) -> None:
    found = browser.call("Runtime.evaluate", expression="document.querySelector('#photographs input[type=file]')")
    browser.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["result"]["objectId"])


def upload(browser: Browser, files: list[Path]) -> None:
    choose(browser, files)
    until(browser, f"document.querySelectorAll('#photographs a').length == {len(files)}")


def downloads(browser: Browser) -> dict[str, bytes]:
    """Return the results by name, fetched through their links."""
    script = """(async () => { const out = {};
        for (const link of document.querySelectorAll('#results a')) {
            const bytes = new Uint8Array(await (await fetch(link.href)).arrayBuffer());
            out[decodeURIComponent(link.href.split('/').pop())] = btoa(String.fromCharCode(...bytes)); }
        return out; })()"""
    return {name: base64.b64decode(data) for name, data in browser.run(script).items()}


def test_two_users_get_the_bytes_of_the_command_line(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(photos / "phone.jpg", exif=turned)
    cv2.imwrite(str(photos / "deep.png"), pixels.astype(np.uint16) * 257)
    fixed = ["--model", str(tmp_path / "weights"), "--device", "cpu"]
    assert main(["restore", str(photos), str(tmp_path / "out"), *fixed]) == 0
    expected = {name: (tmp_path / "out" / name).read_bytes() for name in ("phone.jpg", "deep.png")}
    (photos / "broken.jpg").write_bytes(b"broken")
    Image.new("RGB", (200, 150)).save(photos / "large.png")  # in pixels
    (photos / "heavy.png").write_bytes(bytes(1_100_000))  # in bytes

    command = [sys.executable, "-m", "unildiff", "serve", *fixed, "--port", str(PORT), "--memory", "4GB"]
    command += ["--max_pixels", "20000", "--max_megabytes", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    users = []
    try:
        assert "open http://127.0.0.1" in server.stdout.readline()  # type: ignore[union-attr]
        time.sleep(2)
        for number in range(2):
            users.append(Browser(tmp_path / f"profile{number}"))
            users[-1].open(f"http://127.0.0.1:{PORT}")
            until(users[-1], "document.querySelector('#restore')")
        upload(users[0], [photos / "broken.jpg", photos / "phone.jpg"])
        upload(users[1], [photos / "deep.png"])
        for user in users:
            user.run("document.querySelector('#restore').click()")
        until(users[0], "document.querySelector('#messages').innerText.includes('1 restored')")
        until(users[1], "document.querySelector('#messages').innerText.includes('1 restored')")
        until(users[0], "document.querySelector('#results a') && document.querySelector('#slider img')")
        until(users[1], "document.querySelector('#results a')")
        assert downloads(users[0]) == {"phone.jpg": expected["phone.jpg"]}
        assert downloads(users[1]) == {"deep.png": expected["deep.png"]}
        assert "broken.jpg: unreadable image" in users[0].run("document.querySelector('#messages').innerText")
        box = users[0].run(
            "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#slider img').getBoundingClientRect())"
        )
        seen = "document.querySelector('#slider').innerHTML"
        before = users[0].run(seen)
        middle = box[1] + box[3] / 2
        for kind, x in (("mousePressed", 0.5), ("mouseMoved", 0.3), ("mouseMoved", 0.2), ("mouseReleased", 0.2)):
            at = {"x": box[0] + x * box[2], "y": middle, "button": "left", "buttons": 1, "clickCount": 1}
            users[0].call("Input.dispatchMouseEvent", type=kind, **at)
        until(users[0], f"{seen} != {before!r}" if len(before) < 2000 else "true")
        users[1].run("document.querySelector('#restore').click()")
        users[1].run("document.querySelector('#cancel').click()")
        until(users[1], "document.querySelector('#messages').innerText.includes('Cancelled')")
        time.sleep(1)
        users[1].run("document.querySelector('#restore').click()")  # the queue survives
        until(users[1], "document.querySelector('#messages').innerText.includes('1 restored')")
        users[1].open(f"http://127.0.0.1:{PORT}")
        until(users[1], "document.querySelector('#restore')")
        upload(users[1], [photos / "large.png"])
        users[1].run("document.querySelector('#restore').click()")
        until(users[1], "document.querySelector('#messages').innerText.includes('the limit is 20000 pixels')")
        users[1].open(f"http://127.0.0.1:{PORT}")
        until(users[1], "document.querySelector('#photographs input[type=file]')")
        choose(users[1], [photos / "heavy.png"])
        until(users[1], "document.body.innerText.includes('Error')")
        assert "up to 1 MB each" in users[1].run("document.body.innerText")
        assert "Use via API" not in users[1].run("document.body.innerText")
        for user in users:
            user.resize(390, 844, mobile=True)
            assert user.run("document.documentElement.scrollWidth") <= 391  # nothing is cut off on a phone
            local = (f"http://127.0.0.1:{PORT}", "data:", "blob:", "about:")
            assert [url for url in user.requests if not url.startswith(local)] == []
    finally:
        for user in users:
            user.close()
        server.terminate()
        server.wait(30)
