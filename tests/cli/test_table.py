import csv
import hashlib
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.results.made_up_run import CDD11, made_up_rows, write_images, write_run
from unildiff.cli.commands.compare import compare
from unildiff.cli.commands.score import score
from unildiff.cli.commands.table import table
from unildiff.cli.main import main
from unildiff.results.runs import load_run
from unildiff.utils.errors import UserError

SCENES = [f"s{index:02}" for index in range(12)]


def one_error(function, arguments, capsys):
    assert main([function.__name__, *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unildiff: error: ") and error.count("\n") == 1
    return error


def test_the_table_command(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert main(["table", "table2", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "OneRestore" in capsys.readouterr().out and (tmp_path / "out" / "table2.tex").is_file()
    assert "no image of this table" in one_error(table, ["udc", folder], capsys)
    assert "did you mean --out" in one_error(table, ["udc", folder, "--outt", "x"], capsys)
    assert "not a folder but a file" in one_error(table, ["table2", folder, "--out", folder / "run.json"], capsys)
    assert "label missing" in one_error(table, ["table2", folder, "--others", "peer"], capsys)


def test_checkpoints_of_one_label_are_seeds_of_one_thing(tmp_path, capsys):
    # Two trainings of one recipe, 1 dB apart, tested with the same seed; and another recipe.
    for name, gain in (("one", 4.0), ("two", 5.0), ("plain", 3.0)):
        write_run(tmp_path / name / "test", made_up_rows(gain=gain), model=f"{name}.ckpt")
    named = [
        f"{label}={tmp_path / name / 'test'}"
        for label, name in (("full", "one"), ("full", "two"), ("no DAFF", "plain"))
    ]
    assert main(["table", "table2", *named, "--out", str(tmp_path)]) == 0
    rows = {row["label"].strip(): row for row in json.loads((tmp_path / "table2.json").read_text())["rows"]}
    assert {"full, one", "full, two", "no DAFF"} < set(rows)
    assert not [label for label in rows if "no DAFF: mean" in label]
    low = rows["full, one"]["psnr"][0]
    assert rows["full: mean of 2 seeds"]["psnr"][0] == pytest.approx(low + 0.5)
    assert rows["full: std of 2 seeds"]["psnr"][0] == pytest.approx(1 / np.sqrt(2))


def test_without_labels_folders_set_checkpoints_apart(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name / "test")
    table("table2", [str(tmp_path / name / "test") for name in ("a", "b")], tmp_path)
    text = (tmp_path / "table2.md").read_text()
    assert re.search(r"\| made-up, a +\|", text) and re.search(r"\| made-up, b +\|", text)


def test_seeds_may_draw_other_noise_but_not_other_images(tmp_path):
    noisy = [row | {"input_psnr": row["input_psnr"] + 0.02} for row in made_up_rows()]
    first = write_run(tmp_path / "first")
    same, other = write_run(tmp_path / "same", noisy), write_run(tmp_path / "other", noisy, seed=2)
    table("table2", [str(first), str(other)], tmp_path)
    with pytest.raises(UserError, match="had different inputs"):
        table("table2", [str(first), str(same)], tmp_path)


def test_other_methods_stand_in_the_figure(tmp_path):
    rows = made_up_rows(("toled", "poled"), ("a",))
    folder = write_run(tmp_path / "run", rows)
    write_images(folder, rows)
    sizes = []
    for others in ([], [f"peer={folder / 'input'}"]):
        table("udc", [str(folder)], tmp_path / "out", others)
        sizes.append(Image.open(tmp_path / "out" / "udc_figure.png").size)
    assert sizes[1][1] < sizes[0][1]  # a fourth column of the same page makes panels smaller
    with pytest.raises(UserError, match="nowhere"):
        table("udc", [str(folder)], tmp_path / "out", ["peer=nowhere"])


def lines_of(text, head):
    """Cells of the lines between a heading and the next empty line, by their first word."""
    block = text.split(head, 1)[1].split("\n\n")[0].splitlines()[2:]
    return {line.split()[0]: line.split() for line in block}


def test_two_runs_are_compared_by_degradation(tmp_path, capsys):
    gains = made_up_rows(names=SCENES)
    for index, row in enumerate(gains):  # low: +1 everywhere but in s00, where it is -2; the rest: +0.5
        row["psnr"] += 0.5 if row["degradation"] != "low" else 1.0 if index else -2.0
    first, second = write_run(tmp_path / "a", made_up_rows(names=SCENES)), write_run(tmp_path / "b", gains)
    out = tmp_path / "differences.csv"
    assert main(["compare", str(first), str(second), "--metrics", "psnr", "--csv", str(out)]) == 0
    text = capsys.readouterr().out
    lines = lines_of(text, "PSNR, second minus first")
    # low: mean (11 - 2) / 12 = 0.75, 11 higher and 1 lower; p = 2 * (1 + 12) / 2^12 = 0.0063.
    assert lines["low"][1] == "+0.75" and lines["low"][5:9] == ["11", "1", "12", "0.0063"]
    assert lines["haze"][1:5] == ["+0.50", "+0.50", "to", "+0.50"] and text.count("a difference") >= 11
    # All: s00 (-2 + 10 * 0.5) / 11 = 0.2727, the others (1 + 10 * 0.5) / 11; scenes count once, so 12 and not 132.
    assert lines["mean"][3] == f"{(3 + 11 * 6) / 11 / 12:+.2f}" and lines["mean"][7:10] == ["12", "0", "12"]
    assert "lowest: low/s00 -2.00" in text
    with out.open() as file:
        written = {(row["degradation"], row["name"]): row for row in csv.DictReader(file)}
    assert len(written) == 132 and float(written["low", "s00"]["psnr_difference"]) == pytest.approx(-2)


def test_a_few_images_are_not_enough(tmp_path, capsys):
    folders = [write_run(tmp_path / str(gain), made_up_rows(("mine",), gain=gain)) for gain in (4.0, 9.0)]
    compare(*folders)
    assert "too few images to tell" in capsys.readouterr().out


def test_tasks_of_unequal_size_weigh_the_same(tmp_path, capsys):
    rows = made_up_rows(("haze",), SCENES) + made_up_rows(("blur",), SCENES[:2])
    better = [row | {"psnr": row["psnr"] + (1.0 if row["degradation"] == "blur" else 0.0)} for row in rows]
    compare(write_run(tmp_path / "a", rows), write_run(tmp_path / "b", better), ["psnr"])
    lines = lines_of(capsys.readouterr().out, "PSNR, second minus first")
    assert lines["mean"][3] == "+0.50" and lines["mean"][9] == "14"  # not (12 * 0 + 2 * 1) / 14


def test_what_score_wrote_is_compared_too(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder, noise in (("clean", 0), ("one", 20), ("two", 5)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            image = np.random.default_rng(ord(name)).integers(30, 200, (32, 32, 3))
            noisy = image + rng.normal(0, noise, image.shape) if noise else image
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    for folder, file in (("one", {"csv": tmp_path / "one.csv"}), ("two", {"json": tmp_path / "two.json"})):
        score(tmp_path / folder, tmp_path / "clean", "onerestore", **file)
    score(tmp_path / "one", tmp_path / "clean", "promptir", json=tmp_path / "other.json")
    score(tmp_path / "one", tmp_path / "clean", "all", json=tmp_path / "all.json")
    capsys.readouterr()
    old = tmp_path / "old.json"  # as 0.1.0 wrote it
    old.write_text((tmp_path / "two.json").read_text().replace('"images":', '"pictures":'))
    compare(tmp_path / "one.csv", old)
    text_of_old = capsys.readouterr().out.replace("old", "two")
    compare(tmp_path / "one.csv", tmp_path / "two.json")
    text = capsys.readouterr().out
    assert "protocol: onerestore" in text and lines_of(text, "PSNR, second")["all"][5:7] == ["2", "0"]
    assert text == text_of_old
    for other, message in (("other.json", "protocols differ"), ("all.json", "several protocols")):
        assert message in one_error(compare, [tmp_path / "two.json", tmp_path / other], capsys)


def test_comparisons_that_make_no_sense_are_refused(tmp_path, capsys):
    first = write_run(tmp_path / "a")
    other = write_run(tmp_path / "b", made_up_rows(names=("astronaut", "coffee", "chelsea")))
    assert "22 are only in one" in one_error(compare, [first, other], capsys)
    assert "no metric lpips" in one_error(compare, [first, first, "--metrics", "lpips"], capsys)
    assert "not a scored run" in one_error(compare, [first, tmp_path / "none.csv"], capsys)
    (tmp_path / "a.csv").write_text("name,psnr\na,good\n")
    assert "column psnr, 'good'" in one_error(compare, [tmp_path / "a.csv", first], capsys)
    assert load_run(first).group == ""


def other_method(tmp_path):
    """A set of eleven degradations of one scene in folders: restored by a method of somebody else, input, ground truth."""
    rng = np.random.default_rng(3)
    scene = rng.integers(40, 200, (32, 32, 3)).astype(np.uint8)
    for kind, noise in (("restored", 6), ("input", 25)):
        for degradation in CDD11:
            (tmp_path / kind / degradation).mkdir(parents=True)
            noisy = scene + rng.normal(0, noise, scene.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / kind / degradation / "s0.png")
    (tmp_path / "gt").mkdir()
    Image.fromarray(scene).save(tmp_path / "gt" / "s0.png")
    return tmp_path / "restored", tmp_path / "gt", tmp_path / "input"


def table_rows(folder):
    return {row["label"]: row for row in json.loads((folder / "table2.json").read_text())["rows"]}


def test_another_method_is_scored_and_stands_in_the_table(tmp_path, capsys):
    restored, gt, lq = other_method(tmp_path)
    run_dir, bundle = tmp_path / "run", tmp_path / "mine.zip"
    arguments = ["score", restored, gt, "--input", lq, "--label", "MINE"]  # low is a folder of CDD-11: its protocol
    arguments += ["--run_dir", run_dir, "--bundle", bundle, "--images", "true", "--data_kind", "real"]
    assert main([*map(str, arguments)]) == 0
    ours = write_run(tmp_path / "ours", made_up_rows(names=("s0",)), data_kind="real")
    with (run_dir / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    input_psnr = float(scores[0]["input_psnr"])
    assert input_psnr < 22 < float(scores[0]["psnr"])
    assert main(["table", "table2", str(run_dir), str(bundle), "--out", str(tmp_path / "t")]) == 0
    rows = table_rows(tmp_path / "t")
    low = next(float(line["psnr"]) for line in scores if line["degradation"] == "low")
    assert rows["MINE, run"]["psnr"][0] == pytest.approx(low) == rows["MINE, mine.zip"]["psnr"][0]
    assert rows["input"]["psnr"][0] == pytest.approx(
        next(float(line["input_psnr"]) for line in scores if line["degradation"] == "low")
    )
    assert (tmp_path / "t" / "table2_figure.png").is_file()  # --images put them into the run
    assert "had different inputs" in one_error(table, ["table2", ours, run_dir], capsys)
    assert "already holds a run" in one_error(score, [restored, gt, "--run_dir", run_dir], capsys)


def test_scores_of_a_sample_set_are_marked_and_a_missing_seed_is_not_shown(tmp_path):
    restored, gt, _ = other_method(tmp_path)
    (gt.parent / ".unildiff-sample.json").write_text('{"sample": "cdd11"}')
    score(restored, gt, label="a", run_dir=tmp_path / "one")
    info = json.loads((tmp_path / "one" / "run.json").read_text())
    assert (info["data"], info["data_kind"], info["protocol"]) == ("cdd11", "sample", "onerestore")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "run.json").write_text(json.dumps(info | {"seed": 0}))
    table("table2", [str(tmp_path / name) for name in ("one", "two")], tmp_path / "t")
    assert {"a", "a, seed 0"} <= set(table_rows(tmp_path / "t"))
    assert not any(label.startswith("minus the paper") for label in table_rows(tmp_path / "t"))


def test_a_changed_bundle_is_refused(tmp_path, capsys):
    restored, gt, _ = other_method(tmp_path)
    score(restored, gt, "onerestore", bundle=tmp_path / "b.zip", images=True)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["bundle.json"])
    expected = hashlib.sha256((restored / "low" / "s0.png").read_bytes()).hexdigest()
    assert {"kind": "restored", "name": "low/s0.png", "sha256": expected} in manifest["files"]
    assert manifest["protocol"]["window"] == "uniform7" and manifest["versions"]["torch"]
    for changed, content, message in (
        ("scores.csv", members["scores.csv"].replace(b".", b"9.", 1), "scores.csv does not have the recorded hash"),
        ("restored/low/s0.png", members["restored/rain/s0.png"], "restored/low/s0.png does not have the recorded hash"),
        ("bundle.json", b"{}", "not a score bundle"),
    ):
        with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
            for name, data in (members | {changed: content}).items():
                archive.writestr(name, data)
        assert message in one_error(table, ["table2", tmp_path / "changed.zip"], capsys)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "b.zip").read_bytes()[:1000])
    assert "not a score bundle" in one_error(table, ["table2", tmp_path / "cut.zip"], capsys)


def test_a_flat_folder_gets_its_degradation_by_name(tmp_path):
    restored, gt, _ = other_method(tmp_path)
    score(restored / "rain", gt, degradation="rain", run_dir=tmp_path / "run")
    table("table1", [str(tmp_path / "run")], tmp_path / "t")
    rows = {row["label"]: row for row in json.loads((tmp_path / "t" / "table1.json").read_text())["rows"]}
    assert rows["rain"]["psnr"][1] > 20 and rows["rain"]["psnr"][0] is None


def test_a_folder_of_bundles_becomes_a_leaderboard(tmp_path, capsys):
    restored, gt, lq = other_method(tmp_path)
    folder = tmp_path / "bundles"
    score(restored, gt, "onerestore", label="<b>good</b>", bundle=folder / "good.zip", data="cdd11", blind=True)
    score(lq, gt, "onerestore", label="nothing", bundle=folder / "nothing.zip", data="cdd11", blind=False)
    (folder / "broken.zip").write_bytes(b"PK")
    capsys.readouterr()
    assert main(["leaderboard", str(folder), "--out", str(tmp_path / "board.html")]) == 0
    page = (tmp_path / "board.html").read_text()
    assert page.index("&lt;b&gt;good") < page.index("nothing") and "<b>good" not in page  # the better first, escaped
    assert "not blind" in page and not re.search(r"https?://", page)
    assert "broken.zip" in capsys.readouterr().err
