from pathlib import Path
from typing import Any

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from tests.small import small_model
from unildiff.analysis import sweeps
from unildiff.analysis.sweeps import Setting, means, read_sweep, settings, sweep, sweep_figure
from unildiff.core.model import UniLDiff
from unildiff.data.batch import RestorationSample
from unildiff.data.shipped_photographs import load, photographs
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.utils.errors import UserError
from unildiff.weights.load import load_restorer
from unildiff.weights.restoring import restore_image


def make_sample(name: str = "a", caption: str = "a red cat") -> RestorationSample:
    noise = torch.Generator().manual_seed(len(name))
    gt, lq = (torch.randint(0, 256, (3, 16, 24), generator=noise, dtype=torch.uint8) for _ in range(2))
    return {"lq": lq, "gt": gt, "caption": caption, "degradation": "low", "name": name, "key": 7}


def test_points_are_the_two_sweeps_through_the_papers_setting() -> None:
    points = settings()
    assert [point.guidance for point in points if point.steps == 20] == [1, 2, 3, 4, 5, 6, 7, 8]
    steps = [point.steps for point in points if point.guidance == 5]
    assert {1, 20, 50} <= set(steps) and len(points) == len(set(points))
    assert settings([1], [20]) == [Setting(20, 1), Setting(20, 5.0)]


def test_rows_are_what_restoring_at_that_point_scores(tmp_path: Path) -> None:
    model, sample = small_model(), make_sample()
    points = [Setting(1, 5.0), Setting(3, 5.0), Setting(3, 1.0)]
    rows = sweep(model, [sample], points, tmp_path / "s.csv")
    assert [(row["steps"], row["guidance"]) for row in rows] == [(1, 5), (3, 5), (3, 1)]
    lq = sample["lq"][None].float() / 127.5 - 1
    for row, point in zip(rows, points, strict=True):
        chosen = SamplingSettings(point.steps, point.guidance)
        restored = model.restore(lq, [sample["caption"]], [sample["key"]], chosen)[0]
        eight_bits = ((restored + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        truth = sample["gt"].permute(1, 2, 0).numpy()
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, eight_bits, data_range=255), abs=1e-4)


def test_a_sweep_goes_on_and_can_be_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = small_model(), tmp_path / "deep" / "s.csv"
    done: list[tuple[int, float]] = []
    sample_latents = UniLDiff.sample_latents

    def counted(self: UniLDiff, features: Any, captions: Any, keys: Any, chosen: SamplingSettings) -> Any:
        done.append((chosen.num_inference_steps, chosen.guidance_scale))
        return sample_latents(self, features, captions, keys, chosen)

    monkeypatch.setattr(UniLDiff, "sample_latents", counted)
    first = sweep(model, [make_sample("a")], [Setting(1, 5.0)], out)
    both = sweep(model, [make_sample("a"), make_sample("bc")], [Setting(1, 5.0), Setting(2, 5.0)], out)
    assert done == [(1, 5), (2, 5), (1, 5), (2, 5)]  # the first point of the first picture is not restored again
    assert len(both) == 4 and both[0]["name"] == "a" and both[0]["psnr"] == pytest.approx(first[0]["psnr"])
    kept = read_sweep(out)
    assert len(kept) == 4 and sweep(model, [make_sample("a")], [Setting(1, 5.0)], out) == kept[:1]
    assert len(done) == 4
    assert sweep(model, [make_sample("bc")], [Setting(2, 5.0)], out) == kept[-1:]  # of the file, what is asked for


