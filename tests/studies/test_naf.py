import csv
import math
from pathlib import Path

import pytest
import torch
import yaml

from studies import naf
from studies.naf import Clock, load_naf, main, rate_factor, restore, train_step
from studies.naf_model import NAFNet, blocks_for, count
from unildiff.data.batch import RestorationSample

TINY = NAFNet(1, width=4)


def test_the_count_of_parameters_follows_the_description() -> None:
    # A block of c channels: 1x1 to 2c, depthwise 3x3, attention, 1x1, 1x1 to 2c, 1x1: 7 c^2 weights and 18 c depthwise;
    # biases 2c + 2c + c + c + 2c + c; two norms of 2c; two scales of c. In all 7 c^2 + 33 c.
    def block(c: int) -> int:
        return 7 * c**2 + 33 * c

    w = 48
    deep = 5
    blocks = 4 * block(w) + 4 * block(2 * w) + (deep + 2) * block(4 * w) + 6 * block(8 * w)
    ends = 2 * 9 * 12 * w + w + 12  # two 3x3 convolutions between 12 packed channels and w
    down = sum(8 * c**2 + 2 * c for c in (w, 2 * w, 4 * w))  # 2x2 from c to 2c
    up = sum(8 * c**2 for c in (w, 2 * w, 4 * w))  # 1x1 from 2c to 4c, then c after the pixel shuffle
    assert count(deep) == blocks + ends + down + up
    assert abs(count(blocks_for(9_291_234)) / 9_291_234 - 1) < 0.015


def test_an_untrained_net_has_blocks_without_effect_and_keeps_any_size() -> None:
    images = torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    net = NAFNet(1, width=4)
    with torch.no_grad():
        net.ending.weight.zero_()
        net.ending.bias.zero_()
        assert torch.equal(net(images), images)  # the image is added to the output
        assert net(images[..., :5, :7]).shape == (1, 3, 5, 7)


def test_steps_lower_the_loss_and_reach_every_parameter() -> None:
    torch.manual_seed(0)
    net = NAFNet(1, width=4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, betas=(0.9, 0.9), weight_decay=0.0)
    gt = torch.rand(2, 3, 32, 32) * 2 - 1
    losses = [train_step(net, optimizer, gt * 0.4 - 0.3, gt) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    # The first loss by hand: L1 between the two images, almost unchanged by the untrained net.
    assert losses[0] == pytest.approx((gt - (gt * 0.4 - 0.3)).abs().mean().item(), abs=0.2)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_rate_rises_then_falls_to_zero() -> None:
    assert rate_factor(0.01) == 0.5 and rate_factor(0.02) == 1.0
    assert rate_factor(0.51) == pytest.approx(0.5) and rate_factor(1.0) == pytest.approx(0.0)
    assert rate_factor(1.5) == pytest.approx(0.0)


def test_the_clock_counts_this_process_and_can_be_set_back() -> None:
    clock = Clock(100.0)
    math.fsum(range(100_000))
    after = clock.seconds()
    assert 100.0 < after < 105.0
    math.fsum(range(100_000))
    clock.set(after)
    assert after <= clock.seconds() < after + 0.02


def test_a_run_keeps_its_budget_resumes_and_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[NAFNet] = []
    monkeypatch.setattr(naf, "NAFNet", lambda deep: made.append(NAFNet(deep, width=4)) or made[-1])
    data = {"crop_size": 32, "picture_size": 32, "batch_size": 2, "num_workers": 1}
    config = {"seed_everything": 0, "data": {"init_args": data}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    names: list[str] = []
    step = naf.train_step
    monkeypatch.setattr(naf, "train_step", lambda *a: names.append(str(a[2].sum().item())) or step(*a))
    command = [
        "fit",
        "--run_dir",
        str(tmp_path / "run"),
        "--parameters",
        "1",
        "--config",
        str(tmp_path / "config.yaml"),
    ]
    assert main([*command, "--minutes", "0.005", "--looks", "0"]) == 0  # 0.3 s
    first = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert first["seconds"] >= 0.3 and first["step"] == len(names) >= 1 and first["consumed"] == 2 * first["step"]
    longer = ["--minutes", str(first["seconds"] / 60 + 0.005), "--looks", "1"]
    assert main([*command, *longer]) == 0
    second = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert second["step"] > first["step"] and second["seconds"] >= first["seconds"] + 0.3
    assert len(set(names)) == len(names)  # new samples, none twice
    (line,) = csv.DictReader((tmp_path / "run" / "curve.csv").open())
    assert int(line["step"]) == second["step"] and float(line["psnr/avg"]) > 5
    assert main([*command, *longer]) == 0  # the budget is spent: nothing happens
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == second["step"]
    net = load_naf(tmp_path / "run" / "last.pt")
    assert not net.training
    capsys.readouterr()


def test_an_image_keeps_its_type_and_size() -> None:
    lq = torch.randint(0, 256, (3, 21, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample: RestorationSample = {"lq": lq, "gt": lq, "caption": "", "degradation": "low", "name": "x", "key": 0}
    restored = restore(TINY, sample)
    assert restored.dtype == torch.uint8 and restored.shape == lq.shape


def test_a_missing_checkpoint_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--run_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("naf: error: checkpoint: no file")
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    assert main(["score", "--run_dir", str(tmp_path)]) == 2
    assert "last.pt is not a checkpoint of studies.naf" in capsys.readouterr().err
    assert main(["fit", "--run_dir", str(tmp_path), "--minutes", "0"]) == 2
    assert capsys.readouterr().err == "naf: error: minutes: 0; give a time above 0\n"
