"""Damaged and malicious score bundles: one line, and nothing outside their folder."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz.mutations import bounded_memory, damaged, result_or_refusal
from unildiff.results.bundle import FORMAT
from unildiff.results.runs import load_run
from unildiff.results.tables import build_table
from unildiff.utils.errors import UserError

SCORES = "name,degradation,psnr,ssim\na,haze,20.0,0.5\nb,haze,21.0,0.6\n"
RUN = '{"model": "m", "label": "m", "protocol": "unildiff"}'
Members = list[tuple[str, str | bytes]]


def bundle(members: Members, manifest: dict[str, Any] | None = None) -> bytes:
    """A bundle of these members; its manifest lists them with their hashes, changed by ``manifest``."""
    texts = {name: text.encode() if isinstance(text, str) else text for name, text in members}
    about: dict[str, Any] = {
        "format": FORMAT,
        "protocol": {"name": "unildiff"},
        "label": "m",
        "images": False,
        "files": [],
    }
    about["contents"] = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", json.dumps(about | (manifest or {})))
        for name, text in texts.items():
            archive.writestr(name, text)
    return made.getvalue()


WHOLE: Members = [("scores.csv", SCORES), ("run.json", RUN)]


def tabulated(path: Path) -> int:
    build_table("single", [load_run(path)])
    return 1


def test_a_whole_bundle_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(bundle(WHOLE))
    assert tabulated(tmp_path / "a.zip") == 1


def test_damaged_bundles(tmp_path: Path) -> None:
    whole, random = bundle(WHOLE), np.random.default_rng(3)
    with bounded_memory(300):
        for _ in range(150):
            (tmp_path / "a.zip").write_bytes(damaged(whole, random))
            result_or_refusal(lambda: tabulated(tmp_path / "a.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


VALUES = (None, 3, -1, 1.5, True, "x", [], [3], [[]], {}, {"a": 1}, {"scores.csv": 3}, ["scores.csv"], "a\nb")


@pytest.mark.parametrize("key", ["format", "contents", "images", "files", "protocol", "label", "versions", "command"])
def test_manifests_of_other_types(key: str, tmp_path: Path) -> None:
    for value in VALUES:
        (tmp_path / "a.zip").write_bytes(bundle(WHOLE, {key: value, **({"images": True} if key == "files" else {})}))
        result_or_refusal(lambda: tabulated(tmp_path / "a.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{", "[" * 5000, "\0", '{"stages": 3}', '{"count": {"haze": -1}}']
)
def test_members_of_other_types(text: str, tmp_path: Path) -> None:
    for members in ([("scores.csv", text), ("run.json", RUN)], [("scores.csv", SCORES), ("run.json", text)]):
        (tmp_path / "a.zip").write_bytes(bundle(members))  # type: ignore[arg-type]
        result_or_refusal(lambda: tabulated(tmp_path / "a.zip"))


def doubled() -> bytes:
    made = io.BytesIO(bundle(WHOLE))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(made, "a") as archive:
        archive.writestr("scores.csv", SCORES.replace("20.0", "99.0"))
    return made.getvalue()


def claiming() -> bytes:
    """A member whose header claims four gigabytes."""
    data = bytearray(bundle(WHOLE))
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = b"\xfe\xff\xff\xff"
    return bytes(data)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "upwards": (lambda: bundle([*WHOLE, ("../evil", "x")]), "points outside its folder"),
    "from the root": (lambda: bundle([*WHOLE, ("/tmp/evil", "x")]), "points outside its folder"),
    "a backslash": (lambda: bundle([*WHOLE, ("..\\evil", "x")]), "points outside its folder"),
    "twice the same name": (doubled, "does not have the recorded hash"),
    "a claim of four gigabytes": (claiming, "not a score bundle|damaged score bundle"),
    "no scores": (lambda: bundle([("run.json", RUN)]), "no scores.csv"),
    "bomb": (lambda: bundle([("scores.csv", b"\0" * ((64 << 20) + 1)), ("run.json", RUN)]), "unpacks to more than"),
    "no line": (lambda: bundle([("scores.csv", "name\n"), ("run.json", RUN)]), r"in/a\.zip/scores.csv has no line"),
    "stages elsewhere": (
        lambda: bundle([WHOLE[0], ("run.json", '{"stages": [{"label": "x", "scores": "/etc/passwd"}]}')]),
        r"in/a\.zip/run.json, '/etc/passwd' lies outside",
    ),
    "another format": (lambda: bundle(WHOLE, {"format": 99}), "format 99"),
    "no zip": (lambda: b"PK\x03\x04" + b"\0" * 100, "not a score bundle"),
    "nothing": (lambda: b"", "not a score bundle"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_malicious_bundles_are_refused(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(make())
    with bounded_memory(300), pytest.raises(UserError, match=message):
        tabulated(tmp_path / "in" / "a.zip")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.zip"] and not Path("/tmp/evil").exists()
