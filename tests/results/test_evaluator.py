import csv
import math
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from tests.metrics.golden import degrade, tensor
from unildiff.data.images import read_rgb
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.psnr import psnr
from unildiff.metrics.rows import count_identical, gather_rows, summarise, write_csv
from unildiff.metrics.ssim import ssim
from unildiff.results.evaluator import Evaluator, score_image
from unildiff.results.file_pairs import find_pairs
from unildiff.results.score import score_pairs
from unildiff.utils.errors import UserError

TRUTH = data.astronaut()[:48, :64]


def image(seed):
    return tensor(degrade(TRUTH, seed))[0]


GT = tensor(TRUTH)[0]


def test_rows_are_those_of_score_on_the_saved_files(tmp_path):
    evaluator = Evaluator("unildiff", out_dir=tmp_path / "restored", workers=2)
    (tmp_path / "clear").mkdir()
    for seed in range(6):
        degradation, name = ("low", "rain")[seed % 2], f"image.{seed // 2}"
        evaluator.add(name, degradation, image(seed), GT, lq=image(seed + 10))
        Image.fromarray(TRUTH).save(tmp_path / "clear" / f"{name}.png")
    rows = evaluator.rows()
    assert np.array_equal(read_rgb(tmp_path / "restored" / "low" / "image.1.png"), degrade(TRUTH, 2))
    pairs = find_pairs(tmp_path / "restored", tmp_path / "clear")
    (scored,) = score_pairs(pairs, [PROTOCOLS["unildiff"]], ["psnr", "ssim"], workers=1)
    without_input = [{key: row[key] for key in ("degradation", "name", "psnr", "ssim")} for row in rows]
    assert sorted(without_input, key=lambda row: (row["degradation"], row["name"])) == scored.rows
    assert len(scored.rows) == 6


def test_values_are_the_metrics_and_input_columns_those_of_the_input():
    evaluator = Evaluator("onerestore", ["ssim", "psnr", "gmsd"])
    evaluator.add("a", "haze", image(0), GT, lq=image(1))
    (row,) = evaluator.rows()
    assert list(row) == ["degradation", "name", "ssim", "psnr", "gmsd", "input_ssim", "input_psnr", "input_gmsd"]
    protocol = PROTOCOLS["onerestore"]
    assert row["psnr"] == psnr(image(0)[None], GT[None], protocol).item()
    assert row["input_ssim"] == ssim(image(1)[None], GT[None], protocol).item()


