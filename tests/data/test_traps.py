"""Known traps of public code: each test restates what a peer does, shows that it goes wrong, and that this project does not."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules.dehaze import DehazeDataModule
from datamodules.denoise import DenoiseDataModule
from datamodules.derain import DerainDataModule
from datamodules.five_task import FiveTaskDataModule
from datamodules.three_task import ThreeTaskDataModule
from tests.fake_trees import haze, lowlight, noise, rain
from tests.fake_trees.images import SHIFT, save, scene
from unildiff.data.catalogue import SETS
from unildiff.data.images import read_rgb
from unildiff.utils.errors import UserError


def belong_together(lq: Path, gt: Path) -> bool:
    return bool((read_rgb(lq) == read_rgb(gt) + np.uint8(SHIFT)).all())


def ours(source) -> bool:
    return all(belong_together(pair.lq, pair.gt) for pair in source.pairs)


def test_sorted_lists_pair_wrongly_once_a_file_is_missing(tmp_path):
    """DA-CLIP, InstructIR, MoCE-IR's rain, FaithDiff and the authors pair two sorted lists."""
    rain.write(tmp_path, "moceir", "test")
    base = tmp_path / "deraining/Rain100L"
    (base / "gt/3.png").unlink()
    (base / "rainy/7.png").unlink()
    peers = list(zip(sorted((base / "rainy").iterdir()), sorted((base / "gt").iterdir()), strict=True))
    assert sum(not belong_together(*pair) for pair in peers) == 4  # 3..6 against 4..7, without a message

    with pytest.raises(UserError, match=r"1 degraded without a ground truth .*rainy/3\.png \(and 1 more finding\)"):
        DerainDataModule(root=str(tmp_path)).test_set()
    module = DerainDataModule(root=str(tmp_path), on_error="skip")
    source = module.test_set().source
    assert len(source) == 10 and ours(source)
    assert len(module.skipped) == 2 and "gt/7.png" in module.skipped[1]


def test_indices_modulo_length_cannot_pair_many_hazy_with_one_clear(tmp_path):
    """DiffUIR takes both lists at index % length."""
    haze.write(tmp_path, "diffuir", "test")
    base = tmp_path / "RESIDE/SOTS/outdoor"
    hazy, clear = sorted((base / "hazy").iterdir()), sorted((base / "gt").iterdir())
    peers = [(hazy[i % len(hazy)], clear[i % len(clear)]) for i in range(len(hazy))]
    assert not all(belong_together(*pair) for pair in peers)

    assert ours(DehazeDataModule(root=str(tmp_path)).test_set().source)


def test_the_clear_images_suffix_is_not_the_hazy_ones(tmp_path):
    """AdaIR asks for the hazy suffix, SOTS has .jpg against .png."""
    haze.write(tmp_path, "adair", "train")
    base = tmp_path / "data/Train/Dehaze"
    peers = [base / "original" / (p.name.split("_")[0] + p.suffix) for p in (base / "synthetic").rglob("*.jpg")]
    assert peers and not any(path.exists() for path in peers)

    sources = DehazeDataModule(root=str(tmp_path)).train_set()._sources
    assert len(sources["haze"]) == 6 and ours(sources["haze"])


def test_the_word_input_may_stand_in_the_root(tmp_path):
    """PromptIR and AdaIR replace "input" by "target" in the whole path."""
    root = tmp_path / "my_inputs"
    rain.write(root, "promptir", "test")
    lq = next((root / "test/derain/Rain100L/input").iterdir())
    assert not Path(str(lq).replace("input", "target")).exists()

    source = DerainDataModule(root=str(root)).test_set().source
    assert len(source) == 12 and ours(source)


def test_no_prefix_of_the_truth(tmp_path):
    """DFPIR's test looks for target/noX only, PromptIR's for X only; both kinds are about."""
    for layout in ("promptir", "dfpir"):
        root = tmp_path / layout
        rain.write(root, layout, "test")
        assert ours(DerainDataModule(root=str(root)).test_set().source)


def test_bsd400_is_not_dropped_for_want_of_a_letter(tmp_path):
    """PromptIR, AdaIR and DFPIR keep only names in a list that has a117025.jpg; the public name is 117025.jpg (0.4)."""
    noise.write(tmp_path, "promptir", "train")
    listed = {"00001.bmp", "00002.bmp", "a117025.jpg", "a8143.jpg"}
    folder = tmp_path / "Train/Denoise"
    assert len([name for name in os.listdir(folder) if name in listed]) == 3  # 117025.jpg is gone without a message

    assert len(DenoiseDataModule(root=str(tmp_path)).train_set()) == 4


def test_a_count_that_differs_from_the_published_one_is_reported(tmp_path, caplog):
    """Nobody notices that 400 of 5,144 images are missing, or 1 of 200 (rainTrain.txt)."""
    rain.write(tmp_path, "promptir", "train", count=99)
    with caplog.at_level(logging.WARNING):
        DerainDataModule(root=str(tmp_path)).train_set()
    assert "Rain100L (train): 99 pairs, 200 expected" in caplog.text


