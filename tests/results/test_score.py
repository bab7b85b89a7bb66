import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from tests.metrics.golden import degrade
from unildiff.cli.commands.score import score
from unildiff.cli.main import main
from unildiff.metrics.fid import FID
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.results.file_pairs import find_pairs
from unildiff.results.score import score_pairs
from unildiff.results.workers import process_count
from unildiff.utils.errors import UserError

GROUND_TRUTHS = {name: getattr(data, name)()[:48, 40:104] for name in ("astronaut", "chelsea", "coffee")}


def write(folder, images, suffix="png"):
    folder.mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.{suffix}")
    return folder


@pytest.fixture
def flat(tmp_path):
    """(restored, clean): three images each."""
    restored = {name: degrade(truth, seed) for seed, (name, truth) in enumerate(GROUND_TRUTHS.items())}
    return write(tmp_path / "restored", restored), write(tmp_path / "clean", GROUND_TRUTHS)


@pytest.fixture
def nested(tmp_path):
    """(restored with low/ and rain/ and the clean images beside them, clean)."""
    for seed, degradation in enumerate(("low", "rain")):
        write(tmp_path / "set" / degradation, {name: degrade(t, seed * 9) for name, t in GROUND_TRUTHS.items()})
    return tmp_path / "set", write(tmp_path / "set" / "clear", GROUND_TRUTHS)


def test_table_and_csv_hold_what_scikit_image_says(flat, tmp_path, capsys):
    score(*flat, protocol="onerestore", csv=tmp_path / "out" / "scores.csv")
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "psnr", "ssim"]
    assert [row["name"] for row in rows] == sorted(GROUND_TRUTHS)
    for seed, (name, truth) in enumerate(GROUND_TRUTHS.items()):
        (row,) = (row for row in rows if row["name"] == name)
        restored = degrade(truth, seed)
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(truth, restored), abs=1e-6)
        assert float(row["ssim"]) == pytest.approx(structural_similarity(truth, restored, channel_axis=2), abs=1e-6)
    mean = np.mean([float(row["psnr"]) for row in rows])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{flat[0]} against {flat[1]}"
    assert lines[2].split() == ["PSNR", "SSIM", "images"]
    assert lines[3].split()[:2] == ["average", f"{mean:.2f}"] and lines[3].split()[-1] == "3"
    assert lines[5] == f"protocol {PROTOCOLS['onerestore']}"


def test_folders_of_degradations_have_a_line_each_and_the_clean_folder_none(nested, tmp_path, capsys):
    score(*nested, csv=tmp_path / "scores.csv", json=tmp_path / "scores.json")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["low", "rain", "average"]
    assert [line.split()[-1] for line in lines[3:6]] == ["3", "3", "6"]
    assert (tmp_path / "scores.csv").read_text().splitlines()[0] == "name,degradation,psnr,ssim"
    result = json.loads((tmp_path / "scores.json").read_text())
    # folders of CDD-11 are scored as `unildiff test` scores CDD-11
    assert result["count"] == 6 and result["results"][0]["protocol"]["name"] == "onerestore"
    assert result["results"][0]["summary"]["rain"]["count"] == 3
    assert {row["degradation"] for row in result["results"][0]["images"]} == {"low", "rain"}


def test_all_protocols_side_by_side(flat, tmp_path, capsys):
    score(*flat, protocol="all", csv=tmp_path / "scores.csv", json=tmp_path / "scores.json")
    out = capsys.readouterr().out
    for protocol in PROTOCOLS.values():
        assert str(protocol) in out
    heads = [line.split() for line in out.splitlines() if line.split()[:1] in (["PSNR"], ["SSIM"])]
    assert [head[1:] for head in heads] == [[*PROTOCOLS, "images"]] * 2
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, protocol in PROTOCOLS.items():
        (alone,) = score_pairs(find_pairs(*flat), [protocol], ["psnr", "ssim"], workers=1)
        assert float(rows[0][f"{name}/ssim"]) == pytest.approx(alone.rows[0]["ssim"], abs=1e-9)
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert [result["protocol"]["name"] for result in results] == list(PROTOCOLS)


def test_identical_images_are_counted_in_the_table_and_valid_json(flat, tmp_path, capsys):
    score(flat[1], flat[1], protocol="onerestore", json=tmp_path / "scores.json")
    out = capsys.readouterr().out
    assert "inf" in out and "left out of mean PSNR (3 of 3 here)" in out
    result = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)["results"][0]
    assert result["identical"] == 3 and result["images"][0]["psnr"] is None


def test_processes_give_the_rows_of_one(nested):
    pairs = find_pairs(*nested)
    one, two = (score_pairs(pairs, list(PROTOCOLS.values())[:2], ["psnr", "ssim"], workers=n) for n in (1, 2))
    assert [scored.rows for scored in one] == [scored.rows for scored in two]


