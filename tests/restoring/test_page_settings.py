"""What the page of `unildiff serve` does with its settings, without a browser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.planning.restoring import MemoryPlanner
from unildiff.restoring.options import RestoreOptions
from unildiff.restoring.page import Page
from unildiff.weights.folder import save_model

SAME = "same as the photograph"


def last(page: Page, file: Path, *settings: Any) -> tuple[Any, list[str], str]:
    """Return what the page shows in the end."""
    return list(page.restore([str(file)], "", *settings, progress=lambda share, desc: None))[-1]


def test_settings_give_the_files_of_the_command_line(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    options = RestoreOptions(
        model=str(tmp_path / "weights"), device="cpu", memory=20 * 10**9
    )  # this process may hold some itself
    page = Page(options, tmp_path, MemoryPlanner(options).settings_for)
    pair, files, text = last(page, tmp_path / "a.jpg", 3, 2, 4.0, 128, "input", 1, "png")
    assert [Path(file).name for file in files] == ["a.uncertainty.png", "a.png"] and text.startswith("1 restored.")
    assert [side.shape for side in pair] == [(96, 200, 3)] * 2
    command = ["restore", str(tmp_path / "a.jpg"), str(tmp_path / "out"), "--model", str(tmp_path / "weights")]
    command += ["--device", "cpu", "--seed", "3", "--num_inference_steps", "2", "--guidance_scale", "4"]
    assert main([*command, "--tile_size=128", "--colour=input", "--uncertainty=1", "--format=png"]) == 0
    for file in files:
        assert Path(file).read_bytes() == (tmp_path / "out" / Path(file).name).read_bytes()


def test_what_does_not_fit_or_cannot_be_done_is_a_message(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    options = RestoreOptions(model=str(tmp_path / "weights"), device="cpu", memory=10**9)
    page = Page(options, tmp_path, lambda chosen, sizes: (chosen, None))
    page._settings_for = MemoryPlanner(options).settings_for
    memory = replace(page._restorer.options, memory=10**6)
    page._restorer = replace(page._restorer, recipe=replace(page._restorer.recipe, options=memory))
    small = last(page, tmp_path / "a.png", 0, 1, 5.0, 0, "none", 0, SAME)
    assert small[1] == [] and "a.png: memory: 0.001 GB is too little for an image of 64x48" in small[2]
    refused = last(page, tmp_path / "a.png", 0, 1, 5.0, 0, "auto", 0, SAME)
    assert refused[1] == [] and "Not started: colour: auto" in refused[2] and "--" not in refused[2]
