"""The columns of each table, and the published rows (`published.csv`): the paper's, and those that a survey prints."""

import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from unildiff.results import TableId
from unildiff.results.runs import Run, load_run
from unildiff.utils.errors import UserError

Metric = Literal["psnr", "ssim"]
METRICS: tuple[Metric, ...] = ("psnr", "ssim")

PRINTED = "printed"
"""The column of averages that a source prints; the other averages are means of the columns."""

SURVEY = (
    "Rows marked [S] are averages as printed in the survey repository Harbinzzy/All-in-One-Image-Restoration-Survey "
    "(GitHub, 2026-06-28); it prints no columns."
)


@dataclass(frozen=True)
class Column:
    """One task or degradation.

    Attributes:
        title: Title as the paper prints it.
        keys: Names that a run's scores may use for it.
        published: Number of images of the real test set; None if no source settles it.
    """

    title: str
    keys: tuple[str, ...]
    published: int | None = None


@dataclass(frozen=True)
class TableSpec:
    """The frame of a table.

    Attributes:
        title: Heading.
        columns: Columns in the paper's order.
        averages: Further columns: by title, the indices of `columns` that each averages.
        digits: Decimals of PSNR and SSIM.
        protocol: Protocol under which such numbers are usually given; "" without such a convention.
        shared_scenes: Whether a name is the same scene in every column, so that scenes are the unit of all statistics.
        notes: Sentences that always stand below the table.
    """

    title: str
    columns: tuple[Column, ...]
    averages: Mapping[str, tuple[int, ...]]
    digits: tuple[int, int] = (2, 4)
    protocol: str = "unildiff"
    shared_scenes: bool = False
    notes: tuple[str, ...] = ()

    def keys(self, degradations: Container[str]) -> list[str | None]:
        """Return for each column the name that it has among a run's degradations; None if the run lacks it."""
        return [next((key for key in column.keys if key in degradations), None) for column in self.columns]

    def in_columns(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return the scores of the table's columns, with the columns' titles as degradations, which all runs share."""
        used = zip(self.keys(set(scores["degradation"])), self.columns, strict=True)
        titles = {key: column.title for key, column in used if key is not None}
        chosen = scores[scores["degradation"].isin(list(titles))]
        return chosen.assign(degradation=chosen["degradation"].map(titles))


# Numbers of images: the paper's supplement, 2.1 (Rain100L, SOTS, GoPro, LOL-v1); CBSD68, CDD-11 and the UDC challenge as
# their authors report them.
_FIVE_TASKS = (
    Column("Dehazing", ("haze", "dehazing", "dehaze"), 500),
    Column("Deraining", ("rain", "deraining", "derain"), 100),
    Column("Denoising", ("noise_25", "denoising", "denoise"), 68),
    Column("Deblurring", ("blur", "deblurring", "deblur"), 1111),
    Column("Low-light", ("low", "low_light", "lowlight"), 15),
)
_SIX_TASKS = (
    *(Column(column.title, column.keys) for column in _FIVE_TASKS[:2]),
    Column("Denoising", ("noise", "denoising", "denoise", "noise_25")),
    *(Column(column.title, column.keys) for column in _FIVE_TASKS[3:]),
    Column("Deraindrop", ("raindrop", "deraindrop")),
)
_CDD11 = {
    "L": "low",
    "H": "haze",
    "R": "rain",
    "S": "snow",
    "L+H": "low_haze",
    "L+R": "low_rain",
    "L+S": "low_snow",
    "H+R": "haze_rain",
    "H+S": "haze_snow",
    "L+H+R": "low_haze_rain",
    "L+H+S": "low_haze_snow",
}

SPECS: dict[TableId, TableSpec] = {
    "table1": TableSpec("Table 1: five tasks", _FIVE_TASKS, {"mean": tuple(range(5))}),
    "table2": TableSpec(
        "Table 2: CDD-11, eleven degradations",
        tuple(Column(title, (key,), 200) for title, key in _CDD11.items()),
        {"single": (0, 1, 2, 3), "double": (4, 5, 6, 7, 8), "triple": (9, 10), "all": tuple(range(11))},
        digits=(2, 3),
        protocol="onerestore",
        shared_scenes=True,
    ),
    "table3": TableSpec("Table 3: AutoDIR's six tasks", _SIX_TASKS, {"mean": tuple(range(6))}, digits=(2, 3)),
    "three_task": TableSpec(
        "Three tasks: haze, rain, noise",
        (*_FIVE_TASKS[:2], *(Column(f"Noise {sigma}", (f"noise_{sigma}",), 68) for sigma in (15, 25, 50))),
        {"mean": tuple(range(5))},
        protocol="",
    ),
    "udc": TableSpec(
        "Under-display cameras: T-OLED and P-OLED",
        (Column("T-OLED", ("toled", "t_oled"), 30), Column("P-OLED", ("poled", "p_oled"), 30)),
        {"mean": (0, 1)},
        notes=("The supplement shows images of this task (Figure 3) but prints no numbers.",),
    ),
}


def table_spec(table_id: str, runs: Sequence[Run]) -> TableSpec:
    """Return the frame of a table; for `single`, a column per degradation of the first run.

    Raises:
        UserError: There is no such table.
    """
    if table_id == "single" and runs:
        columns = tuple(Column(name or "all images", (name,)) for name in runs[0].counts)
        averages = {"mean": tuple(range(len(columns)))} if len(columns) > 1 else {}
        return TableSpec("Means by degradation", columns, averages, protocol="")
    if table_id not in SPECS:
        raise UserError(f"no such table: '{table_id}'; choose {', '.join([*SPECS, 'single'])}")
    return SPECS[table_id]


@cache
def published() -> pd.DataFrame:
    """Return every published figure: table, method, source (`paper` or `survey`), column, psnr, ssim."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def fitting_table(run: Run) -> TableId:
    """Return the table of which the run has most columns if it has at least half of them, else `single`."""
    found = {name: len(spec.columns) - spec.keys(run.counts).count(None) for name, spec in SPECS.items()}
    best = max(found, key=lambda name: (found[name], found[name] / len(SPECS[name].columns)))
    return best if found[best] >= 0.5 * len(SPECS[best].columns) else "single"


def table_command(folder: Path) -> str:
    """Return the command that prints the table which fits a scored run."""
    return shlex.join(["unildiff", "table", fitting_table(load_run(folder)), str(folder)])