def test_counts_are_those_of_each_degradation(tmp_path, caplog, monkeypatch):
    """Three noise levels of 68 images are not 204 of 68."""
    noise.write(tmp_path, "instructir", "test")
    monkeypatch.setitem(SETS["noise"].expected, "test", 2)
    with caplog.at_level(logging.WARNING):
        DenoiseDataModule(root=str(tmp_path)).test_set()
    assert "expected" not in caplog.text
    (tmp_path / "denoising_testsets/CBSD68_25/8143.png").unlink()
    with caplog.at_level(logging.WARNING):
        DenoiseDataModule(root=str(tmp_path), on_error="skip").test_set()
    assert "BSD68 (test): 1 pairs of noise_25, 2 expected" in caplog.text and "4 pairs" not in caplog.text


def peers_noise(files: list[Path], sigmas: list[int]) -> dict[tuple[int, str], np.ndarray]:
    """PromptIR and MoCE-IR: one seed for the whole test, images cut to a multiple of 16, 8 bits cut off (2.1)."""
    np.random.seed(0)
    noisy = {}
    for sigma in sigmas:
        for file in files:
            clean = read_rgb(file)
            height, width = (side - side % 16 for side in clean.shape[:2])
            top, left = (clean.shape[0] - height) // 2, (clean.shape[1] - width) // 2
            clean = clean[top : top + height, left : left + width]
            noisy[sigma, file.stem] = np.clip(clean + np.random.randn(*clean.shape) * sigma, 0, 255).astype(np.uint8)
    return noisy


def our_noise(root: Path, **settings) -> dict[tuple[int, str], np.ndarray]:
    samples = DenoiseDataModule(root=str(root), num_workers=0, **settings).test_set()
    made = (samples[index] for index in range(len(samples)))
    return {(int(s["degradation"].split("_")[1]), s["name"]): s["lq"].permute(1, 2, 0).numpy() for s in made}


def test_test_noise_does_not_depend_on_files_order_or_sigmas(tmp_path):
    """The peers' noise of an image depends on the listing's order, on the images before it and on the sigmas run."""
    noise.write(tmp_path, "promptir", "test")
    files = sorted((tmp_path / "test/denoise/bsd68").iterdir())
    peers = peers_noise(files, [15, 25, 50])
    assert (
        peers[25, "8023"] != peers_noise(files[1:] + files[:1], [15, 25, 50])[25, "8023"]
    ).any()  # os.listdir's order
    assert (peers[25, "8023"] != peers_noise(files, [25])[25, "8023"]).any()

    full = our_noise(tmp_path)
    alone = our_noise(tmp_path, test_sigmas=[25])
    files[0].unlink()  # an image less before it
    fewer = our_noise(tmp_path)
    for made in (alone, fewer):
        assert all((made[key] == full[key]).all() for key in made)
    assert len({made.tobytes() for made in full.values()}) == 9  # and no two images share their noise
    residual = full[15, "8023"].astype(float) - scene(1, (32, 48))
    assert 12 < residual[4:].std() < 16  # sigma 15, less what is clipped


def test_the_peers_recipe_is_a_switch(tmp_path):
    noise.write(tmp_path, "promptir", "test")
    save(tmp_path / "test/denoise/bsd68/odd.png", scene(5, (37, 50)))  # to be cut to 32x48
    files = sorted((tmp_path / "test/denoise/bsd68").iterdir())
    for sigmas in ([15, 25, 50], [25]):
        expected = peers_noise(files, sigmas)
        made = our_noise(tmp_path, test_noise="peers", test_sigmas=sigmas)
        assert made.keys() == expected.keys()
        assert all((made[key] == expected[key]).all() for key in made)


def test_tasks_are_balanced_without_repeating_lists(tmp_path):
    """The peers repeat rain 120 times and low light 20 times in memory."""
    rain.write(tmp_path, "moceir", "train", count=2)
    haze.write(tmp_path, "moceir", "train", scenes=10, each=5)
    noise.write(tmp_path, "moceir", "train")
    module = ThreeTaskDataModule(root=str(tmp_path), seed=1)
    samples = module.train_set()
    assert {task: len(source) for task, source in samples._sources.items()} == {"noise": 3, "rain": 2, "haze": 50}
    assert len(samples) == 55
    drawn = [samples._order(position)[0] for position in range(3000)]
    assert all(abs(drawn.count(task) - 1000) < 100 for task in ("noise", "rain", "haze"))
    weighted = ThreeTaskDataModule(root=str(tmp_path), weights={"haze": 2, "rain": 0}).train_set()
    drawn = [weighted._order(position)[0] for position in range(3000)]
    assert drawn.count("rain") == 0 and abs(drawn.count("haze") - 2000) < 100


def test_one_task_of_five_can_be_tested_alone(tmp_path):
    """MoCE-IR's README commands for GoPro and LOL-v1 end in a KeyError."""
    lowlight.write(tmp_path, "moceir", "test")
    assert FiveTaskDataModule(root=str(tmp_path), tasks=["lowlight"]).counts() == {"lowlight": 3}
