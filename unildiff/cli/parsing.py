"""Argument parsing: commands called by their signatures, errors in one line that name the nearest existing option."""

import inspect
import json
import re
from argparse import Action
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader
from jsonargparse._typehints import ActionTypeHint
from yaml import YAMLError

from unildiff.utils.errors import UserError
from unildiff.utils.validation import check_arguments

_UNKNOWN = re.compile(r"(?:does not accept option|Option|Key|unrecognized arguments:) '?(?P<name>[^\s'=]+)")
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[\w.]+)'")
_MISSING = re.compile(r"the following arguments are required: (?P<names>.+)")
_KEY = re.compile(r'Parser key "([^"]+)":')
_WRAPPING = re.compile(r"Does not validate against .*|Subtypes: .*|Errors:|Problem with given class_path '[^']*':")
_EXPECTED = re.compile(r"Expected an? (?!path but )(?P<kind>.+?)(?:\. Got value: .*)?")
_VALUE = re.compile(r"(?:^Given value: NestedArg\(key='.*', val='|^Given value: |\. Got value: )(.*?)(?:'\))?$")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a set of keys",
    "NoneType": "null",
}
_TYPE = re.compile(r"<class '([\w.]+)'>")


_read_yaml = get_loader("yaml")


def _read_value(text: str) -> Any:
    """Read a value as YAML; file names that are not UTF-8 (lone surrogates) are plain text, YAML cannot hold them."""
    return text if any("\ud800" <= character <= "\udfff" for character in text) else _read_yaml(text)


set_loader("yaml", _read_value, (YAMLError,))


class HelpFormatter(DefaultHelpFormatter):
    """Help without the words that say nothing: "required" of positional arguments, names of classes, empty defaults."""

    def start_section(self, heading: str | None) -> None:
        """Title a group of options; the class of a group by its name alone."""
        super().start_section(_TYPE.sub(lambda found: found[1].rpartition(".")[2], heading or ""))

    def _get_type_str(self, action: Action) -> str | None:
        text = super()._get_type_str(action)
        name = "" if text is None else _TYPE.sub(r"\1", text).replace(" | null", "")
        return None if name in ("", "str", "Path") or name.startswith("Literal") else name

    def _get_help_string(self, action: Action) -> str:
        if not isinstance(action, ActionTypeHint):
            return super()._get_help_string(action)
        facts = {
            "required": action.required and action.option_strings,
            "type: %(type)s": self._get_type_str(action),
            "default: %(default)s": action.default is not None and action.option_strings,
        }
        shown = ", ".join(text for text, holds in facts.items() if holds) + str(action.extra_help())  # type: ignore[no-untyped-call]
        return f"{action.help or ''} ({shown})" if shown else action.help or ""


