import csv
import io
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from tests.results.made_up_run import CDD11, NAMES, made_up_info, made_up_rows, write_run, write_scores
from unildiff.metrics.rows import frame_of
from unildiff.results.notes import table_notes
from unildiff.results.render import render_csv, render_json, render_latex, render_markdown, render_text
from unildiff.results.runs import Stage, load_run, make_run
from unildiff.results.specs import SPECS, published
from unildiff.results.table_files import write_table
from unildiff.results.tables import build_table
from unildiff.utils.errors import UserError

FIVE = ("haze", "rain", "noise_25", "blur", "low")


def run_of(tmp_path, rows=None, stages=(), **changes):
    rows = rows or made_up_rows()
    return make_run(tmp_path, made_up_info(rows, **changes), rows, stages)


def row(table, label):
    return next(each for each in rows_of(table) if each.label == label)


def rows_of(table):
    """Rows as the JSON has them, with NaN for null and no ranks where nothing in a row can be ranked."""
    found = []
    for each in json.loads(render_json(table))["rows"]:
        for metric in ("psnr", "ssim"):
            each[metric] = tuple(math.nan if value is None else value for value in each[metric])
            each[f"{metric}_rank"] = tuple(each[f"{metric}_rank"])
        found.append(SimpleNamespace(**each))
    return found


def test_our_row_holds_the_means(tmp_path):
    rows = made_up_rows()
    table = build_table("table2", [run_of(tmp_path, rows)])
    ours = row(table, "made-up")
    assert table.columns[:4] == ["L", "H", "R", "S"]
    means = [np.mean([each["psnr"] for each in rows if each["degradation"] == degradation]) for degradation in CDD11]
    assert ours.psnr[:11] == pytest.approx(means)
    averages = dict(zip(table.columns[11:], ours.psnr[11:], strict=True))
    assert averages["single"] == pytest.approx(np.mean(means[:4]))
    assert averages["double"] == pytest.approx(np.mean(means[4:9]))
    assert averages["triple"] == pytest.approx(np.mean(means[9:]))
    assert averages["all"] == pytest.approx(np.mean([each["psnr"] for each in rows]))
    assert math.isnan(averages["printed"])
    # Inputs are 14, 15, ... 24 dB by construction: mean 19.
    assert row(table, "input").psnr[-2] == pytest.approx(19.0)


def test_the_papers_rows_are_as_printed(tmp_path):
    table = build_table("table2", [run_of(tmp_path, data_kind="real")])
    own = row(table, "UniLDiff (the paper's)")
    # The supplement: L 27.45/.830, L+H+S 25.50/.790, printed average 29.35/.886; the columns' mean is 321.92 / 11.
    assert (own.psnr[0], own.ssim[0], own.psnr[10], own.ssim[10]) == (27.45, 0.830, 25.50, 0.790)
    assert (own.psnr[-1], own.ssim[-1]) == (29.35, 0.886)
    assert own.psnr[-2] == pytest.approx(321.92 / 11)
    difference = row(table, "minus the paper's UniLDiff")
    assert difference.psnr[0] == pytest.approx(row(table, "made-up").psnr[0] - 27.45)


@pytest.mark.parametrize(
    ("info", "what"),
    [({"data_kind": "sample"}, "a sample set"), ({"data_kind": "real", "published": False}, "other images")],
)
def test_other_images_are_not_compared_with_published_rows(info, what, tmp_path):
    table = build_table("table2", [run_of(tmp_path, **info)])
    assert "difference" not in table.kinds and any(f"yours of {what}. They cannot" in note for note in table.notes)


