"""The style of all figures: legible in print, distinct without colour, equal files for equal input."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's eight colours, distinct under the common kinds of colour blindness; yellow, too pale in print, is last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis"  # monotone in lightness, so that it survives a black-and-white print
PAGE_WIDTH = 6.9  # inches, both columns of a two-column paper

_STYLE = Path(__file__).parent / "assets" / "figures.mplstyle"


def look(index: int) -> tuple[str, str]:
    """Return colour and marker of a curve or group; the first 64 are all different."""
    turn = index // len(MARKERS)
    return PALETTE[(index + turn) % len(PALETTE)], MARKERS[index % len(MARKERS)]


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of ``width`` x ``height`` inches in this style, whatever the user's matplotlibrc."""
    with matplotlib.rc_context(fname=_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, out: Path) -> list[Path]:
    """Save as ``out.pdf`` and ``out.png`` (300 dpi), without a date in them, and return the two paths."""
    base = out.with_suffix("") if out.suffix in (".pdf", ".png") else out
    base.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = base.with_name(f"{base.name}.pdf"), base.with_name(f"{base.name}.png")
    with matplotlib.rc_context(fname=_STYLE):
        figure.savefig(pdf, metadata={"CreationDate": None})
        figure.savefig(png, dpi=300)
    return [pdf, png]
