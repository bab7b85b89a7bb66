from decimal import Decimal

import pandas as pd
import pytest

from unildiff.results import specs

# Sums of each printed row, made with awk over the supplement's text.
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


@pytest.mark.parametrize("table_id", SUMS)
def test_the_papers_rows_have_the_supplements_sums(table_id):
    text = pd.read_csv(specs.__file__.replace("specs.py", "published.csv"), dtype=str)
    rows = text[(text["table"] == table_id) & (text["source"] == "paper") & (text["column"] != "printed")]
    found = {
        method: tuple(str(sum(map(Decimal, group[metric]))) for metric in ("psnr", "ssim"))
        for method, group in rows.groupby("method")
    }
    assert found == SUMS[table_id]
    assert set(rows.groupby("method").size()) == {len(specs.SPECS[table_id].columns)}


def test_the_papers_printed_average_is_kept():
    rows = specs.published()
    (line,) = rows[
        (rows["table"] == "table2") & (rows["method"] == "Ours") & (rows["column"] == "printed")
    ].itertuples()
    assert (line.psnr, line.ssim) == (29.35, 0.886)
