"""The folder of a test: files, refusals and notes. Images are invented; no model is needed."""

import csv
import json
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from tests.processes import process_context
from unildiff.data.batch import RestorationBatch
from unildiff.results.blindness import told_degradations
from unildiff.results.runs import load_run
from unildiff.results.tables import build_table
from unildiff.stages.settings import EvaluationSettings
from unildiff.stages.testing import TestRun, means_text
from unildiff.utils.errors import UserError

IMAGES = [("low", "a"), ("low", "b"), ("low", "c"), ("haze", "a"), ("haze", "b"), ("haze", "c")]


def batch_of(index: int, caption: str = "a cat") -> tuple[RestorationBatch, dict[str, torch.Tensor]]:
    """Return a test batch of one image and its restored versions."""
    degradation, name = IMAGES[index]
    noise = torch.Generator().manual_seed(index)
    gt = torch.randint(0, 200, (1, 3, 20, 24), generator=noise, dtype=torch.uint8)
    lq, restored = gt + 40, gt + 2 + index
    made: RestorationBatch = {
        "lq": lq,
        "gt": gt,
        "caption": [caption],
        "degradation": [degradation],
        "name": [name],
        "key": torch.tensor([index]),
    }
    return made, {"restored": restored, "no_diffusion": lq}


def about(**changes) -> dict:
    known = {"model": "made up", "data": "cdd11", "data_kind": "sample", "blind": True, "seed": 0}
    return known | {"count": {"low": 3, "haze": 3}} | changes


def run_test(folder: Path, indices=range(6), captions=None, settings=None, **changes):
    run = TestRun(folder, settings or EvaluationSettings(stages=["no_diffusion"]), "onerestore")
    for index in indices:
        with run.timed():
            made, images = batch_of(index, (captions or {}).get(index, "a cat"))
        run.add(made, images)
    return run, run.finish(about(**changes))


def test_a_folder_that_becomes_a_table(tmp_path):
    run, rows = run_test(tmp_path)
    for index, row in enumerate(rows):
        made, images = batch_of(IMAGES.index((row["degradation"], row["name"])))
        truth, restored = made["gt"][0].numpy(), images["restored"][0].numpy()
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, restored, data_range=255), abs=1e-9), index
    assert run.notes == []
    loaded = load_run(tmp_path)
    assert loaded.blind and loaded.info["protocol"] == "onerestore" and loaded.info["peak_memory_mib"] > 0
    assert [stage.label for stage in loaded.stages] == ["LQ latent, no diffusion"]
    assert all(loaded.image(kind, index) for kind in ("input", "restored", "truth") for index in range(6))
    assert means_text(rows).splitlines()[-1].split()[-1] == "6"


