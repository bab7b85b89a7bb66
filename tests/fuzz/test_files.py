"""Malformed archives, score bundles and captions are refused in one line, and write nothing outside their folder."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.mutations import bounded_memory, damaged, result_or_refusal
from unildiff.cli.arguments import read_config
from unildiff.data.captions import Captions
from unildiff.data.tools.extract import extract
from unildiff.restoring.manifest import read_entries
from unildiff.results.runs import load_run
from unildiff.results.tables import build_table
from unildiff.utils.errors import UserError

RANDOM = np.random.default_rng(11)
IMAGES = [RANDOM.integers(0, 256, (16, 20, 3), dtype=np.uint8) for _ in range(3)]


def png(image: np.ndarray) -> bytes:
    made = io.BytesIO()
    Image.fromarray(image).save(made, "PNG")
    return made.getvalue()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, image in enumerate(IMAGES):
            archive.writestr(f"set/{number}.png", png(image))
    return made.getvalue()


def tarred(mode: str) -> Callable[[], bytes]:
    def make() -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
            for number, image in enumerate(IMAGES):
                info = tarfile.TarInfo(f"set/{number}.png")
                info.size = len(png(image))
                archive.addfile(info, io.BytesIO(png(image)))
        return made.getvalue()

    return make


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a.zip": zipped,
    "a.tar": tarred("w"),
    "a.tar.gz": tarred("w:gz"),
    "a.tar.xz": tarred("w:xz"),
    "a.tar.bz2": tarred("w:bz2"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_archives(name: str, tmp_path: Path) -> None:
    whole, random = ARCHIVES[name](), np.random.default_rng(5)
    with bounded_memory(300):
        for number in range(80):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / name).write_bytes(damaged(whole, random))
            count = result_or_refusal(lambda folder=folder: extract(folder / name, folder / "out"))  # type: ignore[misc]
            assert sorted(os.listdir(folder)) in ([name], [name, "out"])
            if count is not None and name != "a.tar":  # plain tar has no checksum of its content
                written = [path for path in (folder / "out").rglob("*") if path.is_file()]
                assert len(written) == count
                assert all(path.read_bytes() in map(png, IMAGES) for path in written)


TEXTS = (
    b"", b"{}", b"[]", b"null", b"3", b"{", b'{"label": 3}', b'{"stages": 3}', b'{"stages": [3]}', b"[" * 5000,
    b'{"protocol": ' + b"1" * 5000 + b"}", b"\xff\xfe", b'{"protocol": ' + b"[" * 5000 + b"}", b'{"model": NaN}',
)  # fmt: skip
SCORES = b"name,degradation,psnr,ssim\na,haze,20.0,0.5\nb,haze,21.0,0.6\n"
TABLES = (
    b"", b"name\n", b"\xff", b"name,psnr\na,x\n", b"a,b\n1\n", b"name,psnr\na," + b"1" * 5000 + b"\n", b"\0" * 50, SCORES * 2,
    SCORES + b"a,haze,20.0,0.5\n", b"name,psnr\na,1e999\n", b"name,name\na,b\n", b"name,degradation,psnr\na\n",
)  # fmt: skip


INFOS = tuple(
    json.dumps({key: value}).encode()
    for key in ("label", "model", "data", "data_kind", "protocol", "seed", "steps", "guidance_scale", "last_timestep", "first_timestep", "count", "notes", "stages", "time_per_picture_s", "captioned_share", "effective_guidance")
    for value in (3, -1.5, True, "x", "a\nb", [], [3], {}, {"a": 1}, {"haze": "x"}, {"haze": None}, [[]])
)  # fmt: skip


def loaded_and_tabulated(path: Path) -> None:
    build_table("single", [load_run(path)])


def test_records_and_tables_of_runs(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_bytes(SCORES)
    assert load_run(tmp_path / "scores.csv").counts == {"haze": 2}
    (tmp_path / "run.json").write_bytes(b'{"model": "m", "count": {"haze": 2}}')
    assert load_run(tmp_path).counts == {"haze": 2}
    for text in (*TEXTS, *INFOS):
        (tmp_path / "scores.csv").write_bytes(SCORES)
        (tmp_path / "run.json").write_bytes(text)
        result_or_refusal(lambda: loaded_and_tabulated(tmp_path))
    (tmp_path / "run.json").write_bytes(b"{}")
    for text in TABLES:
        (tmp_path / "scores.csv").write_bytes(text)
        result_or_refusal(lambda: loaded_and_tabulated(tmp_path))
        result_or_refusal(lambda: loaded_and_tabulated(tmp_path / "scores.csv"))
    rows = (
        b'{"name": 3}',
        b"3",
        b'{"name": "a", "psnr": [1]}',
        b'{"name": "a", "psnr": ' + b"1" * 4000 + b"}",
        b"{}, {}",
    )
    results = (b'{"results": [{"pictures": [' + row + b'], "protocol": {"name": "x"}}]}' for row in rows)
    for text in (*TEXTS, *results):
        (tmp_path / "scores.json").write_bytes(text)
        result_or_refusal(lambda: loaded_and_tabulated(tmp_path / "scores.json"))


def test_captions_and_manifests(tmp_path: Path) -> None:
    for text in TEXTS:
        (tmp_path / "captions.jsonl").write_bytes(b'{"file": "a.png", "caption": "x"}\n' + text + b"\n")
        result_or_refusal(lambda: Captions.find([tmp_path]))
        (tmp_path / "manifest.jsonl").write_bytes(b'{"output": "a.png"}\n' + text + b"\n")
        assert "a.png" in read_entries(tmp_path)


YAML = (
    b"", b"a", b"[]", b"a: [", b"a: 1\na: 2", b"\xff", b"[" * 5000, b"? [a]\n: 1", b"? {a: 1}\n: 1", b"1: 2", b"!!python/object:os.x {}",
    b"a: " + b"1" * 5000, b"2020-01-01: 1", b"a: 2020-99-99", b"a: &a [*a]", b"<<: 3", b"<<: [1]", b"a: 0x" + b"f" * 9000,
    b"a: !!float x", b"a: !!int x", b"a: !!binary x", b"a: !!set {a, b}", b"a: !!omap [1]", b"%YAML 3.0\n---\na: 1", b"a: 1\n---\nb: 2", b"a: 1:9:9",
)  # fmt: skip


def test_configs(tmp_path: Path) -> None:
    whole, random = Path(__file__).parents[2].joinpath("configs/tiny/joint.yaml").read_bytes(), np.random.default_rng(6)
    path = tmp_path / "a.yaml"
    for text in [*YAML, *(damaged(whole, random) for _ in range(150))]:
        path.write_bytes(text)
        content = result_or_refusal(lambda: read_config(path))
        json.dumps(content, default=str)  # nothing in itself, nothing endless


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {3: 4}", "line 1, .*it has '3' as a key, which YAML reads as int; put it in quotes"),
        ("a: 1\nnull: 4", "line 2, .*'null' as a key, which YAML reads as null"),
        ("model:\n  off: 1", "line 2, .*'off' as a key, which YAML reads as bool"),
        ("1e3: 4\n.5: 3", "line 2, .*'.5' as a key, which YAML reads as float"),
        ("a: 1\nb: 2\na: 3", "line 3, .*it repeats the key 'a'"),
        ("? [a, b]\n: 3", "line 1, .*unhashable key"),
        ("a: !!python/object/apply:os.system [id]", "line 1, .*could not determine a constructor"),
        ("a: 1\n\tb: 2", "line 2"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{','.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 9)),
            "line 6, .*aliases that expand to more than 100,000 values",
        ),
    ],
)
def test_yaml_that_would_be_read_as_something_else(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "c.yaml")


def test_yaml_of_other_editors(tmp_path: Path) -> None:
    for text in (
        "\ufefftrainer: {max_steps: 3}",
        "trainer:\r\n  max_steps: 3\r\n",
        "--- \ntrainer: {max_steps: 3}\n...\n",
    ):
        (tmp_path / "c.yaml").write_bytes(text.encode())
        assert read_config(tmp_path / "c.yaml") == {"trainer": {"max_steps": 3}}
