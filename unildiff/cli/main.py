"""The entry point: finds the command and turns a mistake of the user into one line on stderr and exit code 2.

Exit codes: 0 success; 1 an internal error (with traceback); 2 a mistake of the user; 3 partly done, every omission is
listed; 130 interrupted; 141 the reader of the output is gone (``| head``); 143 stopped by SIGTERM or SIGUSR1 (training has
written a checkpoint).
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import getfullargspec
from io import TextIOWrapper

from unildiff import __version__
from unildiff.cli.commands import COMMANDS, GROUPS
from unildiff.utils.errors import UserError
from unildiff.utils.paths import with_home


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program name; by default those of the process.

    Returns:
        The exit code. With ``UNILDIFF_DEBUG=1`` a mistake of the user raises, with its traceback.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # threads that spin while they wait take shared cores from each other
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # file names that are not UTF-8 are printed as the bytes they are
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")
    try:
        try:
            return run([in_home(argument) for argument in (sys.argv[1:] if argv is None else argv)])
        finally:
            flush_output()  # a failed write must show here; at interpreter exit it would be a traceback
    except UserError as error:
        if os.environ.get("UNILDIFF_DEBUG", "0") not in ("", "0"):
            raise
        print(f"unildiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except FileNotFoundError:
        if folder_exists():
            raise
        print("unildiff: error: the current folder does not exist any more; change to another", file=sys.stderr)
        return 2
    except OSError:
        if (code := output_is_lost()) is None:
            raise
        return code


def run(arguments: list[str]) -> int:
    """Find the command in ``COMMANDS`` and call it with the remaining arguments.

    Raises:
        UserError: any mistake of the user.
    """
    match arguments:
        case ["--version" | "-V", *_]:
            print(f"unildiff {__version__}")
            return 0
        case ["help", *words]:
            return run([*words, "--help"])
        case [] | ["--help" | "-h", *_]:
            top = {name: summary(function(name)) for name in COMMANDS if " " not in name}
            print_help("unildiff", "All-in-one image restoration with latent diffusion.", top | GROUPS)
            return 0
        case [group] | [group, "--help" | "-h", *_] if group in GROUPS:
            names = [name for name in COMMANDS if name.startswith(f"{group} ")]
            inside = {name.removeprefix(f"{group} "): summary(function(name)) for name in names}
            print_help(f"unildiff {group}", GROUPS[group].partition(";")[0] + ".", inside)
            return 0
    length = 2 if arguments[0] in GROUPS else 1
    name, rest = " ".join(arguments[:length]), arguments[length:]
    if name not in COMMANDS:
        raise unknown_command(name, [known for known in [*COMMANDS, *GROUPS] if known.count(" ") == length - 1])
    chosen = function(name)
    if getfullargspec(chosen).varargs:  # it reads its arguments itself
        return chosen(*rest) or 0
    from unildiff.cli.parsing import call_function

    return call_function(chosen, f"unildiff {name}", rest)


def in_home(argument: str) -> str:
    """Return an argument with ``~`` replaced where a shell leaves it: in ``--option=~/folder`` and within quotes."""
    option, equals, value = argument.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={with_home(value)}"
    return str(with_home(argument))


def folder_exists() -> bool:
    """Whether the current folder exists; somebody may have removed it."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def function(command: str) -> Callable[..., int | None]:
    """Return the function behind a command; it returns its exit code, or None for 0."""
    module, _, name = COMMANDS[command].rpartition(".")
    return getattr(import_module(f"unildiff.cli.commands.{module}"), name)  # type: ignore[no-any-return]


def summary(command: Callable[..., int | None]) -> str:
    """Return the first line of a command's docstring."""
    return (command.__doc__ or "").partition("\n")[0]


def unknown_command(name: str, available: Iterable[str]) -> UserError:
    """Return the error that names the nearest command, or lists all of them."""
    near = get_close_matches(name, available := list(available), n=1, cutoff=0.5)
    hint = f"did you mean unildiff {near[0]}?" if near else f"choose from {', '.join(available)}"
    return UserError(f"unknown command: {name}; {hint}")


def print_help(program: str, text: str, available: dict[str, str]) -> None:
    """Print the available commands and what each does."""
    width = max(map(len, available))
    print(f"usage: {program} COMMAND ...\n\n{text}\n\ncommands:")
    for name, line in available.items():
        print(f"  {name:{width}}  {line}")
    print(f"\n`{program} COMMAND --help` lists the options of a command.")


def flush_output() -> None:
    """Write what standard output has buffered."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def output_is_lost() -> int | None:
    """Return the exit code if standard output cannot be written any more, else None; discards what is buffered."""
    if sys.stdout is None or sys.stdout.closed:
        return None
    try:
        print(flush=True)  # the only way to find out: an OSError does not say which file it is about
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # the interpreter flushes once more at exit
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"unildiff: error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return 2
    return None