def test_best_and_second_by_hand(tmp_path):
    # On the real set all compete: 27.40 in L is below the paper's 27.45 and above MoCE-IR-S's 27.26.
    rows = [each | {"psnr": 27.40, "ssim": 0.99} for each in made_up_rows()]
    real = build_table("table2", [run_of(tmp_path, rows, data_kind="real")])
    ranks = {each.label: each.psnr_rank[0] for each in rows_of(real)}
    assert {label: rank for label, rank in ranks.items() if rank} == {"UniLDiff (the paper's)": 1, "made-up": 2}
    # H, SSIM: OneRestore, MoCE-IR-S and ours print .990, which is one place for three; WGWSNet's .983 is second.
    ssim = {each.label: each.ssim_rank[1] for each in rows_of(real) if each.ssim_rank[1]}
    assert ssim == {"OneRestore": 1, "MoCE-IR-S": 1, "made-up": 1, "WGWSNet": 2}


def test_a_sample_set_is_ranked_separately_with_a_note(tmp_path):
    rows = [each | {"psnr": 99.0} for each in made_up_rows()]
    table = build_table("table2", [run_of(tmp_path, rows)])
    assert row(table, "UniLDiff (the paper's)").psnr_rank[0] == 1
    assert row(table, "made-up").psnr_rank[0] == 1
    assert any("They cannot be compared" in note for note in table.notes)
    assert "a sample set, not the dataset itself" in dict(table.header[0][1])["data"]


def test_reference_rows_never_win(tmp_path):
    round_trip = frame_of(made_up_rows(gain=30))
    table = build_table(
        "table2",
        [run_of(tmp_path, stages=[Stage("VAE round trip", round_trip, True), Stage("joint", round_trip)])],
    )
    assert not any(row(table, "VAE round trip").psnr_rank)
    assert row(table, "joint").psnr_rank[0] == 1


