"""Models of other methods, tested on our datasets: tiled, scored and tabled like our own."""

import re

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_rival(name: str) -> bool:
    """Return whether a value of `--model` names another method's model."""
    return name.startswith(("spandrel:", "deepinv:")) or _FUNCTION.fullmatch(name) is not None
