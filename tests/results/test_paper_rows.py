import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from unildiff.results.paper_rows import DEFAULT_FILE, load_paper, main, parse_supplement
from unildiff.results.tables_notes import average_errors, consistency_notes
from unildiff.utils.errors import UserError

# Sums of each printed row, made with awk over the supplement's text (not with the parser under test).
SUMS = {
    "table1": {
        "PromptIR": ("148.25", "4.5380"), "InstructIR": ("144.42", "4.4058"), "AdaIR": ("149.39", "4.5395"),
        "VLU-Net": ("150.13", "4.5285"), "DFPIR": ("152.84", "4.5638"), "DA-CLIP": ("140.54", "4.4277"),
        "DiffUIR": ("143.08", "4.4421"), "Ours": ("151.36", "4.5530"),
    },
    "table2": {
        "AirNet": ("267.45", "9.115"), "PromptIR": ("291.82", "9.413"), "WGWSNet": ("287.58", "9.138"),
        "WeatherDiff": ("253.13", "8.923"), "OneRestore": ("315.04", "9.705"), "MoCE-IR-S": ("319.39", "9.686"),
        "Ours": ("321.92", "9.710"),
    },
    "table3": {
        "NAFNet": ("159.17", "5.203"), "LD": ("135.62", "4.242"), "AirNet": ("161.50", "5.246"),
        "PromptIR": ("169.64", "5.283"), "AutoDIR": ("173.65", "5.410"), "Ours": ("176.68", "5.419"),
    },
}  # fmt: skip


def supplement() -> Path:
    """The supplement's text: UNILDIFF_SUPPLEMENT, or shared/reference beside or above the checkout."""
    root = Path(__file__).parents[2]
    given = os.environ.get("UNILDIFF_SUPPLEMENT")
    places = (
        [Path(given)] if given else [base / "shared/reference/paper-supplement.txt" for base in (root, root.parent)]
    )
    for place in places:
        if place.is_file():
            return place
    pytest.skip("paper-supplement.txt is not at hand; set UNILDIFF_SUPPLEMENT to its path")


def test_the_committed_rows_are_what_the_supplement_says(tmp_path):
    source = supplement()
    assert parse_supplement(source) == load_paper()
    main([str(source), "--out", str(tmp_path / "rows.json")])
    assert (tmp_path / "rows.json").read_bytes() == DEFAULT_FILE.read_bytes()


@pytest.mark.parametrize("table_id", SUMS)
def test_the_committed_rows_have_the_supplements_sums(table_id):
    table = load_paper().tables[table_id]
    found = {row.method: (str(sum(map(Decimal, row.psnr))), str(sum(map(Decimal, row.ssim)))) for row in table.rows}
    assert found == SUMS[table_id]
    assert all(len(row.psnr) == len(row.ssim) == len(table.columns) for row in table.rows)


def test_groups_and_averages_stand_where_the_paper_has_them():
    tables = load_paper().tables
    assert [row.group for row in tables["table1"].rows] == ["Non-Diff"] * 5 + ["Diff"] * 3
    assert [row.group for row in tables["table3"].rows] == ["Non-Diff"] * 4 + ["Diff"] * 2
    assert tables["table2"].row("Ours").average == ("29.35", ".886")
    assert tables["table1"].row("Ours").average is None
    with pytest.raises(UserError, match="OneRestore"):
        tables["table2"].row("NAFNet")


def test_printed_averages_are_held_against_the_columns():
    table = load_paper().tables["table2"]
    errors = {method: float(printed - mean) for method, (printed, mean, _) in average_errors(table, "psnr").items()}
    # By hand from SUMS: 23.75 - 267.45/11 = -0.56, 26.96 - 287.58/11 = 0.82, 29.35 - 321.92/11 = 0.08.
    assert errors["AirNet"] == pytest.approx(-0.564, abs=0.001)
    assert errors["WGWSNet"] == pytest.approx(0.816, abs=0.001)
    assert errors["Ours"] == pytest.approx(0.085, abs=0.001)
    assert sum(abs(error) >= 0.05 for error in errors.values()) == 6
    rounding = average_errors(table, "psnr")["Ours"][2]
    assert rounding == Decimal("0.010")  # half a hundredth for the mean, half for the average


def test_the_notes_of_each_table():
    paper = load_paper()
    psnr, ssim, triples = consistency_notes(paper, "table2")
    assert "7 of 7 rows, in 6 of them by 0.08 to 0.82 dB" in psnr
    assert "Ours prints 29.35, its columns' mean is 29.265 (+0.085)" in psnr
    assert "6 of 7 rows" in ssim and "MoCE-IR-S" not in ssim
    assert "L+H+R (.794 against OneRestore's .797)" in triples and "in SSIM" in triples
    # Table 1: Ours is best in denoising and low light alone, the text says three; the SSIM count of two is right.
    assert consistency_notes(paper, "table1") == [
        "The paper's text counts its PSNR best in 3 columns; by its table it is best in 2."
    ]
    # Table 3: all PSNR above AutoDIR, one SSIM (low light) below.
    assert len(consistency_notes(paper, "table3")) == 1
    assert "Low-light (0.862 against AutoDIR's 0.888)" in consistency_notes(paper, "table3")[0]
    assert consistency_notes(paper, "udc") == []


def test_a_consistent_table_has_no_note(tmp_path):
    data = json.loads(DEFAULT_FILE.read_text())
    for row in data["tables"]["table2"]["rows"]:
        row["average"] = [f"{sum(map(Decimal, row[metric])) / 11:.3f}" for metric in ("psnr", "ssim")]
    data["claims"] = []
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(data))
    assert consistency_notes(load_paper(path), "table2") == []


def test_texts_that_are_no_supplement_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        parse_supplement(tmp_path / "none.txt")
    text = tmp_path / "other.txt"
    text.write_text("no table here")
    with pytest.raises(UserError, match="tables missing"):
        parse_supplement(text)
    text.write_text("Method\tL\t\n\tPSNR\tSSIM\nAirNet\t24.83\nTable 2. Short.\n")
    with pytest.raises(UserError, match="expected 2 figures"):
        parse_supplement(text)
