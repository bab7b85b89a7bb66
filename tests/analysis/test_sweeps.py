from pathlib import Path
from typing import Any

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from tests.small import small_model
from unildiff.analysis import sweeps
from unildiff.analysis.sweeps import SCORED, sweep, sweep_figure, sweep_means, sweep_points
from unildiff.data.batch import RestorationSample
from unildiff.data.shipped_photographs import load, photographs
from unildiff.degradations.cdd11 import degrade
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.protocols import PROTOCOLS
from unildiff.metrics.registry import load_scorers
from unildiff.weights.load import load_restorer
from unildiff.weights.restoring import restore_image


def make_sample(name: str = "a", caption: str = "a red cat") -> RestorationSample:
    noise = torch.Generator().manual_seed(len(name))
    gt, lq = (torch.randint(0, 256, (3, 16, 24), generator=noise, dtype=torch.uint8) for _ in range(2))
    return {"lq": lq, "gt": gt, "caption": caption, "degradation": "low", "name": name, "key": 7}


def test_points_are_two_sweeps_through_the_papers_setting() -> None:
    points = [(point.num_inference_steps, point.guidance_scale) for point in sweep_points([1, 5], [4, 20])]
    assert points == [(20, 1), (20, 5), (4, 5)]


def test_rows_equal_the_scores_of_restoring_at_that_point() -> None:
    model, sample = small_model(), make_sample()
    scorers, _ = load_scorers(SCORED, PROTOCOLS["onerestore"])
    points = [SamplingSettings(steps, guidance) for steps, guidance in ((1, 5.0), (3, 5.0), (3, 1.0))]
    rows = sweep(model, [sample], points, scorers)
    assert [(row["steps"], row["guidance"]) for row in rows] == [(1, 5), (3, 5), (3, 1)]
    lq = sample["lq"][None].float() / 127.5 - 1
    for row, point in zip(rows, points, strict=True):
        restored = model.restore(lq, [sample["caption"]], [sample["key"]], point)[0]
        eight_bits = ((restored + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        gt = sample["gt"].permute(1, 2, 0).numpy()
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(gt, eight_bits, data_range=255), abs=1e-4)


def row_of(degradation: str, psnr: float, steps: float = 20.0, guidance: float = 5.0) -> dict[str, str | float | None]:
    label = {"degradation": degradation, "name": str(psnr), "steps": steps, "guidance": guidance}
    return label | {"psnr": psnr, "gmsd": 0.1}


def test_means_are_over_degradations() -> None:
    # low: (10 + 20) / 2 = 15; rain: 25; their mean is 20, but the mean over images is 18.33.
    found = sweep_means([row_of("low", 10.0), row_of("low", 20.0), row_of("rain", 25.0)])
    assert found[20, 5.0]["psnr"] == 20 and found[20, 5.0]["count"] == 3


def test_the_figure_marks_the_papers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    save = sweeps.save_figure
    monkeypatch.setattr(sweeps, "save_figure", lambda figure, out: figures.append(figure) or save(figure, out))
    points = [*((20, scale) for scale in (8.0, 5.0, 1.0)), (50, 5.0), (1, 5.0)]
    sweep_figure([row_of("low", 20.0, *point) for point in points], tmp_path / "sweep")
    assert (tmp_path / "sweep.pdf").is_file() and (tmp_path / "sweep.png").is_file()
    left, right, *_ = figures[0].axes
    curve, mark = left.lines
    assert list(curve.get_xdata()) == [1, 5, 8] and set(mark.get_xdata()) == {5.0}
    curve, mark = right.lines
    assert list(curve.get_xdata()) == [1, 20, 50] and set(mark.get_xdata()) == {20}
    assert [text.get_text() for axes in (left, right) for text in axes.texts] == ["paper: 5", "paper: 20"]


def test_guidance_changes_pixels_of_the_shipped_model() -> None:
    """Captions change the image: another guidance, another caption and no caption give other pixels."""
    model, photo = load_restorer("tiny"), photographs("val")[0]
    image = degrade(load(photo, 96)[0], "low_rain", 1).image  # a clean image comes back as it is
    images = {
        key: restore_image(model, image, caption, SamplingSettings(2, guidance)).int()
        for key, caption, guidance in (
            ("unguided", photo.caption, 1.0),
            ("guided", photo.caption, 5.0),
            ("other", "an orange dahlia in front of green leaves", 5.0),
            ("bare", "", 5.0),
        )
    }
    for other in ("unguided", "other", "bare"):
        assert (images["guided"] - images[other]).abs().max() > 1, other  # more than rounding


def test_captions_of_the_sample_sets_are_written_and_read(tmp_path: Path) -> None:
    from datamodules.cdd11 import CDD11DataModule
    from unildiff.data.tools.samples import write_sample

    write_sample("cdd11", tmp_path / "cdd11")
    data = CDD11DataModule(str(tmp_path / "cdd11"), num_workers=0)
    data.setup("test")
    captions = {batch["name"][0]: batch["caption"][0] for batch in data.test_dataloader()}
    assert captions == {photo.name: photo.caption for photo in photographs("test")} and all(captions.values())
