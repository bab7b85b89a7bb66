"""Malformed checkpoints and exports are refused in one line, or hold exactly the weights that were written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fuzz.mutations import bounded_memory, damaged, result_or_refusal
from tests.small import small_model
from unildiff.core.model import UniLDiff
from unildiff.weights.checkpoint_files import load_file_safely
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.checksums import write_checksums
from unildiff.weights.folder import save_model
from unildiff.weights.load import load_restorer, model_from_checkpoint


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


CONTENT = {
    "state_dict": {"model.unet.fusion.a": torch.arange(600.0), "b": torch.ones(3, 4, dtype=torch.bfloat16)},
    "hyper_parameters": {
        "_class_path": "unildiff.stages.joint.JointFinetuneModule",
        "base": "tiny",
        "text_dropout": 0.2,
    },
    "global_step": 3,
}
LOOP: list[Any] = []
LOOP.append(LOOP)
STRANGE: tuple[Any, ...] = (None, -1, 10**400, float("nan"), "x", "a\0b", [], {}, {1: 2}, [[1]], torch.ones(2), nested(100), LOOP, {"class_path": "os.system"})  # fmt: skip


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path, random = tmp_path / "a.ckpt", np.random.default_rng(3)
    torch.save(CONTENT, path)
    whole = path.read_bytes()
    with bounded_memory(300):
        for number in range(250):
            path = tmp_path / f"{number}.ckpt"  # another name: a file is checked once per version
            path.write_bytes(damaged(whole, random))
            content = result_or_refusal(lambda path=path: load_file_safely(path))  # type: ignore[misc]
            if content is not None:
                assert same(content["state_dict"], CONTENT["state_dict"])  # type: ignore[arg-type]
                assert content["hyper_parameters"] == CONTENT["hyper_parameters"] and content["global_step"] == 3
            path.unlink()


@pytest.mark.parametrize("key", ["state_dict", "ema_state_dict", "hyper_parameters", "global_step", "epoch", "loops", "callbacks", "base", "network", "init_from", "optimizer"])  # fmt: skip
def test_checkpoints_with_other_types(key: str, tmp_path: Path) -> None:
    for number, value in enumerate(STRANGE):
        settings = dict(CONTENT["hyper_parameters"])  # type: ignore[call-overload]
        inside = {"hyper_parameters": settings | {key: value}} if key in ("base", "network", "init_from", "optimizer") else {key: value}  # fmt: skip
        path = tmp_path / f"{number}.ckpt"
        torch.save({**CONTENT, **inside}, path)
        result_or_refusal(lambda path=path: read_checkpoint(path))  # type: ignore[misc]
        result_or_refusal(lambda path=path: model_from_checkpoint(path))  # type: ignore[misc]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UniLDiff]:
    folder = tmp_path_factory.mktemp("exported")
    model = small_model()
    save_model(model, folder, torch.float32)
    write_checksums(folder)
    return folder, load_restorer(str(folder))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def attempt(exported: tuple[Path, UniLDiff], tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Load a copy of an export with one file changed: refused, or with the very same weights."""
    folder, model = exported
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    loaded = result_or_refusal(lambda: load_restorer(str(copy)))
    if loaded is not None:
        assert same(loaded.state_dict(), model.state_dict())


def test_damaged_exports(exported: tuple[Path, UniLDiff], tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    with bounded_memory(300):
        for name in files(exported[0]):
            for _ in range(3):
                attempt(exported, tmp_path, name, lambda data: damaged(data, random))


TEXTS = (b"", b"[]", b"[" * 5000, b"\xff\xfe")


def test_exports_with_other_texts(exported: tuple[Path, UniLDiff], tmp_path: Path) -> None:
    for name in files(exported[0]):
        if name.endswith((".json", ".txt")) or "SUMS" in name:
            for text in TEXTS:
                attempt(exported, tmp_path, name, lambda data, text=text: text)  # type: ignore[misc]
