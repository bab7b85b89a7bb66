"""The one exception that a user's mistake raises; the command line prints it as one line and exits with code 2."""


class UserError(Exception):
    """A mistake the user can mend: says what is wrong, where, the value found, and what to do, in one line."""
