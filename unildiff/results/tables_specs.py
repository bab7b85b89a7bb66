"""What each table's columns are: which degradations of a run they take, and what must be said below the table."""

import math
from dataclasses import dataclass

from unildiff.results.paper_rows import TableId
from unildiff.results.tables_runs import Scores


@dataclass(frozen=True)
class Column:
    """One task or degradation.

    Attributes:
        title: as the paper prints it.
        keys: names under which a run's ``scores.csv`` may have it.
        published: number of pictures of the real test set; ``None`` where no source settles it.
    """

    title: str
    keys: tuple[str, ...]
    published: int | None = None


@dataclass(frozen=True)
class TableSpec:
    """A table's frame.

    Attributes:
        title: its heading.
        columns: in the paper's order.
        averages: further columns, by title the indices of ``columns`` that each averages.
        protocol: the protocol under which such numbers are usually given.
        shared_scenes: a name stands for the same scene in every column, so that scenes are the unit of all statistics.
        notes: sentences that always stand below the table.
    """

    title: str
    columns: tuple[Column, ...]
    averages: dict[str, tuple[int, ...]]
    protocol: str
    shared_scenes: bool
    notes: tuple[str, ...]

    def key(self, index: int, scores: Scores) -> str:
        """Return the name under which ``scores`` has column ``index``; "" where it has none."""
        return next((key for key in self.columns[index].keys if key in scores.counts()), "")

    def values(self, scores: Scores, metric: str) -> list[dict[str, float]]:
        """Return the finite scores of each column by picture name; an empty mapping where the run has none."""
        columns = []
        for index in range(len(self.columns)):
            values = scores.values(self.key(index, scores), metric)
            columns.append({name: value for name, value in values.items() if math.isfinite(value)})
        return columns


_MIXED_SSIM = (
    "The paper's rows stand as printed; where its rows were taken over from other papers, their SSIM may have been "
    "computed in another way (kinds in use differ by about 0.014)."
)

_NO_PROTOCOL = (
    "No public code settles the protocol of AutoDIR's table (its repository has no metric and no data list): "
    "our rows say under which protocol they were scored, the paper's rows do not."
)

# Counts: the supplement, 2.1 (Rain100L, SOTS, GoPro, LOL-v1), and as reported for CBSD68, CDD-11 and the UDC challenge.
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
    "table1": TableSpec(
        "Table 1: five tasks",
        _FIVE_TASKS,
        {"mean": tuple(range(5))},
        "unildiff",
        False,
        (_MIXED_SSIM,),
    ),
    "table2": TableSpec(
        "Table 2: CDD-11, eleven degradations",
        tuple(Column(title, (key,), 200) for title, key in _CDD11.items()),
        {"single": (0, 1, 2, 3), "double": (4, 5, 6, 7, 8), "triple": (9, 10), "all": tuple(range(11))},
        "onerestore",
        True,
        (_MIXED_SSIM,),
    ),
    "table3": TableSpec(
        "Table 3: AutoDIR's six tasks",
        _SIX_TASKS,
        {"mean": tuple(range(6))},
        "unildiff",
        False,
        (_NO_PROTOCOL,),
    ),
    "udc": TableSpec(
        "Under-display cameras: T-OLED and P-OLED",
        (Column("T-OLED", ("toled", "t_oled"), 30), Column("P-OLED", ("poled", "p_oled"), 30)),
        {"mean": (0, 1)},
        "unildiff",
        False,
        (
            "The supplement shows pictures of this task (Figure 3) and gives no numbers, so there is no row of the paper.",
        ),
    ),
}
