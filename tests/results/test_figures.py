import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_samples

from tests.results.made_up_run import CDD11, made_up_rows, write_images, write_run
from unildiff.analysis.figures import (
    ExpertMap,
    embedding_figure,
    expert_map_figure,
    expert_usage_figure,
    gate_figure,
)
from unildiff.results.figures import (
    comparison_figure,
    median_image,
    perception_distortion_figure,
    table_figure,
    zoom_window,
)
from unildiff.results.figures_style import PALETTE, look
from unildiff.results.runs import load_run
from unildiff.results.table_files import write_table
from unildiff.utils.errors import UserError


def flat(colour, size=(40, 60)):
    return np.full((*size, 3), colour, np.uint8)


def dominant(png, box):
    """Most frequent colour in a box given in fractions (left, top, right, bottom)."""
    image = np.asarray(Image.open(png).convert("RGB"))
    height, width = image.shape[:2]
    left, top, right, bottom = box
    part = image[int(top * height) : int(bottom * height), int(left * width) : int(right * width)].reshape(-1, 3)
    colours, counts = np.unique(part, axis=0, return_counts=True)
    return tuple(int(value) for value in colours[counts.argmax()])


def test_the_window_is_where_detail_differs():
    truth = np.random.default_rng(0).integers(0, 40, (50, 80, 3), dtype=np.uint8)
    other = truth.copy()
    other[20:30, 55:65] = np.random.default_rng(1).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    # 10 = 0.2 * 50: the window is exactly the damaged square, give or take what the local means smear.
    top, left, side = zoom_window([truth, other])
    assert side == 10 and abs(top - 20) <= 1 and abs(left - 55) <= 1


