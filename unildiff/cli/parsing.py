"""jsonargparse parsers whose complaints are one line and name the nearest thing that exists."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser

from unildiff.utils.errors import UserError

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


def require_class(path: str) -> None:
    """Raise a UserError unless ``package.module.Class`` can be imported; jsonargparse would take it for a file."""
    module, _, name = path.rpartition(".")
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"no class {path}: {error}; give its import path, or a short name") from error
    if not hasattr(loaded, name):
        near = get_close_matches(name, vars(loaded), n=1)
        raise UserError(f"no class {path}: {module} has no {name}{f'; did you mean {near[0]}?' if near else ''}")


def in_json(function: Callable[..., object], arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with lists and flags as jsonargparse wants them.

    ``--metrics psnr ssim``, ``--metrics psnr,ssim`` and several positional arguments for a last list become JSON,
    ``--flag`` becomes ``--flag=true``, and ``--seed_everything`` is another name of ``--seed``.

    Args:
        function: the command; parameters without a default are positional.
        arguments: what the user wrote.
    """
    parameters = {f"--{name}": parameter for name, parameter in inspect.signature(function).parameters.items()}
    required = [parameter for parameter in parameters.values() if parameter.default is parameter.empty]
    positional: list[str] = []
    options: list[str] = []
    waiting = list(arguments)
    while waiting:
        name = waiting.pop(0)
        if name.partition("=")[0] == "--seed_everything" and name not in parameters:  # as the Trainer's commands say it
            name = name.replace("--seed_everything", "--seed")
        parameter = parameters.get(name)
        if not name.startswith("-") or name == "-":
            positional.append(name)
        elif parameter is not None and parameter.annotation in (bool, "bool"):
            follows = waiting and waiting[0].lower() in ("true", "false")
            options.append(f"{name}={waiting.pop(0) if follows else 'true'}")
        elif parameter is not None and _is_list(parameter.annotation):
            values: list[str] = []
            while waiting and not waiting[0].startswith("--"):
                values.append(waiting.pop(0))
            options.append(f"{name}={_json_list(values, commas=True)}" if values else name)
        else:
            options.append(name)
            if waiting and "=" not in name and not waiting[0].startswith("--"):
                options.append(waiting.pop(0))
    if required and _is_list(required[-1].annotation) and len(positional) >= len(required):
        first = len(required) - 1
        positional[first:] = [_json_list(positional[first:], commas=False)]
    return positional + options


def call_function(function: Callable[..., int | None], program: str, arguments: Sequence[str]) -> int:
    """Parse ``arguments`` by a command's signature and call it; parameters without a default are positional.

    Args:
        function: the command; it returns its exit code, or None for 0.
        program: what the help calls it.
        arguments: what the user wrote.

    Raises:
        UserError: an argument that does not fit, or whatever the command raises.
    """
    parser = OneLineErrors(prog=program, description=(inspect.getdoc(function) or "").partition("\n")[0])
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    for action in parser._actions:
        if not action.option_strings:
            action.metavar = f"{action.dest} ..." if action.metavar and "[" in str(action.metavar) else action.dest
    values = parser.parse_args(in_json(function, arguments)).as_dict()
    return function(**values) or 0


def run_module(function: Callable[..., int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command as ``python -m`` of its module; a user's mistake is one line and exit code 2.

    Args:
        function: the command.
        arguments: by default those of the process.
    """
    program = f"python -m unildiff.cli.commands.{function.__name__}"
    try:
        return call_function(function, program, sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"unildiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


def _json_list(values: Sequence[str], commas: bool) -> str:
    if values[0].startswith("["):
        return " ".join(values)
    return json.dumps([part for value in values for part in value.split(",")] if commas else list(values))
