"""`restore --engine ray`: an actor that is killed in the middle of a run changes nothing about the results."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_model
from unildiff.cli.main import main
from unildiff.restoring.jobs import Job
from unildiff.restoring.options import RestoreOptions
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_model

ray = pytest.importorskip("ray", reason="needs Ray (the extra unildiff[ray])")
from ray.cluster_utils import Cluster

from unildiff.restoring.ray_engine import RestoringActor, worker_device


def count(folder: Path) -> int:
    """Return how many results the manifests list, repeated ones each time."""
    return sum(path.read_text().count('"output_hash"') for path in folder.glob("manifest*.jsonl"))


def test_a_killed_actor_is_replaced_and_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    (tmp_path / "photos").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"broken")
    fixed = ["--model", str(tmp_path / "weights"), "--num_inference_steps", "20", "--device", "cpu"]
    codes: list[int] = []

    def restore() -> None:
        codes.append(main(["restore", str(tmp_path / "photos"), str(tmp_path / "ray"), *fixed, "--engine", "ray"]))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        thread = threading.Thread(target=restore)
        thread.start()
        killed = 0
        while thread.is_alive() and not killed:
            if len(list((tmp_path / "ray").glob("*.png"))) >= 2:
                killed = int(next((tmp_path / "ray").glob("manifest.ray-*.jsonl")).name.split("-")[1])
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.02)
        thread.join(300)
        # The actor, the one that replaced it, and one for the second CPU.
        assert len(list((tmp_path / "ray").glob("manifest.ray-*.jsonl"))) >= 3
        pair = tmp_path / "pair"
        pair.mkdir()
        for name in ("0.png", "1.png"):
            (pair / name).write_bytes((tmp_path / "photos" / name).read_bytes())
        monkeypatch.chdir(tmp_path)
        again = ["restore", "pair", "ray", *fixed, "--model", "weights", "--engine", "ray"]
        listed = count(tmp_path / "ray")
        capsys.readouterr()
        (tmp_path / "ray" / "0.png").unlink()  # a job checkpoint would call it done
        assert main(again) == 0
        assert "1 of 2 images restored to ray, 1 done before" in capsys.readouterr().out
        assert count(tmp_path / "ray") == (listed := listed + 1)
        monkeypatch.setenv("UNILDIFF_MAX_PIXELS", "")  # restored after the test
        Image.new("RGB", (64, 64)).save(pair / "1.png")
        with monkeypatch.context() as driver:  # it needs no device of the workers
            driver.setattr("unildiff.restoring.load.pick_device", lambda name: pytest.fail("asked for a device here"))
            assert main([*again, "--max_pixels", "1000"]) == 3  # 24x32 is less, 64x64 is more
        assert "0 of 2 images restored to ray, 1 done before" in capsys.readouterr().out
        assert count(tmp_path / "ray") == listed
        monkeypatch.delenv("UNILDIFF_MAX_PIXELS")
        with monkeypatch.context() as driver:
            driver.setattr(ray, "cluster_resources", lambda: {"CPU": 2, "GPU": 1})
            assert [worker_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
        with pytest.raises(UserError, match="the Ray cluster has no GPU"):
            worker_device("cuda")
        shutil.copytree(tmp_path / "weights", tmp_path / "damaged")
        next((tmp_path / "damaged" / "unet").glob("*.safetensors")).write_bytes(b"damaged")
        assert main([*again, "--overwrite", "--model", "damaged"]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        for more in (["--device", "cuda:1"], ["--devices", "0,1"]):
            assert main([*again, *more]) == 2 and "engine: Ray chooses the devices" in capsys.readouterr().err
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and codes == [3]
    assert main(["restore", str(tmp_path / "photos"), str(tmp_path / "plain"), *fixed]) == 3
    plain, made = (
        {path.name: path.read_bytes() for path in (tmp_path / kind).glob("*.png")} for kind in ("plain", "ray")
    )
    assert len(plain) == 20 and made == plain


def test_an_actor_skips_what_is_done_and_repeats_what_changed(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    source, target = tmp_path / "a.png", tmp_path / "out" / "a.png"
    Image.new("RGB", (24, 32)).save(source)
    options = RestoreOptions(model=str(tmp_path / "weights"), num_inference_steps=1, device="cpu")

    def skipped(skip: bool = True, **changed: int) -> int:
        actor = RestoringActor(replace(options, **changed), lambda path: "", target.parent, skip)
        finished, before, failed = actor.restore([Job(source, target, "a.png")])
        assert (finished, failed) == (1, [])
        return before

    assert [skipped(), skipped(), skipped(skip=False)] == [0, 1, 0]  # without --overwrite, and with it
    target.unlink()
    assert [skipped(), skipped()] == [0, 1]
    Image.new("RGB", (24, 32), "red").save(source)
    assert [skipped(), skipped()] == [0, 1]
    assert [skipped(seed=1), skipped(seed=1), skipped()] == [0, 1, 0]
    assert count(target.parent) == 6