class OneLineErrors(ArgumentParser):
    """A parser that raises a UserError with one line, instead of printing its usage and ending the process."""

    def __init__(self, *args: Any, formatter_class: type = HelpFormatter, **kwargs: Any) -> None:
        """Create the parser; abbreviated options (``--trainer.max_step``) are unknown options."""
        super().__init__(*args, formatter_class=formatter_class, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error; inner parsers, with which jsonargparse tries alternatives, keep their own behaviour."""
        if not self.exit_on_error:
            super().error(message, ex)
        known = option_names(self)
        if missing := _MISSING.search(message):
            names = [f"--{name}" if name in known else name for name in missing["names"].split(", ")]
            raise UserError(f"missing: {', '.join(names)}; `{self.prog} --help` lists the arguments")
        raise UserError(explain(message, known))


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
        of_class = _parameters(given_class["path"]) if given_class else []
        near = get_close_matches(name.lstrip("-"), [*known, *of_class], n=1, cutoff=0.6)
        dashes = name[: len(name) - len(name.lstrip("-"))]
        where = f" of {given_class['path']}" if given_class else ""
        hint = f"did you mean {dashes}{near[0]}?" if near else "--help lists what there is"
        if name not in of_class:  # else another class that was tried does not know it
            return f"unknown {'option' if dashes else 'key'}: {name}{where}; {hint}"
    names: list[str] = []
    kinds: list[str] = []  # what each alternative of the innermost type expected
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if name := _KEY.match(text):
            names.append(name[1])
            text = text[name.end() :].strip()
        text = _WRAPPING.sub("", text)
        if expected := _EXPECTED.fullmatch(text):
            kinds.append(_kind(expected["kind"]))
        if value := _VALUE.search(text):
            shortened = value[1] if len(value[1]) <= 60 else f"{value[1][:57]}..."
            what = f"is {shortened or 'empty'}; it must be {', or '.join(dict.fromkeys(kinds))}"
            return f"{'.'.join(names) or 'a value'} {what}"
        if text and not kinds and not text.startswith("Expected a path but"):  # it was tried as a config file
            break
    key, text = ".".join(names), _TYPE.sub(r"\1", " ".join((text or message).split())).replace("typing.", "")
    return f"{key}: {text}" if key else text


def _kind(name: str) -> str:
    """Return a type as jsonargparse shows it in words."""
    name = _TYPE.sub(r"\1", name).replace("typing.", "")
    if name.startswith("Literal["):
        return f"one of {name[8:-1].replace(chr(39), '')}"
    return "a set of keys" if name.startswith("dot import path") else _KINDS.get(name.partition("[")[0], name)


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


def call_function(function: Callable[..., int | None], program: str, arguments: Sequence[str]) -> int:
    """Parse ``arguments`` by the signature of a command and call it.

    Args:
        function: the command; it returns its exit code, or None for 0.
        program: name of the command shown in its help.
        arguments: command line without the name of the command.

    Raises:
        UserError: an argument is missing, unknown or of the wrong type, or the command itself raises it.
    """
    parser = command_parser(function, program)
    values = parser.parse_args(_in_json(inspect.signature(function).parameters, arguments)).as_dict()
    check_arguments(function, values)
    return function(**values) or 0


def command_parser(function: Callable[..., int | None], program: str) -> OneLineErrors:
    """Return the parser of a command: help from its docstring, arguments from its signature.

    Parameters without a default are positional, or required options if they are keyword-only.
    """
    parameters = inspect.signature(function).parameters
    description = (inspect.getdoc(function) or "").partition("\nArgs:")[0]
    parser = OneLineErrors(prog=program, description=description)
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    for action in parser._actions:
        if not action.option_strings:
            action.metavar = f"{action.dest} ..." if _is_list(parameters[action.dest].annotation) else action.dest
    required = [
        str(action.metavar) if not action.option_strings else f"{action.option_strings[-1]} {action.dest.upper()}"
        for action in parser._actions
        if action.required or not action.option_strings
    ]
    parser.usage = " ".join(["%(prog)s", *required, "[options]"])  # every option has its line below
    return parser


def _in_json(parameters: Mapping[str, inspect.Parameter], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with lists and flags as jsonargparse expects them.

    ``--metrics psnr ssim``, ``--metrics psnr,ssim`` and several positional arguments for a final list become JSON, ``--flag``
    becomes ``--flag=true``, ``--no-flag`` becomes ``--flag=false``, dashes in a name stand for underscores, and
    ``--seed_everything`` is another name of ``--seed``, as in the commands of the Trainer.

    Args:
        parameters: those of the command.
        arguments: command line without the name of the command.
    """
    required = [
        each for each in parameters.values() if each.default is each.empty and each.kind is not each.KEYWORD_ONLY
    ]
    positional: list[str] = []
    options: list[str] = []
    waiting = list(arguments)
    while waiting:
        name = waiting.pop(0)
        if not name.startswith("--"):
            (options if name in ("-h",) else positional).append(name)
            continue
        if name.partition("=")[0] == "--seed_everything":
            name = name.replace("_everything", "", 1)
        given, equals, value = name[2:].partition("=")
        given = given if given in parameters else given.replace("-", "_")
        if given in parameters:
            name = f"--{given}{equals}{value}"
        elif given[:3] == "no_" and given[3:] in parameters and parameters[given[3:]].annotation is bool:
            options.append(f"--{given[3:]}=false")
            continue
        annotation = parameters[name[2:]].annotation if name[2:] in parameters else None
        if annotation is bool and not (waiting and waiting[0].lower() in ("true", "false")):
            options.append(f"{name}=true")
        elif _is_list(annotation):
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


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(part) is list for part in get_args(annotation))


def _json_list(values: Sequence[str], commas: bool) -> str:
    if values[0].startswith("["):
        return " ".join(values)
    return json.dumps([part for value in values for part in value.split(",")] if commas else list(values))
