"""The paper's own rows: parsed from the supplement's Tables 1 to 3 into ``paper_rows.json``, and read back from there.

Run ``python -m unildiff.results.paper_rows PATH/paper-supplement.txt`` to write the file anew. No figure of the paper
is typed anywhere in this package: the tables and the claims that the text makes about them are both parsed, so that
``tables_notes`` can hold the one against the other.
"""

import argparse
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from unildiff.utils.errors import UserError

TableId = Literal["table1", "table2", "table3", "udc"]
Metric = Literal["psnr", "ssim"]
METRICS: tuple[Metric, ...] = ("psnr", "ssim")

DEFAULT_FILE = Path(__file__).with_name("paper_rows.json")
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_NUMBER = re.compile(r"\d*\.\d+")


@dataclass(frozen=True)
class PaperRow:
    """One method's line of a table.

    Attributes:
        method: the name as printed; the paper's own method is ``Ours``.
        group: ``Diff`` or ``Non-Diff`` where the table has groups, else "".
        psnr: one figure a column, in dB, as printed (strings keep the number of digits).
        ssim: one figure a column, as printed.
        average: the printed average, (psnr, ssim); ``None`` where the table prints none.
    """

    method: str
    group: str
    psnr: tuple[str, ...]
    ssim: tuple[str, ...]
    average: tuple[str, str] | None


@dataclass(frozen=True)
class PaperTable:
    """One table: its caption, its columns (tasks or degradations, as printed, without the average) and its rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    def row(self, method: str) -> PaperRow:
        """Return the row of ``method``; raise UserError where the table has none."""
        for row in self.rows:
            if row.method == method:
                return row
        known = ", ".join(row.method for row in self.rows)
        raise UserError(f"no such row in the paper's table: '{method}', choose one of {known}")

    def figures(self, row: PaperRow, metric: Metric) -> tuple[str, ...]:
        """Return the printed figures of ``row`` for ``metric``, one a column."""
        return row.psnr if metric == "psnr" else row.ssim


@dataclass(frozen=True)
class Claim:
    """Something that the text says of its own row in a table, to be held against the table.

    Attributes:
        table: the table's id.
        kind: ``best_in`` (best in ``count`` columns), ``average`` (the average is ``value`` and the best) or ``beats``
            (better than each of ``methods`` in each of ``columns``).
        metric: ``psnr`` or ``ssim``.
        count: the number of columns claimed, for ``best_in``.
        value: the figure claimed, for ``average``.
        methods: the methods said to be beaten, for ``beats``.
        columns: the columns in which, for ``beats``.
    """

    table: str
    kind: Literal["best_in", "average", "beats"]
    metric: Metric
    count: int = 0
    value: str = ""
    methods: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """All that is parsed: the tables by id (``table1`` to ``table3``), the claims, and the text's SHA-256."""

    sha256: str
    tables: dict[str, PaperTable]
    claims: tuple[Claim, ...]


