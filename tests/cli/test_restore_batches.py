"""Batches: skipping by the manifest, shards, interruptions, several devices; a mistake costs no import of torch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.commands.restore import command_line, restore
from unildiff.cli.main import main
from unildiff.diffusion.sampler import SMALLEST_TILE
from unildiff.restoring.jobs import result_names, shard
from unildiff.restoring.options import RestoreOptions
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_model(small_model(), folder, torch.float32)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run(photos: Path, out: Path, weights: Path, *more: object) -> int:
    fixed = ["--model", str(weights), "--num_inference_steps", "1", "--device", "cpu"]
    return main(["restore", str(photos), str(out), *fixed, *map(str, more)])


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.png"))}


def entries(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_the_manifest_decides_what_is_skipped(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, out, weights) == 0
    first = results(out)
    assert len(first) == 5 and len(entries(out)) == 5
    assert {"input_hash", "output_hash", "settings", "seconds", "peak_memory_mb", "warnings"} <= set(entries(out)[0])
    assert run(photos, out, weights) == 0
    assert "0 of 5 images restored" in capsys.readouterr().out.splitlines()[-1] and len(entries(out)) == 5
    Image.new("RGB", (24, 32), "red").save(photos / "0.png")  # another content
    (out / "1.png").write_bytes(b"damaged")
    (out / "2.png").unlink()
    os.utime(photos / "3.png")  # another time, the same content
    assert run(photos, out, weights) == 0
    assert "3 of 5 images restored" in capsys.readouterr().out
    after = results(out)
    assert {name for name in after if after[name] != first[name]} == {"0.png"}
    assert run(photos, out, weights, "--seed", 1) == 0  # other settings
    assert "5 of 5 images restored" in capsys.readouterr().out


def test_results_of_an_older_version_stay_done(photos: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, out, weights) == 0
    younger = {"vae_tile", "timestep_spacing", "in_doubt"}
    before = entries(out)
    for entry in before:
        settings: dict[str, object] = entry["settings"]  # type: ignore[assignment]
        entry["settings"] = {key: value for key, value in settings.items() if key not in younger}
    (out / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in before))
    assert run(photos, out, weights) == 0 and len(entries(out)) == 5
    assert run(photos, out, weights, "--timestep_spacing", "linspace") == 0 and len(entries(out)) == 10


def test_files_of_others_are_not_replaced(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "3.png").write_text("mine")
    assert run(photos, out, weights) == 2
    assert "3.png exists and was not written by restore (1 such files)" in capsys.readouterr().err
    assert results(out) == {"3.png": b"mine"}
    assert run(photos, out, weights, "--overwrite") == 0 and results(out)["3.png"] != b"mine"


def test_shards_give_what_one_run_gives_whatever_their_number(photos: Path, weights: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "one", weights) == 0
    assert run(photos, tmp_path / "many", weights, "--shard", "1/3") == 0
    assert len(results(tmp_path / "many")) == 2
    for part in ("1/2", "2/2"):
        assert run(photos, tmp_path / "many", weights, "--shard", part) == 0
    assert results(tmp_path / "many") == results(tmp_path / "one")
    assert len([entry for entry in entries(tmp_path / "many") if "output_hash" in entry]) == 5  # none was made twice


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "9"}, (0, 1)),  # the batch script itself
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0"}, (1, 2)),
        ({"RANK": "2", "WORLD_SIZE": "8"}, (2, 8)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
            },
            (3, 6),
        ),
    ],
)
def test_shards_from_the_environment(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert shard(None, environment)[:2] == expected
    assert shard("2/5", environment)[:2] == (1, 5)


def test_a_broken_file_is_repeated_and_named_in_the_manifest(photos: Path, weights: Path, tmp_path: Path) -> None:
    whole = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(whole[:100])
    out = tmp_path / "out"
    assert run(photos, out, weights) == 3
    assert [entry["input"] for entry in entries(out) if "error" in entry] == ["2.png"]
    (photos / "2.png").write_bytes(whole)
    assert run(photos, out, weights) == 0 and len(results(out)) == 5


def test_images_of_one_size_go_through_together(photos: Path, weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(photos / "1b.png")
    assert run(photos, tmp_path / "one", weights) == run(photos, tmp_path / "four", weights, "--batch-size", 4) == 0
    for name, data in results(tmp_path / "one").items():
        with Image.open(tmp_path / "one" / name) as one, Image.open(tmp_path / "four" / name) as four:
            assert np.abs(np.array(one).astype(int) - np.array(four)).max() <= 1, (name, len(data))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_whole_files_and_is_completed(
    number: int, code: int, photos: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for copy in range(12):
        shutil.copy(photos / "0.png", photos / f"copy{copy}.png")
    command = [sys.executable, "-m", "unildiff", "restore", str(photos), str(out), "--model", str(weights)]
    command += ["--num_inference_steps", "40", "--device", "cpu"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored, children too
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    while process.poll() is None and len(results(out)) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and b"Traceback" not in errors
    assert 2 <= len(results(out)) < 17 and not list(out.rglob("*.part"))
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    assert main(["restore", *command[4:]]) == 0
    copies = {data for name, data in results(out).items() if name.startswith("copy")}
    assert len(results(out)) == 17 and copies == {results(out)["0.png"]}


def test_two_processes_on_one_machine(photos: Path, weights: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "one", weights) == 0
    command = [sys.executable, "-m", "unildiff", "restore", str(photos), str(tmp_path / "two"), "--model", str(weights)]
    done = subprocess.run(
        [*command, "--num_inference_steps", "1", "--devices", "cpu,cpu"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "part 2 of 2" in done.stderr and results(tmp_path / "two") == results(tmp_path / "one")


def test_file_names_that_are_not_utf8(photos: Path, weights: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    os.replace(photos / "0.png", photos / name)
    assert run(photos, tmp_path / "out", weights) == 0
    assert name in os.listdir(tmp_path / "out")
    assert run(photos / name, tmp_path / name, weights) == 0 and (tmp_path / name).is_file()
    (photos / name).write_bytes(b"broken")
    assert run(photos, tmp_path / "out", weights) == 3


def test_a_mistake_costs_no_import_of_torch(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    wrong = [
        ["nowhere", "out"],
        ["a.png", "out", "--seed", "-1"],
        ["a.png", "out", "--tile-size", "7"],
        ["a.png", "out", "--model", "nothing"],
        ["a.png", "out", "--num-inference-steps", "1001"],
        ["a.png", "out", "--shard", "3/2"],
        ["a.png", "a.png"],
    ]
    code = (
        "import sys; from unildiff.cli.main import main; "
        f"codes = [main(['restore', *each]) for each in {wrong!r}]; "
        "print(codes, [name for name in ('torch', 'numpy', 'cv2', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{[2] * len(wrong)} []"
    assert len(done.stderr.splitlines()) == len(wrong)


def test_one_file_that_is_no_image_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("a: 1")
    code = "import sys; from unildiff.cli.main import main; print(main(['restore', 'words.yaml', 'out']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" and "unreadable image: words.yaml" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_of_another_process_has_the_same_options(tmp_path: Path) -> None:
    given = {name: parameter.default for name, parameter in signature(restore).parameters.items()}
    given |= {"src": Path("my photos"), "out": Path("out"), "seed": 3, "provenance": False, "memory": "8GB"}
    python, flag, package, *arguments = command_line(given | {"device": "cuda:1", "shard": "2/4"})
    assert [python, flag, package] == [sys.executable, "-m", "unildiff"]
    assert arguments[:3] == ["restore", "my photos", "out"]
    assert sorted(arguments[3:]) == ["--device=cuda:1", "--memory=8GB", "--provenance=false", "--seed=3", "--shard=2/4"]


def test_names_of_results() -> None:
    assert result_names(["a.JPG", "b.gif", "c/d.tiff"]) == ["a.JPG", "b.png", "c/d.tiff"]
    assert result_names(["a.gif", "a.png", "a.bmp"]) == ["a.gif.png", "a.png", "a.bmp.png"]
    assert result_names(["a.png", "a.tif"], "jpg") == ["a.png.jpg", "a.tif.jpg"]
    assert result_names(["a.jpeg"], "jpg") == ["a.jpeg"]


def test_the_smallest_tile_is_the_samplers() -> None:
    RestoreOptions(tile_size=SMALLEST_TILE)
    with pytest.raises(UserError, match="tile_size is 127"):
        RestoreOptions(tile_size=SMALLEST_TILE - 1)