def test_from_the_command_line(flat, capsys):
    folders = [str(folder) for folder in flat]
    assert main(["score", *folders, "--protocol", "moceir", "--metrics", "ssim", "psnr"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["SSIM", "PSNR", "images"]
    assert main(["score", *folders, "--protocol", "mocier"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unildiff: error: unknown protocol 'mocier': did you mean 'moceir'?")
    assert error.count("\n") == 1


def test_processes_are_as_many_as_are_asked_for_or_worth_it(monkeypatch):
    monkeypatch.setattr("unildiff.results.workers.cores", lambda: 4)
    asked = [process_count(workers, images) for workers, images in ((0, 10), (0, 100), (0, 1000), (3, 5))]
    assert asked == [1, 3, 4, 3]


def test_a_metric_without_weights_leaves_a_dash_and_an_empty_column(flat, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    score(*flat, metrics=["psnr", "niqe"], csv=tmp_path / "scores.csv")
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[-2:] == ["-", "3"]
    assert lines[-1].startswith("niqe: left empty, needs a package")
    assert all(line.endswith(",") for line in (tmp_path / "scores.csv").read_text().splitlines()[1:])


class MeanColour(nn.Module):
    num_features = 3

    def forward(self, x):
        return x.double().mean((2, 3)) / 255


def test_fid_has_a_number_for_each_set(nested, capsys, monkeypatch):
    def with_colours(protocol):
        metric = FID(protocol, feature=MeanColour())
        metric.set_dtype(torch.float64)
        return metric

    monkeypatch.setattr("unildiff.metrics.fid.FID", with_colours)
    pairs = find_pairs(*nested)
    (scored,) = score_pairs(pairs, [PROTOCOLS["onerestore"]], ["psnr", "fid"], workers=1)
    low, rain, average = (scored.summary[key]["fid"] for key in ("low", "rain", "avg"))
    assert low != rain and average == pytest.approx((low + rain) / 2)
    assert list(scored.rows[0]) == ["degradation", "name", "psnr"]  # no number for an image


def test_suffixes_may_differ(flat):
    shutil.rmtree(flat[0])
    write(flat[0], GROUND_TRUTHS, suffix="jpg")
    assert [pair.restored.suffix for pair in find_pairs(*flat)] == [".jpg"] * 3


@pytest.mark.parametrize(
    ("rule", "restored", "clean"),
    [
        ("exact", ["a.b", "c"], ["a.b", "c"]),
        ("prefix", ["0001_0.8_0.2", "0001_1_0.1", "0002_1_0.1"], ["0001", "0002"]),
        ("no-prefix", ["rain-1", "rain-2"], ["norain-1", "norain-2"]),
    ],
)
def test_names_lead_to_their_ground_truth_by_the_rule(tmp_path, rule, restored, clean):
    grey = np.zeros((8, 8, 3), np.uint8)
    folders = [
        write(tmp_path / folder, dict.fromkeys(names, grey)) for folder, names in (("r", restored), ("c", clean))
    ]
    pairs = find_pairs(*folders, rule=rule)
    assert [pair.name for pair in pairs] == restored
    assert [pair.gt.stem for pair in pairs] == (clean if rule != "prefix" else ["0001", "0001", "0002"])


def test_ground_truths_may_be_in_folders_of_the_same_names(tmp_path):
    for name in ("haze", "noise_25"):
        write(tmp_path / "r" / name, {"a": np.zeros((8, 8, 3), np.uint8)})
        write(tmp_path / "c" / name, {"a": np.zeros((8, 8, 3), np.uint8)})
    pairs = find_pairs(tmp_path / "r", tmp_path / "c")
    assert [(pair.degradation, pair.gt.parent.name) for pair in pairs] == [("haze",) * 2, ("noise_25",) * 2]


def one_line(*arguments, **options):
    with pytest.raises(UserError) as caught:
        score(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_left_over_images_are_named(flat):
    (flat[0] / "coffee.png").rename(flat[0] / "tea.png")
    message = one_line(*flat)
    assert f"1 in {flat[0]} have no ground truth in {flat[1]}: tea" in message
    assert f"1 of {flat[1]} are missing in {flat[0]}: coffee" in message
    assert "--rule (now exact)" in message


def test_many_missing_images_are_counted(tmp_path):
    grey = np.zeros((8, 8, 3), np.uint8)
    folders = write(tmp_path / "r", {"00": grey}), write(tmp_path / "c", {f"{i:02}": grey for i in range(20)})
    assert "19 of" in one_line(*folders) and "05 and 14 more" in one_line(*folders)


def test_images_of_another_size_are_named(flat):
    Image.fromarray(GROUND_TRUTHS["coffee"][:, :-1]).save(flat[0] / "coffee.png")
    message = one_line(*flat)
    assert "1 images differ in size" in message and "coffee.png is 63x48" in message and "64x48" in message


def test_a_broken_image_is_named(flat):
    whole = (flat[0] / "coffee.png").read_bytes()
    (flat[0] / "coffee.png").write_bytes(whole[: len(whole) // 2])
    assert "coffee.png" in one_line(*flat)


def test_an_image_too_small_is_named(tmp_path):
    small = {"tiny": np.zeros((12, 40, 3), np.uint8)}
    folders = write(tmp_path / "r", small), write(tmp_path / "c", small)
    assert "tiny.png: image of 12x40 is too small for protocol 'unildiff'" in one_line(*folders)


def test_other_mistakes_get_one_line(flat, tmp_path):
    assert "did you mean 'moceir'" in one_line(*flat, protocol="mocer")
    assert "did you mean 'ssim'" in one_line(*flat, metrics=["sim"])
    assert "no such folder" in one_line(tmp_path / "nowhere", flat[1])
    assert "empty folder" in one_line(flat[0], write(tmp_path / "empty", {}))
    (tmp_path / "hollow" / "folder").mkdir(parents=True)
    assert "no images in" in one_line(tmp_path / "hollow", flat[1])
    write(flat[0] / "low", GROUND_TRUTHS)
    assert "both images and folders of images" in one_line(*flat)
    (flat[1] / "coffee.jpg").write_bytes((flat[1] / "coffee.png").read_bytes())
    shutil.rmtree(flat[0] / "low")
    assert "two images of one name" in one_line(*flat)
