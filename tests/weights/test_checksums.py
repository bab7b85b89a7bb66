"""Exported folders: replaced atomically, and refused if a weight file has changed."""

import os
import shutil
from pathlib import Path

import pytest

from unildiff.cli.main import main
from unildiff.utils.errors import UserError
from unildiff.utils.paths import weights_path
from unildiff.weights import pipeline
from unildiff.weights.checksums import CHECKSUMS, verify_checksums, write_checksums
from unildiff.weights.load import load_restorer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    assert main(["export", "tiny", "--out", str(out)]) == 0
    return out


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "decoder/model"])
def test_a_flipped_bit_is_refused(part: str, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    verify_checksums(folder)
    flip(folder / f"{part}.safetensors", -1001)
    with pytest.raises(UserError, match=rf"{part.split('/')[0]}/.*does not match SHA256SUMS \(1 of "):
        load_restorer(str(folder))


def test_folders_without_checksums_load_and_malformed_files_are_one_line(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / CHECKSUMS).unlink()
    load_restorer(str(folder))
    for name in (
        "lq_encoder/model",
        "fusion/model",
        "decoder/model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        path = folder / f"{name}.safetensors"
        whole = path.read_bytes()
        for content in (b"", b"\xff" * 100, whole[:-5], (10).to_bytes(8, "little") + b'{"a": [1]}'):
            path.write_bytes(content)
            with pytest.raises(UserError) as raised:
                load_restorer(str(folder))
            assert "\n" not in " ".join(str(raised.value).splitlines()[:1]) and name.split("/")[0] in str(raised.value)
        path.write_bytes(whole)


def test_sha256sum_understands_them(exported: Path) -> None:
    assert shutil.which("sha256sum") is None or os.system(f"cd {exported} && sha256sum --quiet -c {CHECKSUMS}") == 0


def test_an_export_that_fails_leaves_the_earlier_model(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (exported / CHECKSUMS).read_bytes()
    (exported / "notes.txt").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(
            pipeline, "write_index", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        assert main(["export", "tiny", "--out", str(exported), "--dtype", "float32"]) == 2
    assert (exported / CHECKSUMS).read_bytes() == before and os.listdir(exported.parent) == ["model"]
    assert main(["export", "tiny", "--out", str(exported), "--dtype", "float32"]) == 0
    assert (exported / CHECKSUMS).read_bytes() != before and (exported / "notes.txt").read_text() == "mine"


def test_a_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    shutil.copytree(weights_path("tiny") / "fusion", tmp_path / "fusion")
    write_checksums(tmp_path)
    shutil.copy(tmp_path / "fusion" / "model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors does not match"):
        verify_checksums(tmp_path)
