"""The one exception that a user's mistake raises; the command line prints it as one line and exits with code 2."""


class UserError(Exception):
    """A mistake the user can mend: says what is wrong, where, the value found, and what to do, in one line."""


def check_share(name: str, value: float) -> None:
    """Raise UserError unless ``value``, given as ``name``, is a share, 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value} is no share; give a number from 0 to 1")
