"""What the paper's tables say against themselves and against the text; every note is computed from the parsed rows."""

from decimal import Decimal
from itertools import chain

from unildiff.results.paper_rows import METRICS, Claim, Metric, Paper, PaperTable

_UNIT = {"psnr": " dB", "ssim": ""}
_NOTABLE = {"psnr": Decimal("0.05"), "ssim": Decimal("0.001")}  # our choice: what a reader would take for progress


def consistency_notes(paper: Paper, table_id: str) -> list[str]:
    """Return one sentence for each way in which the paper's table is inconsistent; none for a table it does not have.

    Checked, for every row: the printed average against the mean of the printed columns, within what rounding allows.
    Checked, for the paper's own row: each claim of the text about the table.
    """
    table = paper.tables.get(table_id)
    if table is None:
        return []
    averages = [_average_note(table, metric) for metric in METRICS]
    claims = [_claim_note(table, claim) for claim in paper.claims if claim.table == table_id]
    return [note for note in chain(averages, claims) if note]


def average_errors(table: PaperTable, metric: Metric) -> dict[str, tuple[Decimal, Decimal, Decimal]]:
    """Hold each printed average against the mean of its row.

    Returns:
        By method: the printed average, the mean of the columns (unrounded), and the largest difference that rounding to
        the printed digits explains (half a unit for the columns' mean and half a unit for the average).
    """
    found = {}
    for row in table.rows:
        if row.average is not None:
            figures = [Decimal(figure) for figure in table.figures(row, metric)]
            printed = Decimal(row.average[METRICS.index(metric)])
            half_units = [Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2 for value in (*figures, printed)]
            rounding = sum(half_units[:-1], Decimal()) / len(figures) + half_units[-1]
            found[row.method] = printed, sum(figures, Decimal()) / len(figures), rounding
    return found


def _average_note(table: PaperTable, metric: Metric) -> str:
    errors = average_errors(table, metric)
    off = {method: entry for method, entry in errors.items() if abs(entry[0] - entry[1]) > entry[2]}
    if not off:
        return ""
    digits = 3 if metric == "psnr" else 4
    notable = [abs(printed - mean) for printed, mean, _ in off.values() if abs(printed - mean) >= _NOTABLE[metric]]
    listed = "; ".join(
        f"{method} prints {printed}, its columns' mean is {mean:.{digits}f} ({printed - mean:+.{digits}f})"
        for method, (printed, mean, _) in off.items()
    )
    size = f"{min(notable):.{digits - 1}f} to {max(notable):.{digits - 1}f}{_UNIT[metric]}" if notable else "less"
    return (
        f"The paper's printed average {metric.upper()} is off the mean of its {len(table.columns)} columns by more than "
        f"rounding explains in {len(off)} of {len(errors)} rows, in {len(notable)} of them by {size}: {listed}."
    )


def _claim_note(table: PaperTable, claim: Claim) -> str:
    metric = claim.metric
    name = metric.upper()
    own = table.row("Ours")
    if claim.kind == "best_in":
        best = 0
        for index, figure in enumerate(table.figures(own, metric)):
            best += all(Decimal(figure) >= Decimal(table.figures(row, metric)[index]) for row in table.rows)
        if best == claim.count:
            return ""
        return f"The paper's text counts its {name} best in {claim.count} columns; by its table it is best in {best}."
    if claim.kind == "average":
        entries = average_errors(table, metric)
        printed = {method: entry[0] for method, entry in entries.items()}
        if printed["Ours"] != Decimal(claim.value):
            return f"The paper's text gives its average {name} as {claim.value}, its table as {printed['Ours']}."
        means = {method: entry[1] for method, entry in entries.items()}
        first = max(means, key=lambda method: means[method])
        if first != "Ours":
            return f"The paper's text calls its average {name} the highest; by the columns' means {first}'s is."
        return ""
    exceptions = []
    for method in claim.methods:
        rival = table.figures(table.row(method), metric)
        for column in claim.columns:
            index = table.columns.index(column)
            ours = table.figures(own, metric)[index]
            if Decimal(ours) <= Decimal(rival[index]):
                exceptions.append(f"{column} ({ours} against {method}'s {rival[index]})")
    if not exceptions:
        return ""
    rivals, columns = " and ".join(claim.methods), ", ".join(claim.columns)
    return f"The paper's text says that it surpasses {rivals} in {columns}; in {name} not in {', '.join(exceptions)}."
