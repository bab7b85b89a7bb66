from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studies import goals, robustness, runner
from studies.goals import feed_forward, gains, main, sizes, stages
from studies.runner import number, score
from tests.small import NETWORK, small_model
from unildiff.data.batch import RestorationSample
from unildiff.data.tools.samples import write_sample
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.rows import Summary
from unildiff.weights.folder import save_model


def summary(psnr: dict[str, float], ssim: float = 0.5, gmsd: float = 0.2) -> Summary:
    entries: Summary = {name: {"psnr": value, "ssim": ssim, "gmsd": gmsd, "count": 1} for name, value in psnr.items()}
    mean = sum(psnr.values()) / len(psnr)
    return entries | {"avg": {"psnr": mean, "ssim": ssim, "gmsd": gmsd, "count": len(psnr)}}


def verdicts(points: list[goals.Point]) -> list[bool | None]:
    return [point.met for point in points]


def test_gains_name_the_degradations_that_miss() -> None:
    before = summary({"low": 10.0, "rain": 24.0})
    # 8.2 dB and 0.4 dB: the mean of 4.3 misses 6, rain misses 0.5; SSIM equal to the input's is not above it.
    mean, least, ssim = gains(before, summary({"low": 18.2, "rain": 24.4}))
    assert (mean.measured, mean.met) == ("+4.30 dB", False)
    assert (least.measured, least.met) == ("+0.40 dB rain; missed by rain", False)
    assert ssim.met is False
    good = gains(before, summary({"low": 22.0, "rain": 24.5}, ssim=0.51))
    assert verdicts(good) == [True, True, True] and good[0].measured == "+6.25 dB"


def test_stages_are_compared_with_rivals_of_the_same_budget_where_they_are_given() -> None:
    scores = {"input": summary({"a": 13.0}), "after_joint": summary({"a": 16.0}), "restored": summary({"a": 18.0})}
    scores["own_no_diffusion"] = summary({"a": 12.0})
    alone = stages(scores, {})
    # Without the alignment stage and a decoder trained on LQ latents no goal is reported as met.
    assert [(point.met, point.measured) for point in alone] == [
        (None, "input 13.00, joint 16.00, decoder 18.00 (no alignment)"),
        (True, "+2.00 dB"),
        (None, "+6.00 dB, GMSD +0.0000"),
    ]
    fair = {"after_alignment": summary({"a": 16.5}), "without_daem": summary({"a": 17.2})}
    fair["no_diffusion"] = summary({"a": 18.04}, gmsd=0.21)
    found = stages(scores, fair)
    assert found[0].met is False and "alignment 16.50, joint 16.00" in found[0].measured
    assert found[2].met is False and found[2].measured == "+0.80 dB"
    assert found[3].met is True and found[3].measured == "-0.04 dB, GMSD -0.0100"  # equal PSNR, better GMSD
    fair["no_diffusion"] = summary({"a": 17.9}, gmsd=0.19)
    assert stages(scores, fair)[3].met is False


def test_the_feed_forward_net_may_be_half_a_decibel_ahead() -> None:
    ours = summary({"a": 18.0}, gmsd=0.15)
    assert verdicts(feed_forward(ours, summary({"a": 18.45}, gmsd=0.16))) == [True]
    assert verdicts(feed_forward(ours, summary({"a": 18.55}, gmsd=0.16))) == [False]
    assert verdicts(feed_forward(ours, summary({"a": 18.0}, gmsd=0.15))) == [False]
    assert feed_forward(ours, None) == []


def test_sizes_count_the_experts_and_the_encoder_whose_skips_they_read(tmp_path: Path) -> None:
    model = small_model(network=replace(NETWORK, detail=replace(NETWORK.detail, to_pixels=True)))
    save_model(model, tmp_path)
    parameters, stored, share = sizes(model, str(tmp_path))
    total = sum(value.numel() for value in model.state_dict().values())
    assert parameters.measured == f"{total / 1e6:.2f} M" and parameters.met
    assert float(stored.measured.split()[0]) >= 2 * total / 1e6  # 16 bits per weight, and configs
    names = ("decoder.details.", "decoder.pixels.", "lq_encoder.")
    experts = sum(value.numel() for name, value in model.state_dict().items() if name.startswith(names))
    assert share.measured.endswith(f"= {experts / total:.0%}")
    assert share.met is (experts <= total / 4)


def test_validation_images_are_33_with_captions_and_never_the_test_ones(tmp_path: Path) -> None:
    samples = runner.held_out("validation", 64)
    assert {sample["name"] for sample in samples} == {"china", "flower", "grace_hopper"}
    assert len(samples) == 33 and all(sample["caption"] for sample in samples)


