"""Progress within one large image: a bar that stands at 0 until the end says nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.restoring import run
from unildiff.restoring.progress import BatchProgress
from unildiff.weights.folder import save_model


@pytest.mark.parametrize("tile", [None, 128])
def test_steps_of_one_image_move_the_bar(tile: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Watched(BatchProgress):
        def _show(self, done: float) -> None:
            super()._show(done)
            seen.append(self.done)

    monkeypatch.setattr(run, "BatchProgress", Watched)
    save_model(small_model(), tmp_path / "weights", torch.float32)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 200, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    command = ["restore", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", str(tmp_path / "weights")]
    command += ["--device", "cpu", "--num_inference_steps", "5", *([] if tile is None else ["--tile_size", str(tile)])]
    assert main(command) == 0
    within = [share for share in seen if 0 < share < 1]
    assert within == sorted(within) and len(within) >= 4 and seen[-1] == 1