def test_the_interval_is_over_scenes(tmp_path):
    rows = made_up_rows(names=[f"s{index}" for index in range(30)])
    table = build_table("table2", [run_of(tmp_path, rows)])
    low, high = row(table, "95% interval, low"), row(table, "95% interval, high")
    index = table.columns.index("all")
    by_scene = np.array([each["psnr"] for each in rows]).reshape(11, 30).mean(axis=0)
    peer = stats.bootstrap((by_scene,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    assert (low.psnr[index], high.psnr[index]) == pytest.approx(tuple(peer.confidence_interval), abs=0.005)


def test_stages_seeds_and_comparisons(tmp_path):
    names = [f"s{index}" for index in range(12)]
    worse, better = made_up_rows(names=names), made_up_rows(names=names, gain=4.5)
    runs = [
        run_of(tmp_path / "a", worse, [Stage("after joint", frame_of(made_up_rows(names=names, gain=2)))]),
        run_of(tmp_path / "b", better, seed=2),
    ]
    table = build_table("table2", runs)
    labels = [each.label for each in rows_of(table)]
    assert labels.index("after joint") < labels.index("made-up, seed 1") < labels.index("made-up, seed 2")
    # Same noise, 0.5 dB apart: mean of the two in the middle, sample standard deviation 0.5 / sqrt(2).
    first = row(table, "made-up, seed 1").psnr
    assert row(table, "made-up: mean of 2 seeds").psnr[0] == pytest.approx(first[0] + 0.25)
    assert row(table, "made-up: std of 2 seeds").psnr[0] == pytest.approx(0.5 / math.sqrt(2))
    # A run of before, whose run.json says less of the sampler, had the paper's settings.
    usual = {"start": "lq", "last_timestep": 0, "guidance_interval": [0.0, 1.0], "tile_size": None}
    mixed = build_table("table2", [runs[0], run_of(tmp_path / "c", better, seed=2, **usual)])
    assert row(mixed, "made-up: mean of 2 seeds").psnr[:11] == row(table, "made-up: mean of 2 seeds").psnr[:11]
    notes = " ".join(table.notes)
    assert "seed 2 against made-up, seed 1: PSNR +0.50 dB (95% +0.50 to +0.50), higher in 12" in notes
    # 2 / 2^12 = 0.00049
    assert "sign test p = 0.00049: a difference" in notes
    assert "seed 1 against 'after joint': PSNR +2.00 dB" in notes


def test_captions_and_the_guidance_that_had_an_effect_are_shown(tmp_path):
    captioned = {"captioned_share": 0.25, "effective_guidance": 5.0}
    header = dict(build_table("table2", [run_of(tmp_path, **captioned)]).header[0][1])
    assert header["captions"] == "25% of the images" and "guidance used" not in header
    header = dict(build_table("table2", [run_of(tmp_path, captioned_share=0.0, effective_guidance=1.0)]).header[0][1])
    assert (header["captions"], header["guidance scale"], header["guidance used"]) == ("0% of the images", "5.0", "1")
    header = dict(build_table("table2", [run_of(tmp_path, stage="rival", captioned_share=0.0)]).header[0][1])
    assert not {"steps", "guidance scale", "captions"} & set(header)  # another method's network has no sampler


def test_another_sampler_is_another_method_and_shown(tmp_path):
    usual = {"start": "lq", "last_timestep": 0, "guidance_interval": [0.0, 1.0], "tile_size": None}
    rows = made_up_rows(("low", "haze"))
    first = run_of(tmp_path / "a", rows, **usual)
    table = build_table("table2", [first, run_of(tmp_path / "b", rows, seed=2, **usual)])
    assert sum(each.kind == "seeds" for each in rows_of(table)) == 2  # their mean and spread
    before = run_of(tmp_path / "before", rows)  # by a version that did not write it down
    headers = [dict(header) for _, header in (*table.header, *build_table("table2", [before]).header)]
    assert all(not {name.replace("_", " ") for name in usual} & set(header) for header in headers)
    for setting, shown in (
        ({"start": "noise"}, ("start", "noise")),
        ({"last_timestep": 600}, ("last timestep", "600")),
        ({"guidance_interval": [0.0, 0.5]}, ("guidance interval", "[0.0, 0.5]")),
        ({"tile_size": 256}, ("tile size", "256")),
    ):
        table = build_table("table2", [first, run_of(tmp_path / "b", rows, seed=2, **(usual | setting))])
        assert not any(each.kind == "seeds" for each in rows_of(table))
        assert shown not in table.header[0][1] and shown in table.header[1][1]


def test_three_scenes_are_too_few_to_tell(tmp_path):
    stage = Stage("after joint", frame_of(made_up_rows(gain=1)))
    notes = " ".join(build_table("table2", [run_of(tmp_path, stages=[stage])]).notes)
    assert "of 3 scenes, sign test p = 0.25: too few scenes to tell" in notes


def test_runs_that_name_a_column_differently_are_compared(tmp_path):
    first = run_of(tmp_path / "a", made_up_rows(("haze", "rain", "low")))
    second = run_of(tmp_path / "b", made_up_rows(("dehaze", "derain", "lowlight"), gain=4.5), label="second")
    notes = " ".join(table_notes(SPECS["table1"], [first, second], []))
    assert "second against made-up: PSNR +0.50 dB" in notes and "of 9 images" in notes


def test_runs_that_are_not_blind_are_marked(tmp_path):
    table = build_table("table2", [run_of(tmp_path, blind=False)])
    assert any(each.label == "made-up †" for each in rows_of(table))
    assert any(note.startswith("† was told") for note in table.notes)
    assert not any("†" in note for note in build_table("table2", [run_of(tmp_path)]).notes)


def test_the_other_tables(tmp_path):
    rows = made_up_rows(FIVE)
    five = build_table("table1", [run_of(tmp_path, rows, protocol="unildiff", data="five_task")])
    # The paper's ablation (arXiv 2507.23685) gives 30.27 as the five-task average of the full method.
    assert row(five, "UniLDiff (the paper's)").psnr[five.columns.index("mean")] == pytest.approx(30.27, abs=0.005)
    assert five.digits[1] == 4 and "printed" not in five.columns
    six = build_table("table3", [run_of(tmp_path, made_up_rows((*FIVE, "raindrop")), protocol="unildiff")])
    assert not math.isnan(row(six, "made-up").psnr[2])  # noise_25 stands in for noise
    udc = build_table("udc", [run_of(tmp_path, made_up_rows(("toled", "poled")), protocol="unildiff")])
    assert [each.kind for each in rows_of(udc)] == ["input", "run", "low", "high"]
    assert any("prints no numbers" in note for note in udc.notes)


def test_notes_state_what_limits_the_comparison(tmp_path):
    rows = made_up_rows((*CDD11, "fog"))
    rows[0] = rows[0] | {"psnr": math.inf}
    table = build_table("table2", [run_of(tmp_path, rows, data_kind="real", protocol="promptir", notes=["4 steps."])])
    notes = " ".join(table.notes)
    assert table.notes[0] == "4 steps."
    assert "protocol promptir; such numbers are usually given under onerestore" in notes
    assert "3 images of L, the published test set has 200" in notes
    assert "not a column of this table: fog (3)" in notes
    assert "1 images without a finite PSNR are left out" in notes
    assert row(table, "made-up").psnr[0] == pytest.approx((rows[1]["psnr"] + rows[2]["psnr"]) / 2)


def test_a_missing_degradation_leaves_its_averages_empty(tmp_path):
    table = build_table("table2", [run_of(tmp_path, made_up_rows(("low", "haze", "rain", "snow")))])
    figures = dict(zip(table.columns, row(table, "made-up").psnr, strict=True))
    assert math.isfinite(figures["single"]) and math.isnan(figures["L+H"]) and math.isnan(figures["all"])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_text_fits(tmp_path, width):
    runs = [
        run_of(tmp_path, made_up_rows(), blind=False, label="a label that is far too long for a table's first column")
    ]
    lines = render_text(build_table("table2", runs), width).splitlines()
    assert any(line.startswith("a label that is fa..") and "column †" in line for line in lines)
    assert max(len(line) for line in lines) <= width
    assert all(line == line.rstrip() for line in lines)


def test_every_renderer_holds_every_figure(tmp_path):
    table = build_table("table2", [run_of(tmp_path)])
    text = render_text(table)
    assert "27.45*" in text and "27.26'" in text  # the paper's column L
    assert "onerestore" in text and "0123abc" in text and "812 MiB" in text and "1.25 s" in text
    assert "33 (11 degradations, 3 each)" in text

    cells = [line.count("|") for line in render_markdown(table).splitlines() if line.startswith("|")]
    assert set(cells) == {len(table.columns) + 2} and len(cells) == len(table.labels) + 2
    assert "**27.45** / **0.830**" in render_markdown(table) and "<ins>27.26</ins>" in render_markdown(table)

    latex = render_latex(table)
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in body[1:]} == {2 * len(table.columns)}
    assert r"\textbf{27.45}" in latex and r"\underline{27.26}" in latex
    assert not re.search(r"(?<!\\)[_#]", latex)  # 95\% and names are escaped
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")

    lines = list(csv.DictReader(io.StringIO(render_csv(table))))
    assert [line["row"] for line in lines] == [each.label for each in rows_of(table)]
    assert float(lines[6]["L+H+S SSIM"]) == 0.790 and lines[7]["printed PSNR"] == ""

    data = json.loads(render_json(table))
    assert data["rows"][6]["psnr"][0] == 27.45 and data["rows"][7]["psnr"][-1] is None


def test_write_table_writes_every_format(tmp_path):
    stages = [("after joint", made_up_rows(gain=2), False)]
    folder = write_run(tmp_path / "run", stages=stages)
    text = write_table("table2", [load_run(folder)], tmp_path / "out", width=80)
    assert text == render_text(build_table("table2", [load_run(folder)]), 80)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"table2.{suffix}" for suffix in ("txt", "md", "tex", "csv", "json")} | {"table2_images.csv"}
    with (tmp_path / "out/table2_images.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 33
    rows = {(each["degradation"], each["name"]): each["psnr"] for each in made_up_rows()}
    for line in lines[33:]:
        assert line["stage"] == "final" and float(line["psnr"]) == rows[line["degradation"], line["name"]]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    first = run_of(tmp_path / "a")
    with pytest.raises(UserError, match="no run"):
        build_table("table2", [])
    with pytest.raises(UserError, match="no such table"):
        build_table("table9", [first])
    with pytest.raises(UserError, match="expected toled, poled"):
        build_table("udc", [first])
    others = [
        (run_of(tmp_path / "b", protocol="promptir"), "protocol of"),
        (run_of(tmp_path / "b", data_kind="real"), "data_kind of"),
        (run_of(tmp_path / "b", made_up_rows(names=(*NAMES[:2], "chelsea"))), "chelsea|rocket"),
        (run_of(tmp_path / "b", [each | {"input_psnr": 9.0} for each in made_up_rows()]), "had different inputs"),
    ]
    for other, message in others:
        with pytest.raises(UserError, match=message):
            build_table("table2", [first, other])


def test_the_specs_name_the_papers_columns():
    figures = published()[lambda found: found["source"] == "paper"]
    for table_id, rows in figures.groupby("table"):
        printed = list(dict.fromkeys(rows["column"]))
        assert [column.title for column in SPECS[table_id].columns] == [name for name in printed if name != "printed"]
    assert tuple(column.keys[0] for column in SPECS["table2"].columns) == CDD11


def test_recent_methods_are_in_the_printed_column_on_request(tmp_path):
    run = run_of(tmp_path, data_kind="real")
    assert not any("[S]" in label for label in build_table("table2", [run]).labels)
    table = build_table("table2", [run], "all")
    mirage = row(table, "MIRAGE (10 M) [S]")
    assert (mirage.psnr[-1], mirage.ssim[-1]) == (29.33, 0.887) and math.isnan(mirage.psnr[0])
    best = [each.label for each in rows_of(table) if each.psnr_rank[-1] in (1, 2)]
    assert best == ["AllRestorer [S]", "DCPT_NAFNet [S]"]  # the paper's 29.35 dB is not the highest any more
    assert any("survey" in note for note in table.notes)


def test_three_tasks_and_single_tasks_have_tables(tmp_path):
    rows = made_up_rows(("haze", "rain", "noise_15", "noise_25", "noise_50"))
    table = build_table("three_task", [run_of(tmp_path, rows, protocol="promptir", data_kind="real")], "all")
    assert table.columns == ["Dehazing", "Deraining", "Noise 15", "Noise 25", "Noise 50", "mean", "printed"]
    assert row(table, "AdaIR [S]").psnr[-1] == 32.69 and math.isnan(row(table, "made-up").psnr[-1])
    single = build_table("single", [run_of(tmp_path, made_up_rows(("raindrop",)), protocol="promptir")])
    assert single.columns == ["raindrop"] and "made-up" in single.labels


def test_a_sampler_that_stops_early_is_described(tmp_path):
    header = dict(build_table("table2", [run_of(tmp_path, last_timestep=900, first_timestep=999)]).header[0][1])
    assert header["steps"] == "20 Euler steps from t = 999 to 900, then a jump to x0"


def test_scores_without_provenance_leave_cells_empty(tmp_path):
    rows = [{key: each[key] for key in ("degradation", "name", "psnr")} for each in made_up_rows()]
    write_scores(tmp_path / "mine.csv", rows)
    full, mine = load_run(write_run(tmp_path / "run")), load_run(tmp_path / "mine.csv")
    table = build_table("table2", [full, mine])
    assert math.isnan(row(table, "mine").ssim[0]) and row(table, "mine").psnr[0] == row(table, "made-up").psnr[0]
    assert dict(table.header[1][1])["protocol"] == "not recorded"
    alone = build_table("table2", [mine])
    assert "input" not in alone.labels and not any("†" in label for label in alone.labels)
