"""jsonargparse parsers whose complaints are one line and name the nearest thing that exists."""

import inspect
import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from jsonargparse import ArgumentParser

from unildiff.errors import UserError

_UNKNOWN = re.compile(r"(?:does not accept option|Option|Key|unrecognized arguments:) '?(?P<name>[^\s'=]+)")
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[\w.]+)'")
_TYPE = re.compile(r"<class '([\w.]+)'>")


class OneLineErrors(ArgumentParser):
    """A parser that raises a UserError with one line instead of printing its usage and ending the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error; inner parsers, whose errors jsonargparse tries alternatives with, do as they always do."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise UserError(explain(message, option_names(self)))


def option_names(parser: ArgumentParser) -> list[str]:
    """Return the names of all options of a parser and its commands, without leading dashes."""
    names = [option.lstrip("-") for action in parser._actions for option in action.option_strings if option[:2] == "--"]
    commands = getattr(parser._subcommands_action, "_name_parser_map", {}) if parser._subcommands_action else {}
    for command in commands.values():
        names += option_names(command)
    return names


def explain(message: str, known: Iterable[str] = ()) -> str:
    """Return jsonargparse's message as one line, with the nearest name where it complains of an unknown one.

    Args:
        message: possibly many lines, the cause among them.
        known: names that exist.
    """
    given_class = _CLASS.search(message)
    if unknown := _UNKNOWN.search(message):
        name = unknown["name"]
        known = [*known, *_parameters(given_class["path"])] if given_class else known
        near = get_close_matches(name.lstrip("-"), list(known), n=1, cutoff=0.6)
        dashes = name[: len(name) - len(name.lstrip("-"))]
        where = f" of {given_class['path']}" if given_class else ""
        hint = f"did you mean {dashes}{near[0]}?" if near else "--help lists what there is"
        return f"unknown {'option' if dashes else 'key'}: {name}{where}; {hint}"
    key = re.match(r'\s*Parser key "([^"]+)":', message)
    causes = re.findall(r"^\s*- (.+(?:\n(?!\s*- |\s*Given value).+)*)", message, flags=re.MULTILINE)
    cause = causes[0] if causes else message[key.end() :] if key else message
    line = _TYPE.sub(r"\1", " ".join(cause.split()))
    return f"{key[1]}: {line}" if key else line


def _parameters(class_path: str) -> list[str]:
    """Return the names of what a class and its bases are made with."""
    module, _, name = class_path.rpartition(".")
    classes = getattr(import_module(module), name).__mro__
    return [
        parameter for each in classes if "__init__" in vars(each) for parameter in inspect.signature(each).parameters
    ]