def test_brightness_alone_does_not_attract_the_window():
    truth = np.repeat(np.linspace(60, 220, 80, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    truth[30:34, 10:14] = (0, 160, 0)  # in low light the bright right edge differs more, but holds nothing
    dark = (truth * 0.3).astype(np.uint8)
    raw = np.stack([truth, dark]).var(axis=0).sum(axis=2)
    assert raw[:, -10:].mean() > raw[28:38, 8:18].mean()
    top, left, side = zoom_window([truth, dark])
    assert top <= 30 and 34 <= top + side and left <= 10 and 14 <= left + side


def test_windows_stay_inside_and_sizes_must_agree():
    for size in ((1, 1), (3, 200), (64, 48)):
        top, left, side = zoom_window([flat(0, size), flat(9, size)])
        assert 0 <= top <= size[0] - side and 0 <= left <= size[1] - side and side >= 1
    with pytest.raises(ValueError, match="one size"):
        zoom_window([flat(0, (4, 4)), flat(0, (4, 5))])
    with pytest.raises(ValueError, match="one size"):
        zoom_window([])


def test_panels_stand_in_their_order(tmp_path):
    colours = {"input": (200, 30, 30), "ours": (30, 200, 30), "truth": (30, 30, 200)}
    rows = [("first", {name: flat(colour) for name, colour in colours.items()}), ("second", {"truth": flat((9, 9, 9))})]
    pdf, png = comparison_figure(rows, tmp_path / "figure.png")
    assert pdf.read_bytes()[:5] == b"%PDF-" and (pdf.name, png.name) == ("figure.pdf", "figure.png")
    # Three columns over the page; the first line takes the upper half, the second has its truth alone.
    for index, colour in enumerate(colours.values()):
        assert dominant(png, (index / 3 + 0.1, 0.15, index / 3 + 0.25, 0.4)) == colour
    assert dominant(png, (0.1, 0.65, 0.25, 0.9)) == (255, 255, 255)
    assert dominant(png, (0.75, 0.65, 0.9, 0.9)) == (9, 9, 9)


def test_the_inset_is_framed_and_enlarges_the_window(tmp_path):
    truth = flat((120, 120, 120), (60, 60))
    other = truth.copy()
    other[44:56, 44:56] = np.random.default_rng(0).choice([0, 255], (12, 12, 1)).astype(np.uint8)
    png = comparison_figure([("a", {"truth": truth, "other": other})], tmp_path / "f")[1]
    image = np.asarray(Image.open(png).convert("RGB")).astype(int)
    frame = np.abs(image - [int(PALETTE[1][i : i + 2], 16) for i in (1, 3, 5)]).sum(axis=2) < 12
    right = frame[:, frame.shape[1] // 2 :]
    rows, columns = np.nonzero(right)
    # The window is at the lower right of the right-hand panel; so its inset begins at the upper left of that panel.
    assert rows.min() < 0.15 * right.shape[0] and columns.min() < 0.15 * right.shape[1]
    assert rows.max() > 0.85 * right.shape[0] and columns.max() > 0.85 * right.shape[1]
    # Black and white of the noise: 144 pixels in the panel and enlarged (0.42 * 60 / 12 = 2.1 a side) in the inset.
    black = (image[:, frame.shape[1] // 2 :].sum(axis=2) < 60)[30:, :]
    upper = black[: black.shape[0] // 2].sum()
    lower = black[black.shape[0] // 2 :].sum()
    assert upper > 2 * lower > 0


def kept_run(tmp_path, rows):
    folder = write_run(tmp_path / "run", rows)
    write_images(folder, rows)
    return load_run(folder)


def test_the_median_image_is_shown(tmp_path):
    rows = made_up_rows(("low",), ("a", "b", "c"))
    for row, psnr in zip(rows, (30.0, 20.0, 21.0), strict=True):
        row["psnr"] = psnr
    run = kept_run(tmp_path, rows)
    assert median_image(run, "low") == 2  # the median of 20, 21, 30 is 21
    (run.folder / "restored/low/c.png").unlink()
    assert median_image(run, "low") == 0  # 30 and 20 are equally near to their median: the first
    assert median_image(run, "haze") is None


def test_the_papers_figures(tmp_path):
    run = kept_run(tmp_path, made_up_rows(names=("a",)))
    peer = {"peer": run.folder / "restored"}
    png = table_figure("table2", run, tmp_path / "figure2", peer)[1]
    width, height = Image.open(png).size
    # Eleven lines in two stacks of six: 6.9 inches at 300 dpi wide, and no higher than wide for images of 4:3.
    assert width == 2070 and height < width
    with pytest.raises(UserError, match="no images to show"):
        table_figure("udc", run, tmp_path / "figure3")
    with pytest.raises(UserError, match="nowhere"):
        table_figure("table2", run, tmp_path / "figure2", {"peer": tmp_path / "nowhere"})


def test_the_same_figure_is_the_same_file(tmp_path):
    run = kept_run(tmp_path, made_up_rows(("toled", "poled"), ("a",)))
    first = table_figure("udc", run, tmp_path / "one" / "figure3")
    again = table_figure("udc", run, tmp_path / "two" / "figure3")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_table_brings_its_figure(tmp_path):
    run = kept_run(tmp_path, made_up_rows(("toled", "poled"), ("a", "b")))
    write_table("udc", [run], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*figure*")} == {"udc_figure.pdf", "udc_figure.png"}


def test_silhouettes_are_of_the_raw_features(tmp_path):
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(20, 12)), rng.normal(size=(20, 12))])
    features[20:, 5:] += 2.0  # apart in seven dimensions, of which two components hold one
    labels = ["rain"] * 20 + ["haze"] * 20
    score = embedding_figure(features, labels, tmp_path / "pca")
    assert score == pytest.approx(np.mean(silhouette_samples(features, labels)))
    assert (tmp_path / "pca.pdf").is_file() and (tmp_path / "pca.png").is_file()
    with pytest.raises(ValueError, match=r"[Ll]abels"):
        embedding_figure(features, ["rain"] * 40, tmp_path / "pca")


def test_the_expert_map_tints_by_choice(tmp_path):
    # Cells of 60x40 over an image of 60x60: the second reaches 20 pixels beyond its edge.
    found = ExpertMap(np.array([[0, 1]]), ("kernel 3", "kernel 5"), (60.0, 40.0))
    expert_map_figure(flat(0, (60, 60)), {"layer": found}, tmp_path / "map")
    # 0.45 of the expert's colour over black: #0072B2 -> (0, 51, 80), #D55E00 -> (96, 42, 0).
    assert dominant(tmp_path / "map.png", (0.55, 0.15, 0.78, 0.35)) == pytest.approx((0, 51, 80), abs=1)
    assert dominant(tmp_path / "map.png", (0.86, 0.15, 0.97, 0.35)) == pytest.approx((96, 42, 0), abs=1)


def test_usage_is_shown_as_shares(tmp_path):
    for name, counts in (("one", [1, 3]), ("two", [25, 75]), ("other", [75, 25])):
        expert_usage_figure({"low": counts}, ["a", "b"], tmp_path / name)
    one, two, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_curves_and_planes_are_drawn(tmp_path):
    steps = np.arange(951, 0, -50)
    curves = {name: np.exp(-steps / (100 * (index + 1))) for index, name in enumerate(CDD11)}
    gate_figure(steps, curves, tmp_path / "gate", "mean |gate|")
    written = [tmp_path / "gate.pdf", tmp_path / "gate.png"]
    written += perception_distortion_figure({"input": (16.0, 0.5), "ours": (24.0, 0.2)}, tmp_path / "plane", "LPIPS")
    for path in written:
        assert path.stat().st_size > 5000


def test_no_two_curves_look_alike():
    assert len({look(index) for index in range(64)}) == 64