def test_another_model_is_not_taken_for_the_one_that_was_swept_before(tmp_path: Path) -> None:
    model, out = small_model(), tmp_path / "s.csv"
    (first,) = sweep(model, [make_sample()], [Setting(1, 5.0)], out)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("conv_out.bias"):
                parameter += 1.0
    (second,) = sweep(model, [make_sample()], [Setting(1, 5.0)], out)
    assert first["psnr"] != second["psnr"] and first["model"] != second["model"]
    assert [row["model"] for row in read_sweep(out)] == [first["model"], second["model"]]
    lines = [",".join(cells.split(",")[:2] + cells.split(",")[3:]) for cells in out.read_text().splitlines()]
    out.write_text("\n".join(lines) + "\n")  # as it was written before models were told apart
    assert "model" not in lines[0]
    (again,) = sweep(model, [make_sample()], [Setting(1, 5.0)], out)
    assert again["psnr"] == pytest.approx(second["psnr"]) and len(read_sweep(out)) == 3


def test_pictures_without_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a has no caption"):
        sweep(small_model(), [make_sample(caption="")], [Setting(1, 5.0), Setting(1, 1.0)], tmp_path / "s.csv")
    assert len(sweep(small_model(), [make_sample(caption="")], [Setting(1, 5.0)], tmp_path / "s.csv")) == 1
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="not what a sweep writes"):
        sweep(small_model(), [make_sample()], [Setting(1, 5.0)], tmp_path / "other.csv")


def test_means_are_over_degradations() -> None:
    def row(degradation: str, psnr: float) -> dict[str, str | float | None]:
        label = {"degradation": degradation, "name": str(psnr), "steps": 20.0, "guidance": 5.0}
        return label | {"psnr": psnr, "gmsd": 0.1}

    # low: (10 + 20) / 2 = 15; rain: 25; their mean is 20, not the pictures' 18.33.
    found = means([row("low", 10.0), row("low", 20.0), row("rain", 25.0)])
    assert found[Setting(20, 5.0)]["psnr"] == 20 and found[Setting(20, 5.0)]["count"] == 3


def test_the_figure_marks_the_papers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    save = sweeps.save_figure
    monkeypatch.setattr(sweeps, "save_figure", lambda figure, out: figures.append(figure) or save(figure, out))
    rows: list[dict[str, str | float | None]] = [
        {"degradation": "low", "name": "a", "steps": float(p.steps), "guidance": p.guidance, "psnr": 20.0, "gmsd": 0.1}
        for p in reversed(settings())
    ]
    written = sweep_figure(rows, tmp_path / "sweep")
    assert [path.suffix for path in written] == [".pdf", ".png"] and all(path.is_file() for path in written)
    left, right, *_ = figures[0].axes
    curve, mark = left.lines
    assert list(curve.get_xdata()) == [1, 2, 3, 4, 5, 6, 7, 8] and set(mark.get_xdata()) == {5.0}
    curve, mark = right.lines
    assert list(curve.get_xdata()) == list(sweeps.STEPS) and set(mark.get_xdata()) == {20}
    assert [text.get_text() for axes in (left, right) for text in axes.texts] == ["paper: 5", "paper: 20"]


def test_guidance_changes_pixels_of_the_shipped_model() -> None:
    """A caption must reach the picture: another guidance, another caption and no caption give other pixels."""
    model, photo = load_restorer("tiny"), photographs("val")[0]
    picture = load(photo, 96)[0]
    pictures = {
        key: restore_image(model, picture, caption, SamplingSettings(2, guidance)).int()
        for key, caption, guidance in (
            ("unguided", photo.caption, 1.0),
            ("guided", photo.caption, 5.0),
            ("other", "an orange dahlia in front of green leaves", 5.0),
            ("bare", "", 5.0),
        )
    }
    for other in ("unguided", "other", "bare"):
        assert (pictures["guided"] - pictures[other]).abs().max() > 1, other  # more than rounding


def test_captions_of_the_sample_sets_are_written_and_read(tmp_path: Path) -> None:
    from datamodules.cdd11 import CDD11DataModule
    from unildiff.data.tools.samples import write_sample

    write_sample("cdd11", tmp_path / "cdd11")
    data = CDD11DataModule(str(tmp_path / "cdd11"), num_workers=0)
    data.setup("test")
    captions = {batch["name"][0]: batch["caption"][0] for batch in data.test_dataloader()}
    assert captions == {photo.name: photo.caption for photo in photographs("test")} and all(captions.values())