def test_test_images_are_those_that_data_sample_writes_with_its_captions(tmp_path: Path) -> None:
    from unildiff.data.captions import Captions
    from unildiff.data.images import read_rgb

    samples = runner.held_out("test")
    assert len(samples) == 55
    write_sample("cdd11", tmp_path / "cdd11")
    captions = Captions.find([tmp_path / "cdd11"])
    for sample in samples[::11]:
        path = tmp_path / "cdd11" / "test" / sample["degradation"] / f"{sample['name']}.png"
        assert np.array_equal(sample["lq"].permute(1, 2, 0).numpy(), read_rgb(path))
        assert sample["caption"] == captions.of(path) != ""


def test_scores_are_means_over_images_under_the_protocol() -> None:
    gt = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample: RestorationSample = {
        "lq": gt ^ 1,  # off by one everywhere: 20 log10(255) = 48.13 dB
        "gt": gt,
        "caption": "",
        "degradation": "low",
        "name": "x",
        "key": 0,
    }
    scores = score([sample, sample | {"name": "y"}], lambda s: {"mine": s["gt"] ^ 2})
    assert list(scores) == ["input", "mine"]
    assert number(scores["input"], "psnr") == pytest.approx(48.1308, abs=1e-4)
    assert number(scores["mine"], "psnr", "low") == pytest.approx(48.1308 - 20 * np.log10(2), abs=1e-4)


def test_a_shift_of_colour_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def brighter(model: object, image: np.ndarray, caption: str, settings: object) -> torch.Tensor:
        calls.append(image.shape[:2])
        return torch.from_numpy(image // 2 + np.array([0, 0, 3], np.uint8)).permute(2, 0, 1)

    monkeypatch.setattr(robustness, "restore_image", brighter)
    black = {"black": (np.zeros((300, 384, 3), np.uint8), "nothing")}
    monkeypatch.setattr(robustness, "clean_photographs", lambda which: black)
    shifts = robustness.mean_colour_shift(small_model(), "validation", SamplingSettings())
    assert shifts == dict.fromkeys(["101x75", "131x257", "64x64", "384 px", "1024x1024"], 3.0)
    assert calls == [(101, 75), (131, 257), (64, 64), (300, 384), (1024, 1024)]


def test_same_bytes_distinguishes_models() -> None:
    settings = SamplingSettings(1, 1.0)
    model, other = small_model(), small_model(seed=1, network=NETWORK)
    assert robustness.same_bytes(model, small_model(), "validation", settings)
    assert not robustness.same_bytes(model, other, "validation", settings)


def test_time_is_of_the_papers_guided_steps_for_any_steps_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[SamplingSettings] = []
    monkeypatch.setattr(goals, "load_restorer", lambda source: None)
    monkeypatch.setattr(goals, "same_bytes", lambda *args: True)
    monkeypatch.setattr(goals, "mean_colour_shift", lambda *args: {})
    monkeypatch.setattr(goals, "clean_psnr", lambda *args: {"a": 40.0})
    monkeypatch.setattr(goals, "seconds_for_512", lambda model, settings: timed.append(settings) or (1.0, 12.5))
    options = goals.parser().parse_args(["--guidance", "1", "--steps", "2"])
    *_, last = goals.robustness(small_model(), "validation", SamplingSettings(2, 1.0), options)
    assert [(each.num_inference_steps, each.guidance_scale) for each in timed] == [(20, 5.0)]
    assert last.text == "512x512, 20 guided steps" and last.met is False


def test_the_command_prints_every_point_and_names_missed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(small_model(), tmp_path / "model")
    command = ["--validation", "--model", str(tmp_path / "model"), "--every", "16", "--steps", "1", "--skip-robustness"]
    assert main([*command, "--out", str(tmp_path / "goals.json")]) == 1  # an untrained model
    printed = capsys.readouterr().out
    assert "1     MISSED  PSNR above the input, mean" in printed and "Model met     parameters" in printed
    assert (tmp_path / "goals.json").is_file()
    (tmp_path / "goals.json").unlink()
    # A missing rival is reported before the model's own images are restored.
    monkeypatch.setattr(goals, "score", lambda *args: pytest.fail("scored"))
    for option in ("--naf", "--alignment", "--no-diffusion", "--without-daem"):
        assert main([*command, option, str(tmp_path / "none")]) == 2
        assert str(tmp_path / "none") in capsys.readouterr().err
    assert main(["--model", str(tmp_path / "none")]) == 2