def test_rows_come_in_the_order_of_adding_and_csv_holds_them(tmp_path):
    evaluator = Evaluator("onerestore", workers=3)
    for seed in (3, 1, 2):
        evaluator.add(str(seed), "low", image(seed), GT)
    evaluator.add("same", "low", GT, GT)
    evaluator.write_csv(tmp_path / "deep" / "rows.csv")
    with (tmp_path / "deep" / "rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["3", "1", "2", "same"]
    assert list(lines[0]) == ["name", "degradation", "psnr", "ssim"]
    for line, row in zip(lines, evaluator.rows(), strict=True):
        assert float(line["psnr"]) == pytest.approx(row["psnr"], rel=1e-9)
    assert lines[3]["psnr"] == "inf"


def test_without_degradations_the_csv_has_names_and_metrics_only(tmp_path):
    write_csv([{"degradation": "", "name": "a,b", "psnr": 1 / 3, "lpips": None}], tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == 'name,psnr,lpips\n"a,b",0.3333333333,\n'


def test_a_name_may_come_once_in_a_degradation():
    evaluator = Evaluator()
    evaluator.add("a", "low", GT, GT)
    evaluator.add("a", "rain", GT, GT)
    with pytest.raises(ValueError, match="low/a was added before"):
        evaluator.add("a", "low", GT, GT)


@pytest.mark.parametrize("bad", [GT / 255, GT[:, 1:], GT[:1], GT[None]], ids=["float", "size", "grey", "batch"])
def test_only_images_of_8_bits_are_taken(bad):
    with pytest.raises(ValueError, match=r"low/a: expected uint8 \(3, H, W\)"):
        Evaluator().add("a", "low", bad, GT)


def test_an_image_too_small_is_reported(tmp_path):
    evaluator = Evaluator("basicsr-y")
    evaluator.add("a", "low", GT[:, :10], GT[:, :10])
    with pytest.raises(UserError, match=r"cannot score low/a: .* smaller than the 11x11 SSIM window"):
        evaluator.rows()


def test_a_folder_that_cannot_be_written_stops_the_run_early(tmp_path):
    (tmp_path / "out").write_text("a file in the way")
    evaluator = Evaluator(out_dir=tmp_path / "out")
    with pytest.raises(UserError, match="not a folder but a file"):
        for name in range(100):  # not only after the last image
            evaluator.add(str(name), "low", GT, GT)


def test_adding_waits_rather_than_filling_memory(monkeypatch):
    gate, begun = threading.Event(), []

    def slow(*args, **kwargs):
        begun.append(1)
        gate.wait(20)
        return score_image(*args, **kwargs)

    monkeypatch.setattr("unildiff.results.evaluator.score_image", slow)
    evaluator = Evaluator(metrics=["psnr"], workers=1)
    added = []

    def add_all():
        for name in range(40):
            evaluator.add(str(name), "low", GT, GT)
            added.append(name)

    thread = threading.Thread(target=add_all)
    thread.start()
    thread.join(0.3)
    assert len(added) == 8 and len(begun) == 1
    gate.set()
    thread.join(20)
    assert len(evaluator.rows()) == 40


def test_fid_is_refused_with_the_command_that_computes_it():
    with pytest.raises(UserError, match=r"computed over a whole set.*unildiff score"):
        Evaluator(metrics=["psnr", "fid"])


ROWS = [
    {"degradation": "low", "name": "a", "psnr": 20.0, "lpips": None},
    {"degradation": "low", "name": "b", "psnr": math.inf, "lpips": None},
    {"degradation": "low", "name": "c", "psnr": 30.0, "lpips": None},
    {"degradation": "rain", "name": "a", "psnr": 35.0, "lpips": None},
]


def test_summary_by_hand():
    summary = summarise(ROWS)
    assert list(summary) == ["low", "rain", "avg"]
    assert summary["low"] == {"psnr": 25.0, "lpips": None, "count": 3}  # infinite left out, counted
    assert summary["rain"] == {"psnr": 35.0, "lpips": None, "count": 1}
    assert summary["avg"] == {"psnr": 30.0, "lpips": None, "count": 4}  # over degradations; 28.3 over images
    assert summarise(ROWS[1:2])["low"]["psnr"] == math.inf
    assert summarise([]) == {"avg": {"count": 0}}


def test_identical_images_are_counted():
    assert count_identical(ROWS, PROTOCOLS["onerestore"]) == 1
    capped = [{"degradation": "", "name": "a", "psnr": value} for value in (80.0, 79.99, None)]
    assert count_identical(capped, PROTOCOLS["unildiff"]) == 1


def test_gathering_in_one_process_sorts_and_keeps_a_repeated_image_once():
    gathered = gather_rows([ROWS[3], ROWS[0], ROWS[3]])
    assert gathered == [ROWS[0], ROWS[3]]
    with pytest.raises(ValueError, match="two ranks scored"):
        gather_rows([ROWS[0], {**ROWS[0], "psnr": 21.0}])


def test_scoring_leaves_the_images_alone():
    before = image(0)
    evaluator = Evaluator(metrics=["psnr", "ssim", "gmsd"])
    evaluator.add("a", "low", before, GT)
    evaluator.rows()
    assert torch.equal(before, image(0)) and torch.equal(GT, tensor(TRUTH)[0])
