"""The command line: finds the command, and turns a user's mistake into one line and exit code 2.

Commands are plain functions in ``unildiff/cli/commands/``; the four of the Trainer are in ``unildiff/cli/lightning_cli.py``. What
``--help`` says is read off their source, so that nothing heavy is imported before a command is chosen.

Exit codes: 0 done; 1 an error of ours (with traceback); 2 a user's mistake (one line on stderr); 3 done in part, what was
left out is listed; 130 interrupted; 141 whoever read the output has gone (``| head``); 143 ended by SIGTERM or SIGUSR1
(training has written a checkpoint).
"""

import ast
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from unildiff import __version__
from unildiff.utils.errors import UserError

TRAINER_COMMANDS = {
    "fit": "Train a stage, e.g. --config configs/tiny/joint.yaml.",
    "validate": "Run a stage's validation.",
    "test": "Restore and score the test pictures of a dataset.",
    "predict": "Restore the pictures of a dataset that has no truth.",
}
FUNCTIONS = ("restore", "score", "plan", "export", "report")
GROUPS = {"data": ("list", "layout", "check", "pack", "synthesize", "caption", "download", "sample")}
GROUP_SUMMARIES = {"data": "List, check, make and fetch data; `unildiff data --help` lists the commands."}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        The exit code. With ``UNILDIFF_DEBUG=1`` a user's mistake raises, with its traceback.
    """
    try:
        try:
            return run(list(sys.argv[1:] if argv is None else argv))
        finally:
            flush_output()  # what cannot be written must show here: as the interpreter ends it would be a traceback
    except UserError as error:
        if debugging():
            raise
        print(f"unildiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError:
        if (code := output_is_lost()) is None:
            raise
        return code


def run(arguments: list[str]) -> int:
    """Dispatch; see :func:`main`.

    Raises:
        UserError: any mistake of the user.
    """
    match arguments:
        case [] | ["--help" | "-h" | "help", *_]:
            print_help("unildiff", "All-in-one image restoration with latent diffusion.", commands())
            return 0
        case ["--version"]:
            print(f"unildiff {__version__}")
            return 0
        case [name, *rest] if name in TRAINER_COMMANDS:
            from unildiff.cli.arguments import TrainerArguments

            taken_apart = TrainerArguments.parse(name, rest)  # most mistakes show before Lightning is imported
            return import_module("unildiff.cli.lightning_cli").run(taken_apart)  # type: ignore[no-any-return]
        case ["plan", *rest]:  # it takes what fit takes, and its own parser would know nothing of that
            return import_module("unildiff.cli.commands.plan").plan(rest)  # type: ignore[no-any-return]
        case [name, *rest] if name in functions_in("", FUNCTIONS):
            return call(name, name, name, rest)
        case [group, *rest] if group in GROUPS and functions_in(group, GROUPS[group]):
            available = functions_in(group, GROUPS[group])
            match rest:
                case [] | ["--help" | "-h", *_]:
                    print_help(f"unildiff {group}", GROUP_SUMMARIES[group].partition(";")[0] + ".", available)
                    return 0
                case [name, *values] if name in available:
                    return call(f"{group} {name}", group, name, values)
            raise unknown_command(rest[0], available, f"unildiff {group}")
    raise unknown_command(arguments[0], commands(), "unildiff")


def commands() -> dict[str, str]:
    """Return every command that exists and what it does."""
    groups = {group: GROUP_SUMMARIES[group] for group, names in GROUPS.items() if functions_in(group, names)}
    return TRAINER_COMMANDS | functions_in("", FUNCTIONS) | groups


def functions_in(group: str, names: Sequence[str]) -> dict[str, str]:
    """Return those of ``names`` that are implemented, with the first line of their docstrings.

    Args:
        group: functions of one file, ``unildiff/cli/commands/<group>.py``; "": each in a file of its own name.
        names: command names; a function may have a trailing underscore where Python has the name itself.
    """
    summaries = {}
    for name in names:
        file = Path(__file__).parent / "commands" / f"{group or name}.py"
        for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
            if isinstance(node, ast.FunctionDef) and node.name.rstrip("_") == name:
                summaries[name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return summaries


def call(command: str, module: str, name: str, arguments: list[str]) -> int:
    """Parse ``arguments`` by the signature of a command's function and call it.

    Required parameters are positional. A function returns its exit code, or None for 0.
    """
    loaded = import_module(f"unildiff.cli.commands.{module}")
    function: Callable[..., int | None] = getattr(loaded, name, None) or getattr(loaded, f"{name}_")
    from unildiff.cli.parsing import call_function

    return call_function(function, f"unildiff {command}", arguments)


def unknown_command(name: str, available: dict[str, str], program: str) -> UserError:
    """Return the error that lists what there is and names the nearest."""
    near = get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f"did you mean {program} {near[0]}?" if near else f"there are {', '.join(available)}"
    return UserError(f"unknown command: {name}; {hint}")


def print_help(program: str, summary: str, available: dict[str, str]) -> None:
    """Print what there is."""
    width = max(map(len, available))
    print(f"usage: {program} COMMAND ...\n\n{summary}\n\ncommands:")
    for name, text in available.items():
        print(f"  {name:{width}}  {text}")
    print(f"\n`{program} COMMAND --help` lists a command's options.")


def flush_output() -> None:
    """Write what standard output still holds."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def output_is_lost() -> int | None:
    """Return the exit code when standard output cannot be written to any more, else None; what is left is thrown away."""
    if sys.stdout is None or sys.stdout.closed:
        return None
    try:
        print(flush=True)  # the only way to know: an error does not say which file it is of
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # the interpreter flushes once more as it ends
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"unildiff: error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 2
    return None


def debugging() -> bool:
    """Return whether the user wants tracebacks (``UNILDIFF_DEBUG=1``)."""
    return os.environ.get("UNILDIFF_DEBUG", "0") not in ("", "0")
