"""The exception for mistakes that a user can correct."""


class UserError(Exception):
    """A mistake of the user, shown as one line without a traceback; the process ends with code 2."""

    def __init__(self, message: str) -> None:
        """Args: message: what is wrong, where, and what to do; line breaks in it become spaces."""
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
