"""`restore --memory`: what fits is chosen and kept to, what does not is refused; offloading in its order."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.small import NETWORK, sdxl_like_base, small_model
from unildiff.cli.main import main
from unildiff.core.network import NetworkConfig
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.planning import restoring
from unildiff.planning.restoring import Limits, RestorePlan, RestorePlanner, within_memory
from unildiff.planning.shapes import base_sizes
from unildiff.restoring.options import RestoreOptions, memory_bytes
from unildiff.utils.errors import UserError
from unildiff.weights.folder import save_base, save_model
from unildiff.weights.offload import ORDER, offload_parts
from unildiff.weights.pipeline import UniLDiffPipeline
from unildiff.weights.restoring import restore_images

GPU = Limits(8 * 10**9, (torch.bfloat16,), ("none", "model", "group"))


def test_sdxl_restores_512_px_on_an_8_gb_card() -> None:
    """By hand: the U-Net with its fusion has 2.68e9 numbers, 5.36 GB in bfloat16; all parts have 3.66e9, 7.33 GB."""
    planner = RestorePlanner(base_sizes("sdxl"), NetworkConfig(), gpu=True)
    plan = planner.choose([(512, 512)], GPU)
    assert (plan.offload, plan.tile_size, plan.vae_tile) == ("model", None, None)
    assert 5.36e9 + 1e9 < plan.peak < 8e9
    whole = planner.choose([(512, 512)], Limits(12 * 10**9, GPU.dtypes, GPU.offloads))
    assert whole.offload == "none" and 7.33e9 + 1e9 < whole.peak < 12e9


def test_less_memory_means_smaller_tiles_and_then_a_refusal(tmp_path: Path) -> None:
    save_base(sdxl_like_base(), tmp_path)
    planner = RestorePlanner(base_sizes(str(tmp_path)), NETWORK, gpu=False)
    images = [(320, 256), (128, 400)]

    def choose(memory: float) -> tuple[int | None, int | None, int]:
        plan = planner.choose(images, Limits(int(memory), (torch.float32,), ("none",)))
        return plan.tile_size, plan.vae_tile, plan.peak

    whole = choose(1e12)
    assert whole[:2] == (None, None)
    coders = choose(whole[2] - 1)  # decoder and encoders need most: they alone are tiled
    assert coders[0] is None and coders[1] is not None and coders[2] < whole[2]
    with pytest.raises(UserError, match=r"image of 256x320; the least that fits is (\d+\.\d+) GB") as refused:
        choose(1e6)
    found = re.search(r"fits is ([\d.]+) GB", str(refused.value))
    assert found is not None
    assert choose(1e9 * (float(found[1]) + 0.01))[2] <= 1e9 * (float(found[1]) + 0.01)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_run_on_the_cpu_keeps_to_its_memory(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "weights", torch.float32)
    (tmp_path / "in").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (768, 768, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    arguments = ["restore", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tmp_path / "weights")]
    arguments += ["--device", "cpu", "--num_inference_steps", "1", "--memory", "1.4GB"]
    code = (
        f"import sys; from pathlib import Path; from unildiff.cli.main import main; code = main({arguments!r}); "
        "print(next(line for line in Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in line)); sys.exit(code)"
    )
    ballast = np.ones(10**9, np.uint8)  # what the parent process takes does not count
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ballast.all() and done.returncode == 0, done.stderr
    expected = float(re.findall(r"expected peak ([\d.]+) GB", done.stderr)[0])
    taken = int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) * 1024 / 1e9
    assert 0.5 * expected < taken <= expected <= 1.4


@pytest.mark.parametrize("offload", ["model", "group"])
def test_parts_come_and_go_in_their_order_and_the_bytes_stay(offload: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    settings = SamplingSettings(2, 3.0)
    expected = restore_images(small_model(), [image], ["a cat"], settings)
    model, calls = small_model(), []
    back = offload_parts(model, torch.device("cpu"), offload)  # type: ignore[arg-type]
    for name in ORDER:
        part: nn.Module = getattr(model, name)
        hook = part._hf_hook
        seen = hook.pre_forward
        hook.pre_forward = lambda *a, n=name, f=seen, **k: (calls.append(n), f(*a, **k))[1]  # type: ignore[method-assign]
    assert torch.equal(restore_images(model, [image], ["a cat"], settings), expected)
    back()
    assert list(dict.fromkeys(calls)) == list(ORDER)
    unet = model.unet._hf_hook
    before = unet.text if offload == "group" else unet.prev_module_hook
    assert before.model is model.text  # the text encoders leave before the U-Net comes
    if offload == "model":
        assert model.lq_encoder._hf_hook.prev_module_hook.model is model.unet  # decoding needs the skips again
        assert UniLDiffPipeline.model_cpu_offload_seq == "->".join(ORDER)


def test_mistakes_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    run = ["restore", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--device", "cpu"]
    for more, expected in (
        (["--offload", "model"], "offload: model needs an NVIDIA GPU, and the device is cpu; leave --offload out"),
        (["--memory", "much"], "memory: 'much' is not a size; give e.g. 8GB or 900MB"),
        (["--memory", "10MB"], "memory: 0.01 GB is too little for an image of 32x32; the least that fits is"),
    ):
        assert main([*run, *more]) == 2
        assert expected in capsys.readouterr().err
    for size in ("big", "99999x8", "8x99999", "0x5", "5x0", "5", "9" * 5000 + "x5"):
        assert main(["plan", "--restore", "--size", size]) == 2
        assert f"size: {size!r} is not WIDTHxHEIGHT with sides of 1 to 65,536" in capsys.readouterr().err
    assert [memory_bytes(text) for text in ("8GB", "1.5 GiB", "900M")] == [8 * 10**9, 3 * 2**29, 9 * 10**8]


def test_memory_is_planned_for_cpu_and_cuda_and_with_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RestoreOptions(memory=8 * 10**9, device="mps")
    monkeypatch.setattr(restoring, "pick_device", torch.device)
    with pytest.raises(
        UserError, match="memory: can be planned for NVIDIA GPUs and CPUs, and the device is mps; leave"
    ):
        within_memory(options, [(64, 64)])
    if not torch.cuda.is_available():  # a GPU of another machine needs none here
        with monkeypatch.context() as here:
            here.setattr(restoring, "pick_device", lambda name: pytest.fail("asked for a device here"))
            chosen, _ = within_memory(replace(options, device="cuda"), [(64, 64)], elsewhere=True)
        assert chosen.dtype == "bfloat16"
    seen: list[tuple[str, ...]] = []

    def choose(planner: RestorePlanner, images: object, allowed: Limits) -> RestorePlan:
        seen.append(allowed.offloads)
        if len(allowed.offloads) == 1:
            raise UserError("memory: too little")
        return RestorePlan(torch.bfloat16, "model", None, None, 1)

    monkeypatch.setattr(RestorePlanner, "choose", choose)
    gpu = replace(options, device="cuda")
    assert within_memory(gpu, [(64, 64)])[0].offload == "model"
    monkeypatch.setattr(restoring, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"too little; `pip install 'unildiff\[offload\]'` allows less"):
        within_memory(gpu, [(64, 64)])
    with pytest.raises(UserError, match="too little"):  # whoever asks for offloading gets its own message
        within_memory(replace(gpu, offload="model"), [(64, 64)])
    assert seen == [("none", "model", "group"), ("none",), ("model",)]


def test_plans_are_printed_for_sizes_and_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small_model(), tmp_path)
    assert main(["plan", "--restore", "--model", str(tmp_path), "--size", "64x96", "--memory", "2GB,1MB"]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.startswith("64x96 in 2 GB: bfloat16, the model's own tiles: expected peak 1.0")
    assert "is too little for an image of 64x96; the least that fits is 1.0" in second