def parse_supplement(path: Path) -> Paper:
    """Parse the supplement's text.

    A table is a run of tab-separated lines that begins with ``Method`` and ends at a line ``Table N.``, its caption.

    Args:
        path: ``paper-supplement.txt``.

    Returns:
        The tables and claims.

    Raises:
        UserError: the file cannot be read, a table's row does not have two figures a column, or a claim is not found.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the paper's text: {path}, {error.strerror}, give paper-supplement.txt") from None
    text = data.decode("utf-8")
    tables = {}
    lines: list[str] = []
    for line in text.splitlines():
        caption = re.match(r"Table (\d)\. (.+)", line)
        if line.startswith("Method\t"):
            lines = [line]
        elif caption and lines:
            tables[f"table{caption[1]}"] = _parse_table(lines, caption[2], f"{path.name}, Table {caption[1]}")
            lines = []
        elif lines and "\t" in line:
            lines.append(line)
    if set(tables) != {"table1", "table2", "table3"}:
        raise UserError(f"tables missing in the paper's text: {path} has {sorted(tables) or 'none'}, expected 1 to 3")
    return Paper(hashlib.sha256(data).hexdigest(), tables, _parse_claims(text, tables))


def _parse_table(lines: list[str], caption: str, where: str) -> PaperTable:
    header = [cell for cell in lines[0].split("\t")[1:] if cell]
    columns = tuple(name for name in header if name != "Avg.")
    rows = []
    group = ""
    for line in lines[2:]:  # lines[1] repeats PSNR and SSIM
        cells = line.split("\t")
        names = [cell for cell in cells if cell and not _NUMBER.fullmatch(cell)]
        figures = [cell for cell in cells if _NUMBER.fullmatch(cell)]
        if len(figures) != 2 * len(header) or not 1 <= len(names) <= 2:
            raise UserError(f"cannot parse a row: {where}, '{line}', expected {2 * len(header)} figures")
        group = names[0] if len(names) == 2 else group
        average = (figures[-2], figures[-1]) if len(header) > len(columns) else None
        end = 2 * len(columns)
        rows.append(PaperRow(names[-1], group, tuple(figures[0:end:2]), tuple(figures[1:end:2]), average))
    return PaperTable(caption, columns, tuple(rows))


def _parse_claims(text: str, tables: dict[str, PaperTable]) -> tuple[Claim, ...]:
    def find(pattern: str) -> re.Match[str]:
        match = re.search(pattern, text)
        if match is None:
            raise UserError(
                f"a claim of the paper was not found: no text matches '{pattern}', give the whole supplement"
            )
        return match

    best = find(r"highest PSNR in (\w+) out of \w+ tasks and the best SSIM in (\w+)")
    average = find(r"highest average PSNR \((\d+\.\d+) dB\) and SSIM \((\d*\.\d+)\)")
    triples = find(r"such as (\S+) and (\S+) on the most challenging three-degradation")
    rival = find(r"surpasses (\S+) in all \w+ tasks, achieving notably higher PSNR and SSIM")
    threefold = tuple(column for column in tables["table2"].columns if column.count("+") == 2)
    claims = []
    for index, metric in enumerate(METRICS):
        claims += [
            Claim("table1", "best_in", metric, count=_WORDS[best[index + 1]]),
            Claim("table2", "average", metric, value=average[index + 1]),
            Claim("table2", "beats", metric, methods=(triples[1], triples[2]), columns=threefold),
            Claim("table3", "beats", metric, methods=(rival[1],), columns=tables["table3"].columns),
        ]
    return tuple(claims)


def write_paper(paper: Paper, path: Path = DEFAULT_FILE) -> None:
    """Write what was parsed as JSON."""
    path.write_text(json.dumps(asdict(paper), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_paper(path: Path = DEFAULT_FILE) -> Paper:
    """Read what :func:`write_paper` wrote; by default the file that travels with the package."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tables = {}
    for table_id, table in data["tables"].items():
        rows = []
        for row in table["rows"]:
            average = tuple(row["average"]) if row["average"] else None
            rows.append(PaperRow(row["method"], row["group"], tuple(row["psnr"]), tuple(row["ssim"]), average))
        tables[table_id] = PaperTable(table["caption"], tuple(table["columns"]), tuple(rows))
    claims = tuple(
        Claim(**{**claim, "methods": tuple(claim["methods"]), "columns": tuple(claim["columns"])})
        for claim in data["claims"]
    )
    return Paper(data["sha256"], tables, claims)


def main(arguments: list[str] | None = None) -> None:
    """Parse the supplement named on the command line and write ``paper_rows.json``."""
    parser = argparse.ArgumentParser(description="Parse the paper's Tables 1 to 3 into paper_rows.json.")
    parser.add_argument("supplement", type=Path, help="paper-supplement.txt")
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE, help="where to write (default: inside the package)")
    given = parser.parse_args(arguments)
    write_paper(parse_supplement(given.supplement), given.out)


if __name__ == "__main__":
    main()
