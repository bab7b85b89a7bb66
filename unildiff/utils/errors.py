"""The exception for mistakes that a user can correct."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user, shown as one line without a traceback; the process ends with code 2."""

    def __init__(self, message: str) -> None:
        """Args: message: what is wrong, where, and what to do; line breaks in it become spaces."""
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'NAME'? " for the known name nearest to a wrong one, or nothing if none is near."""
    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.65)
    return f"did you mean {near[0]!r}? " if near else ""
