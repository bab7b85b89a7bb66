"""Sets in CDD-11's layout: the operators' results under names of their own, whatever the order, processes or interruptions."""

import contextlib
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.data.captions import Captions
from unildiff.data.images import read_rgb
from unildiff.data.tools import synthesize as module
from unildiff.data.tools.synthesize import synthesize
from unildiff.data.tools.synthesize_inputs import Sources, read_map
from unildiff.degradations.cdd11 import degrade
from unildiff.degradations.names import DEGRADATIONS
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads instead of processes, whose start would take longer than all the rest; one test below uses the real ones."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda count, context, start: ThreadPoolExecutor(count))


def image(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    for number, name in enumerate(("a.png", "b.bmp", "c.png")):
        write(folder / name, image(number, width=50 + number))
    lines = [{"file": "a.png", "caption": "blobs", "model": "me"}, {"file": "b.bmp", "caption": "more blobs"}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    rng = np.random.default_rng(9)
    for number, name in enumerate("abc"):
        grey = image(20 + number)[..., 0]
        write(tmp_path / "light" / f"{name}.jpg", np.stack([grey] * 3, axis=2))
        (tmp_path / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / "depth" / f"{name}.npy", rng.random((40, 50 + number)))
        write(tmp_path / "rain" / f"{number}.png", image(30 + number)[..., 0] // 3)
        write(tmp_path / "snow" / f"{number}.png", image(40 + number)[..., 0] // 3)
    return Sources(*(tmp_path / kind for kind in ("depth", "light", "rain", "snow")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_is_what_the_operators_make(clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert synthesize(clean, out, seed=3) == 3
    drawn = {line["name"]: line for line in map(json.loads, (out / "train/parameters.jsonl").read_text().splitlines())}
    assert sorted(path.name for path in (out / "train").iterdir() if path.is_dir()) == sorted(["clear", *DEGRADATIONS])
    for file in ("a.png", "b.bmp", "c.png"):
        name, clear = file[0], read_rgb(clean / file)
        np.testing.assert_array_equal(read_rgb(out / f"train/clear/{name}.png"), clear)
        for degradation in DEGRADATIONS:
            expected = degrade(clear, degradation, sample_key(3, name, degradation))
            np.testing.assert_array_equal(read_rgb(out / f"train/{degradation}/{name}.png"), expected.image)
            assert drawn[name][degradation] == expected.parameters  # numbers, and "estimated" or "generated"


def test_maps_and_masks_are_used(clean: Path, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(clean, out, seed=3, sources=sources)
    drawn = json.loads((out / "train/parameters.jsonl").read_text().splitlines()[0])["low_haze_rain"]
    assert (drawn["depth"], drawn["illumination"]) == ("a.npy", "a.jpg")
    rain = np.asarray(Image.open(sources.rain / drawn["rain"]).resize((50, 40), Image.Resampling.BILINEAR), np.float32)
    light = np.asarray(Image.open(sources.light / "a.jpg").convert("L").resize((50, 40), Image.Resampling.BILINEAR))
    expected = degrade(
        read_rgb(clean / "a.png"),
        "low_haze_rain",
        sample_key(3, "a", "low_haze_rain"),
        depth=np.load(sources.depth / "a.npy").astype(np.float32),
        illumination=light.astype(np.float32) / 255,
        rain_mask=rain / 255,
    ).image
    made = read_rgb(out / "train/low_haze_rain/a.png")
    # Pillow's reduction of the maps from 56 to 50 columns is antialiased, OpenCV's is not: close, not equal
    assert np.abs(made.astype(int) - expected).mean() < 1.5
    without = read_rgb_of(clean, tmp_path, "low_haze_rain")
    assert np.abs(made.astype(int) - without).mean() > 5


def read_rgb_of(clean: Path, tmp_path: Path, degradation: str) -> np.ndarray:
    synthesize(clean, tmp_path / "without", seed=3)
    return read_rgb(tmp_path / "without" / "train" / degradation / "a.png")


def test_an_image_depends_on_its_name_and_the_seed_alone(clean: Path, tmp_path: Path) -> None:
    synthesize(clean, tmp_path / "all", seed=3)
    synthesize(clean, tmp_path / "other", seed=4)
    (clean / "a.png").unlink()
    write(clean / "z.png", image(7))
    synthesize(clean, tmp_path / "fewer", seed=3)
    for degradation in DEGRADATIONS:
        same = [(tmp_path / out / "train" / degradation / "b.png").read_bytes() for out in ("all", "fewer", "other")]
        assert same[0] == same[1] != same[2]
    twins = clean.parent / "twins"
    for name in "ab":
        write(twins / f"{name}.png", image(0))
    synthesize(twins, tmp_path / "twin", seed=3)
    for degradation in DEGRADATIONS:
        a, b = ((tmp_path / f"twin/train/{degradation}/{name}.png").read_bytes() for name in "ab")
        assert a != b


def test_processes_make_the_same(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize(clean, tmp_path / "one", seed=3, processes=1)
    monkeypatch.undo()
    synthesize(clean, tmp_path / "two", seed=3, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_interrupted_is_not_readable_and_is_resumed(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(clean, tmp_path / "whole", seed=3)
    out, real, made = tmp_path / "out", module.make_scene, []

    def stops(scene):
        if scene.name == "b" and not made:
            raise KeyboardInterrupt
        return real(scene)

    monkeypatch.setattr(module, "make_scene", stops)
    with pytest.raises(KeyboardInterrupt):
        synthesize(clean, out, seed=3, processes=1)
    assert not (out / "train").exists() and not (out / "README.md").exists()
    with pytest.raises(UserError, match=r"made was started with other settings \(seed 3, not 4\); delete it"):
        synthesize(clean, out, seed=4)

    def counts(scene):
        made.append(scene.name)
        return real(scene)

    monkeypatch.setattr(module, "make_scene", counts)
    synthesize(clean, out, seed=3)
    assert made == ["b", "c"]
    assert contents(out) == contents(tmp_path / "whole")


def test_what_a_crash_took_is_made_again(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene whose images are not all there in their full length is made again."""
    synthesize(clean, tmp_path / "whole", seed=3)
    out = tmp_path / "out"
    monkeypatch.setattr(module, "_finish", lambda *_: None)
    synthesize(clean, out, seed=3)
    os.truncate(out / ".train.unfinished/haze/b.png", 100)
    monkeypatch.undo()
    synthesize(clean, out, seed=3, processes=1)
    assert contents(out) == contents(tmp_path / "whole")


def test_again_changes_nothing_and_otherwise_is_refused(clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(clean, out, seed=3)
    before = contents(out)
    assert synthesize(clean, out, seed=3) == 3 and contents(out) == before
    with pytest.raises(UserError, match=r"out/train was made with other settings: seed 3, not 4; delete it"):
        synthesize(clean, out, seed=4)
    write(clean / "c.png", image(99))
    with pytest.raises(UserError, match="other settings: the images or maps have changed"):
        synthesize(clean, out, seed=3)
    write(tmp_path / "mine/train/x.png", image(1))
    with pytest.raises(UserError, match="mine/train exists and was not made by"):
        synthesize(clean, tmp_path / "mine", seed=3)


def test_captions_are_carried_and_both_splits_described(clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(clean, out, seed=3)
    synthesize(clean, out, seed=3, split="test")
    captions = Captions.find([out])
    for split in ("train", "test"):
        found = [captions.of(out / split / "haze" / f"{n}.png", out / split / "clear" / f"{n}.png") for n in "abc"]
        assert found == ["blobs", "more blobs", ""]
    assert json.loads((out / "captions.jsonl").read_text().splitlines()[0])["model"] == "me"
    readme = (out / "README.md").read_text()
    assert "`train`: 3 scenes" in readme and "`test`: 3 scenes" in readme and "depth estimated" in readme


def test_broken_images_are_named_and_nothing_is_taken_for_complete(clean: Path, tmp_path: Path) -> None:
    whole = (clean / "b.bmp").read_bytes()
    (clean / "b.bmp").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"1 of 3 images cannot be degraded: .*b.bmp"):
        synthesize(clean, tmp_path / "out", seed=3)
    assert not (tmp_path / "out/train").exists()


def test_full_disk(clean: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"disk full while writing .*out/\.train\.unfinished"):
            synthesize(clean, tmp_path / "out", seed=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out/train").exists()
    synthesize(clean, tmp_path / "whole", seed=3)
    synthesize(clean, tmp_path / "out", seed=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_refusals(clean: Path, sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "empty folder"),
        (clean / "a.png", "not a folder but a file"),
        (tmp_path, "no images in"),
    ):
        with pytest.raises(UserError, match=message):
            synthesize(folder, out, seed=0)
        with pytest.raises(UserError, match=message):
            synthesize(clean, out, seed=0, sources=Sources(rain=folder))
    with pytest.raises(UserError, match="not a folder but a file"):
        synthesize(clean, clean / "a.png", seed=0)
    (sources.depth / "b.npy").unlink()
    with pytest.raises(UserError, match=r"no depth map in .* for b; add them, or leave out --depth"):
        synthesize(clean, out, seed=0, sources=sources)
    np.save(sources.depth / "b.npy", np.full((40, 51), 2.0))
    with pytest.raises(UserError, match=r"b.npy is float64 \(40, 51\); expected \(H, W\) floats in \[0, 1\]"):
        synthesize(clean, out, seed=0, sources=sources)
    write(clean / "a.bmp", image(1))
    with pytest.raises(UserError, match=r"one name twice: .*a\.bmp and a\.png"):
        synthesize(clean, out, seed=0)


def test_no_change_of_a_map_ends_in_a_traceback(tmp_path: Path) -> None:
    draw, path = np.random.default_rng(0), tmp_path / "map.npy"
    np.save(path, np.full((6, 8), 0.5, np.float32))
    whole = path.read_bytes()
    for number in range(400):
        data = bytearray(whole)
        for place in draw.integers(0, 120, 1 + number % 3):  # the header
            data[place] = draw.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            read_map(path, (6, 8))
    path.write_bytes(whole.replace(b"(6, 8)", b"(99999999, 99999999)".ljust(6)))
    with pytest.raises(UserError, match="unreadable map"):
        read_map(path, (6, 8))
    with open(path, "wb") as file:
        np.savez(file, np.zeros(3))
    with pytest.raises(UserError, match="it is an archive"):
        read_map(path, (6, 8))
