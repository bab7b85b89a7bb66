import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from tests.results.chromium import Browser
from tests.results.made_up_run import made_up_rows, write_images, write_run
from unildiff.cli.commands.report import report
from unildiff.results.curves import curves_by_folder, drawn_curves
from unildiff.results.report import image_side, write_report
from unildiff.results.runs import load_run
from unildiff.results.specs import fitting_table
from unildiff.utils.errors import UserError

ODD = "</script><b>\"low\" & 'haze'"  # a name that would break a careless page


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A scored run with images, curves, a config and a figure; the worst image is haze / coffee at 3.25 dB."""
    folder = tmp_path_factory.mktemp("runs") / "joint"
    rows = [row | {"gmsd": 0.2 - 0.001 * index} for index, row in enumerate(made_up_rows())]
    worst = next(row for row in rows if (row["degradation"], row["name"]) == ("haze", "coffee"))
    worst |= {"psnr": 3.25}
    write_run(folder, rows, stages=[("after joint", made_up_rows(gain=2), False)], label=ODD)
    write_images(folder, rows)
    (folder / "config.yaml").write_text("model:\n  seed: 17\n")
    (folder / "figures").mkdir()
    Image.new("RGB", (50, 40), (0, 114, 178)).save(folder / "figures" / "gate.png")
    write_curves(folder / "logs")
    return folder


def write_curves(folder, steps=range(0, 3000, 2), scale=1.0):
    writer = SummaryWriter(folder)
    for step in steps:
        writer.add_scalar("train/loss", scale / (step + 1), step)
    writer.add_scalar("val/psnr", 21.5, 7)
    writer.add_text("note", "no curve")
    writer.add_scalar("hp_metric", -1.0, 0)
    writer.add_histogram("weights", np.arange(9.0))
    writer.close()


@pytest.fixture(scope="module")
def page(run_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    write_report([run_folder], out)
    return out


class Links(HTMLParser):
    """Collects everything that a browser might fetch, and checks that tags close."""

    def __init__(self):
        super().__init__()
        self.found, self.stack = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        if tag not in ("meta", "link", "img", "input", "path", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.stack.pop() == tag


def test_the_page_is_self_contained(page):
    text = page.read_text()
    links = Links()
    links.feed(text)
    assert links.stack == []
    assert links.found and all(link.startswith(("data:", "#")) for link in links.found)
    outside_of_images = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", outside_of_images)


def test_the_page_holds_every_part(page):
    text = page.read_text()
    for part in (
        "Table 2: CDD-11",
        "OneRestore",
        "after joint",
        "train/loss",
        "val/psnr",
        "seed: 17",
        "0123abc",
        "2.14.1",
    ):
        assert part in text
    assert ODD not in text.split('<script type="application/json"')[0]
    data = embedded(text)
    assert data["runs"] == [ODD]
    assert [metric["key"] for metric in data["metrics"]] == ["psnr", "gain", "ssim", "gmsd", "input_psnr", "input_ssim"]
    assert len(data["rows"]) == 33 and all(set(row["images"]) == {"input", "restored", "truth"} for row in data["rows"])
    coffee = next(row for row in data["rows"] if (row["degradation"], row["name"]) == ("haze", "coffee"))
    assert coffee["values"][:2] == [3.25, 3.25 - 15.0]  # made_up_rows gives haze an input of 15 dB
    assert coffee["size"] == [64, 48]


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_equal_images_are_embedded_once_and_reduced(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    rows = made_up_rows(("mine",), ("a", "b"))
    folder = write_run(tmp_path / "run", rows)
    for name in "ab":
        for kind in ("restored", "truth"):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(image if kind == "truth" else image[::-1]).save(folder / kind / f"{name}.png")
    write_report([folder], tmp_path / "report.html")
    data = embedded((tmp_path / "report.html").read_text())
    assert data["rows"][0]["images"] == data["rows"][1]["images"] and len(data["images"]) == 2
    assert data["rows"][0]["size"] == [900, 300]
    kept = base64.b64decode(next(iter(data["images"].values())).split(",")[1])
    assert Image.open(io.BytesIO(kept)).size == (640, 213)
    # 2,200 images of CDD-11 with inputs and 200 ground truths: sqrt(48 MiB / 4600 / 0.3) = 191 pixels; a few: 640.
    assert image_side(4600) == 190 and image_side(3) == 640 and image_side(10**6) == 160


def test_curves_are_read_back(tmp_path):
    write_curves(tmp_path, range(10))
    write_curves(tmp_path, range(8, 12), scale=5.0)  # resumed: steps 8 and 9 again
    curves = curves_by_folder(tmp_path, "run")["run"]
    assert set(curves) == {"train/loss", "val/psnr"}
    assert curves["train/loss"].index.to_list() == list(range(12))
    expected = [1 / (step + 1) for step in range(8)] + [5 / (step + 1) for step in range(8, 12)]
    assert curves["train/loss"].to_list() == pytest.approx(expected, rel=1e-6)
    assert curves["val/psnr"].to_list() == [21.5]


def test_a_truncated_file_gives_its_readable_part(tmp_path):
    write_curves(tmp_path, range(100))
    path = next(tmp_path.glob("events*"))
    path.write_bytes(path.read_bytes()[:2000])
    kept = curves_by_folder(tmp_path, "run")["run"]["train/loss"]
    assert 5 < len(kept) < 100 and kept[3] == pytest.approx(0.25)


def test_each_event_folder_is_a_curve(tmp_path):
    for stage, scale in (("alignment", 1.0), ("joint", 3.0)):
        write_curves(tmp_path / "run" / stage / "logs", range(5), scale)
    curves = curves_by_folder(tmp_path / "run", "demo")
    assert list(curves) == ["demo/alignment/logs", "demo/joint/logs"]
    assert [found["train/loss"].iloc[0] for found in curves.values()] == [1.0, 3.0]
    report([tmp_path / "run"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="curve"') == 2  # train/loss and val/psnr, two lines each
    assert "run/alignment/logs: 0.2 at step 4" in text and "run/joint/logs: 0.6 at step 4" in text
    assert "hp_metric" not in text


def test_curves_are_drawn():
    straight = pd.Series([0.0, 1.0, 2.0], [0, 50, 100])
    broken = pd.Series([np.nan, np.inf])
    ((tag, image, legend),) = drawn_curves({"a": {"x": straight}, "b": {"x": broken}})
    assert tag == "x" and legend == ["a: 2 at step 100", "b, 2 values not finite"]
    svg = base64.b64decode(image.removeprefix("data:image/svg+xml;base64,")).decode()
    assert "<svg" in svg and ">step<" in svg and "http://www.w3.org/1999/xlink" in svg
    many = pd.Series(1 / (1 + np.arange(100_000.0)))
    ((_, image, _),) = drawn_curves({"a": {"x": many}})
    assert len(image) < 60_000 and "10^{" in base64.b64decode(image.split(",")[1]).decode().replace("$", "")


def test_only_files_of_the_run_or_of_a_named_root_are_embedded(tmp_path):
    secret = tmp_path / "private" / "secret.png"
    secret.parent.mkdir()
    Image.new("RGB", (20, 10), (200, 0, 0)).save(secret)
    rows = [row | {"input_path": str(secret)} for row in made_up_rows(("mine",), ("a",))]
    folder = write_run(tmp_path / "run", rows)
    (folder / "figures").mkdir()
    (folder / "figures" / "gate.png").symlink_to(secret)
    (folder / "config.yaml").symlink_to("/etc/hostname")
    report([folder], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "data:image/webp" not in text and "config.yaml" not in text
    report([folder], tmp_path / "report.html", [tmp_path / "private"])
    data = embedded((tmp_path / "report.html").read_text())
    assert data["rows"][0]["size"] == [20, 10]


def test_runs_find_their_table(tmp_path):
    assert fitting_table(load_run(write_run(tmp_path / "a"))) == "table2"
    five = made_up_rows(("haze", "rain", "noise_25", "blur", "low"))
    assert fitting_table(load_run(write_run(tmp_path / "b", five))) == "table1"
    six = made_up_rows(("haze", "rain", "noise_25", "blur", "low", "raindrop"))
    assert fitting_table(load_run(write_run(tmp_path / "c", six))) == "table3"
    assert fitting_table(load_run(write_run(tmp_path / "d", made_up_rows(("toled",))))) == "udc"
    assert fitting_table(load_run(write_run(tmp_path / "e", made_up_rows(("mine",))))) == "single"


def test_runs_of_any_kind_are_reported(tmp_path):
    write_run(tmp_path / "mine" / "test", made_up_rows(("mine",)))
    write_curves(tmp_path / "training", range(3))
    report([tmp_path / "mine", tmp_path / "training"], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Means by degradation" in text and "The runs kept no images." in text
    data = embedded(text)
    assert len(data["rows"]) == 3 and data["images"] == {}


def test_folders_of_one_name_are_told_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 0)):
        write_run(tmp_path / name / "1" / "test", made_up_rows(("mine",)), seed=seed)
        (tmp_path / name / "1" / "config.yaml").write_text("seed: 0\n")
    report([tmp_path / name / "1" for name in ("a", "b")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<title>UniLDiff report: a, b</title>" in text
    assert "<summary>a: config.yaml</summary>" in text and "<summary>b: config.yaml</summary>" in text
    assert embedded(text)["runs"] == ["made-up, a", "made-up, b"]
    write_run(tmp_path / "c" / "1" / "test", made_up_rows(("toled", "poled")), data="udc")
    report([tmp_path / name / "1" for name in ("a", "c")], tmp_path / "report.html")
    assert embedded((tmp_path / "report.html").read_text())["runs"] == ["made-up, cdd11", "made-up, udc"]


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least one run"):
        report([], tmp_path / "report.html")
    with pytest.raises(UserError, match="no such folder"):
        report([tmp_path / "none"], tmp_path / "report.html")
    with pytest.raises(UserError, match="not a run"):
        report([tmp_path], tmp_path / "report.html")
    folder = write_run(tmp_path / "run", count=34)
    with pytest.raises(UserError, match="wrong number of images"):
        report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder but a file"):
        report([folder], tmp_path / "file" / "report.html")
    with pytest.raises(UserError, match="not a file but a folder"):
        report([folder], tmp_path / "run")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


ORDER = (
    "[...document.querySelectorAll('#scores tbody tr')].map(row => row.innerText.split('\\t').slice(0, 3).join(' '))"
)
CARDS = "[...document.querySelectorAll('.card')].map(card => card.querySelector('strong').textContent)"


def filled(browser, card):
    """Scroll a card into view, wait until it has its slider, and return the slider's rectangle."""
    browser.run(f"document.querySelectorAll('.card')[{card}].scrollIntoView({{block: 'center'}})")
    return browser.run(
        f"""new Promise((resolve) => {{
          const look = () => {{
            const card = document.querySelectorAll('.card')[{card}];
            const input = card.querySelector('input');
            const ready = input && [...card.querySelectorAll('img')].every((image) => image.complete && image.naturalWidth);
            if (!ready) return setTimeout(look, 20);
            const {{x, y, width, height}} = input.getBoundingClientRect();
            resolve({{x, y, width, height}});
          }};
          look();
        }})"""
    )