def test_memory_and_time_are_those_of_the_device_that_restores(tmp_path, monkeypatch):
    """On a machine with a GPU, a test on the CPU reports the CPU's memory and time."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pytest.fail("waited for a GPU"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    run_test(tmp_path)
    assert load_run(tmp_path).info["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("indices", "count"),
    [(range(5), {"low": 3, "haze": 3}), (range(6), {"low": 3}), (range(6), {"low": 3, "haze": 3, "rain": 3})],
)
def test_another_number_of_images_than_the_data_has_is_an_error(tmp_path, indices, count):
    with pytest.raises(UserError, match="no table is written"):
        run_test(tmp_path, indices, count=count)
    assert not (tmp_path / "run.json").exists() and not (tmp_path / "scores.csv").exists()


def test_captions_that_name_the_degradation_make_a_test_not_blind(tmp_path):
    # Two of the three low images are called dark; one hazy image of three is called dark, which it is not.
    run, _ = run_test(tmp_path / "told", captions={0: "a dark room", 1: "A dimly lit cat", 3: "a dark room"})
    loaded = load_run(tmp_path / "told")
    assert not loaded.blind and "captions name it, low (in 2 of 3)" in run.notes[0]
    table = build_table("table2", [loaded])
    assert table.labels[table.kinds.index("run")].endswith("†")
    assert run.notes[0] in table.notes and any(note.startswith("† was told") for note in table.notes)
    run_test(tmp_path / "chance", captions={0: "a man in a dark coat", 1: "snow on a roof"})
    assert load_run(tmp_path / "chance").blind


@pytest.mark.parametrize(
    ("degradation", "caption", "told"),
    [
        ("noise_25", "a noisy image of a dog", True),
        ("haze_rain", "a street in the rain", True),
        ("haze_rain", "a street in the snow", False),
        ("raindrop", "raindrops on a window", True),
        ("blur", "a train", False),
        ("toled", "a blurry dog", False),
        ("low", "a lowland", False),
        ("lowlight", "an underexposed kitchen", True),
    ],
)
def test_words_of_a_degradation(degradation, caption, told):
    assert bool(told_degradations([(degradation, caption)])) is told


def test_the_user_can_declare_that_the_degradation_was_known(tmp_path):
    run, _ = run_test(tmp_path / "a", settings=EvaluationSettings(told=True))
    assert not load_run(tmp_path / "a").blind and "(--model.evaluation.told)" in run.notes[0]
    run_test(tmp_path / "b", blind=False)  # a data set that reveals it
    assert not load_run(tmp_path / "b").blind


def test_a_metric_without_weights_leaves_its_column_empty_with_a_note(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    run, _ = run_test(tmp_path / "run", settings=EvaluationSettings(metrics=["psnr", "ssim", "gmsd", "lpips"]))
    assert run.notes[0].startswith("LPIPS (alex) is left empty: its weights could not be fetched")
    with (tmp_path / "run" / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["lpips"] for line in lines} == {""} and all(float(line["gmsd"]) >= 0 for line in lines)
    table = build_table("table2", [load_run(tmp_path / "run")])
    also = dict(table.header[0][1])["also"]
    assert "LPIPS (alex) - (input -)" in also and also.startswith("GMSD 0.")
    assert run.notes[0] in table.notes


def test_a_metric_of_sets_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"fid is computed over a whole set.*unildiff score"):
        TestRun(tmp_path, EvaluationSettings(metrics=["psnr", "fid"]), "onerestore")


def rank_main(rank: int, folder: Path) -> None:
    """Run one of two ranks on every second image, as the sampler distributes them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    captions = {0: "a dark room", 1: "a dark room"}  # one on each rank
    _, rows = run_test(folder / "two", range(rank, 6, 2), captions)
    (folder / f"{rank}.json").write_text(json.dumps(means_text(rows)))
    torch.distributed.destroy_process_group()


def test_two_ranks_write_and_print_the_table_of_one(tmp_path):
    context = process_context()
    processes = [context.Process(target=rank_main, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    _, rows = run_test(tmp_path / "one", captions={0: "a dark room", 1: "a dark room"})
    printed = {json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)}
    assert printed == {means_text(rows)}
    for name in ("scores.csv", "scores_no_diffusion.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    one, two = (json.loads((tmp_path / each / "run.json").read_text()) for each in ("one", "two"))
    measured = ("time_per_picture_s", "peak_memory_mib")
    assert {k: v for k, v in one.items() if k not in measured} == {k: v for k, v in two.items() if k not in measured}
    assert len(list((tmp_path / "two" / "restored").rglob("*.png"))) == 6 and os.path.isdir(tmp_path / "two" / "truth")


@pytest.mark.parametrize(
    ("captions", "share", "effective", "note"),
    [
        ({}, 1.0, 5.0, None),
        (dict.fromkeys(range(6), ""), 0.0, 1.0, "No image has a caption, so guidance 5 had no effect"),
        (
            dict.fromkeys(range(3), ""),
            0.5,
            5.0,
            "50% of the images have a caption; guidance 5 had an effect on these only",
        ),
    ],
)
def test_missing_captions_are_reported(tmp_path, captions, share, effective, note):
    run, _ = run_test(tmp_path, captions=captions, guidance_scale=5.0)
    info = json.loads((tmp_path / "run.json").read_text())
    assert (info["captioned_share"], info["effective_guidance"]) == (share, effective)
    assert info["guidance_scale"] == 5.0 and run.notes == info["notes"]
    assert any(note in line for line in run.notes) if note else run.notes == []