def classes_at(browser, x, y):
    """Classes of the elements that a point of the viewport hits, clipped parts left out."""
    return browser.run(f"document.elementsFromPoint({x}, {y}).map(element => element.className)")


def test_the_slider_moves_and_the_table_sorts(browser, page):
    browser.resize(1280, 900)
    browser.open(page.as_uri())

    # Worst first, in the table and in the gallery.
    assert browser.run(ORDER)[0] == "haze coffee 3.25"
    assert browser.run(CARDS)[0] == "haze / coffee"
    assert len(browser.run(ORDER)) == len(browser.run(CARDS)) == 33
    values = [float(line.split()[2]) for line in browser.run(ORDER)]
    assert values == sorted(values)

    # A real click at a quarter of the image's width moves the slider there: what is left of it is the input.
    box = filled(browser, 0)
    assert box["width"] > 200
    middle = box["y"] + box["height"] / 2
    browser.click(box["x"] + box["width"] / 4, middle)
    assert browser.run("Number(document.querySelector('.card input').value)") == pytest.approx(25, abs=1)
    assert "left" in classes_at(browser, box["x"] + 5, middle)
    seen = classes_at(browser, box["x"] + box["width"] * 0.4, middle)  # here the input's image is clipped away
    assert "left" not in seen and "right" in seen

    # The keyboard moves it too.
    browser.run("document.querySelector('.card input').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    assert browser.run("Number(document.querySelector('.card input').value)") == pytest.approx(25.5, abs=1)

    # Sorting: SSIM first worst, then best; GMSD, where lower is better, first highest; text by the alphabet.
    def head(title):
        browser.run(f"[...document.querySelectorAll('#scores button')].find(b => b.textContent === '{title}').click()")
        return browser.run("[...document.querySelectorAll('#scores th[aria-sort]')].map(th => th.ariaSort)")

    ssim = "[...document.querySelectorAll('#scores tbody tr')].map(row => Number(row.children[4].innerText))"
    assert head("SSIM") == ["ascending"] and browser.run(ssim) == sorted(browser.run(ssim))
    assert head("SSIM") == ["descending"] and browser.run(ssim) == sorted(browser.run(ssim), reverse=True)
    assert head("GMSD") == ["descending"] and browser.run(ORDER)[0].startswith("low astronaut")
    assert head("name") == ["ascending"]
    assert [line.split()[1] for line in browser.run(ORDER)] == ["astronaut"] * 11 + ["coffee"] * 11 + ["rocket"] * 11

    # Filters, and the choice of what is compared.
    browser.run(
        "for (const [id, value] of [['filter-degradation', 'snow'], ['filter-name', 'ROCK']])"
        " { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    assert [line.rsplit(" ", 1)[0] for line in browser.run(ORDER)] == ["snow rocket"]
    assert browser.run("document.getElementById('shown').value") == "1 of 33 images"
    filled(browser, 0)
    browser.run(
        "{ const e = document.getElementById('pair'); e.value = 1; e.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    tags = browser.run("[...document.querySelectorAll('.card .tag')].map(tag => tag.textContent)")
    assert sorted(tags) == ["restored", "truth"]

    assert browser.run("document.querySelectorAll('b').length > 0 && document.body.innerText.includes('</script>')")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]


def test_the_page_fits_a_phone(browser, page, tmp_path):
    browser.resize(390, 844, mobile=True)
    browser.open(page.as_uri())
    box = filled(browser, 3)
    assert browser.run("document.documentElement.scrollWidth") == 390  # wide tables scroll inside themselves
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["width"] > 300
    browser.screenshot(tmp_path / "phone.png")
    assert Image.open(tmp_path / "phone.png").size == (390, 844)
    assert browser.errors == []
