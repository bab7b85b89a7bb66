"""Checks settings against their type annotations, and builds dataclasses from plain values.

A number states its range where it is declared, e.g. ``warmup_steps: NonNegativeInt``. Configs, command lines,
``unildiff.json`` and the settings inside a checkpoint all pass through :func:`build`, so every number, choice and key is
checked in one place and a mistake is one line that names it. Nothing heavy is imported here.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from unildiff.utils.errors import UserError

Built = TypeVar("Built")


@dataclass(frozen=True)
class Range:
    """The bounds of a number; nan lies in no range.

    Args:
        low: smallest value.
        high: largest value.
        above: whether ``low`` itself is excluded.
        below: whether ``high`` itself is excluded.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if not self.above and not self.below:
            return f"between {_number(self.low)} and {_number(self.high)}"
        low = f"greater than {_number(self.low)}" if self.above else f"at least {_number(self.low)}"
        return f"{low} and {'less than' if self.below else 'at most'} {_number(self.high)}"


LARGEST = 10**9
"""Largest count, and the largest magnitude of a number without a range of its own (our choice)."""
_UNSTATED = Range(-LARGEST, LARGEST)

PositiveInt = Annotated[int, Range(1, LARGEST)]
NonNegativeInt = Annotated[int, Range(0, LARGEST)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
PixelCount = Annotated[int, Range(1, 65_536)]
"""A side of an image or tile, in pixels."""
Width = Annotated[int, Range(1, 16_384)]
"""Channels of a layer."""
Depth = Annotated[int, Range(0, 256)]
"""Layers, blocks or experts."""
WorkerCount = Annotated[int, Range(0, 1024)]
PositiveFloat = Annotated[float, Range(0, 1e6, above=True)]
NonNegativeFloat = Annotated[float, Range(0, 1e6)]
Share = Annotated[float, Range(0, 1)]


class _Mismatch(UserError):
    """A value that does not fit its annotation; ``depth`` tells which alternative of a union came nearest."""

    def __init__(self, where: str, value: Any, expected: str, depth: int) -> None:
        super().__init__(f"{where} is {shown(value)}; it must be {expected}")
        self.depth = depth


def check_arguments(
    target: Any, values: Mapping[str, Any], where: str = "", ranges: Mapping[str, Any] | None = None
) -> None:
    """Check what a class or function is about to be called with.

    In a constructor, ``check_arguments(Checkpointing, locals())`` checks all its parameters.

    Args:
        target: class or function whose annotations count; of a class, those of its bases' constructors too.
        values: argument name to value; names without an annotation are ignored.
        where: prefix of the names in messages, e.g. ``trainer``.
        ranges: annotations that replace those of ``target``, for code that is not ours.

    Raises:
        UserError: a value does not fit; one line names it.
    """
    hints = {**argument_types(target), **(ranges or {})}
    for name, value in values.items():
        if name in hints and name != "return":
            build(hints[name], value, f"{where}.{name}" if where else name)


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass instance; for ``__post_init__``.

    Raises:
        UserError: a field does not fit its annotation.
    """
    check_arguments(type(instance), {field.name: getattr(instance, field.name) for field in fields(instance)})


def build(kind: Any, value: Any, where: str) -> Any:
    """Return ``value`` as ``kind``: dictionaries become dataclasses and lists become tuples where annotated so.

    Args:
        kind: an annotation; classes other than dataclasses and plain types are not checked.
        value: plain values, or instances of ``kind``.
        where: name of the value in messages.

    Raises:
        UserError: the value, or a part of it, does not fit.
    """
    return _build(kind, value, where, 0)


def build_dataclass(kind: type[Built], value: Any, where: str) -> Built:
    """Return an instance of the dataclass ``kind`` made from a dictionary; see :func:`build`.

    Raises:
        UserError: a key is missing or unknown, or a value does not fit.
    """
    built: Built = _build(kind, value, where, 0)
    return built


def shown(value: Any) -> str:
    """Return a value as it appears in a message, shortened."""
    if value is None:
        return "null"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list in itself
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def argument_types(target: Any) -> dict[str, Any]:
    """Return the annotations of the parameters of a function or constructor.

    A constructor with ``**kwargs: Any`` has the parameters of its base class too.
    """
    if not isinstance(target, type):
        return get_type_hints(target, include_extras=True)
    if is_dataclass(target):
        return get_type_hints(target, include_extras=True)
    hints: dict[str, Any] = {}
    for each in target.__mro__[:-1]:
        if "__init__" not in vars(each):
            continue
        try:
            hints = get_type_hints(vars(each)["__init__"], include_extras=True) | hints
        except (NameError, TypeError):  # a library's class whose annotations cannot be resolved
            break
        if "kwargs" not in hints:
            break
        del hints["kwargs"]
    return hints


def _build(kind: Any, value: Any, where: str, depth: int) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Range)]
        return _build_number(arguments[0], value, where, depth, limits[0]) if limits else value
    if origin in (Union, types.UnionType):
        return _build_union(arguments, value, where, depth)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _Mismatch(where, value, f"one of {', '.join(map(str, arguments))}", depth)
        return value
    if kind in (int, float):
        return _build_number(kind, value, where, depth, _UNSTATED)
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise _Mismatch(where, value, "true or false" if kind is bool else "text", depth)
        if isinstance(value, str) and "\0" in value:  # no path or name may hold it
            raise _Mismatch(where, value, "text without NUL characters", depth)
        return value
    if kind in (None, types.NoneType):
        if value is not None:
            raise _Mismatch(where, value, "null", depth)
        return None
    if kind is Path or (isinstance(kind, type) and issubclass(kind, Path)):
        if not isinstance(value, (str, Path)):
            raise _Mismatch(where, value, "a path", depth)
        return Path(value)
    if isinstance(kind, type) and is_dataclass(kind):
        return value if isinstance(value, kind) else _build_dataclass(kind, value, where, depth)
    if (container := origin or kind) in (list, tuple, set, dict) or container in (Sequence, Mapping):
        return _build_container(container, arguments, value, where, depth)
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        return value  # a class that is not built here
    plain = isinstance(value, (Mapping, list, tuple, bool, int, float))
    is_class = isinstance(kind, type) and kind is not Any and not getattr(kind, "_is_protocol", False)
    if plain and is_class and not isinstance(value, kind):
        raise _Mismatch(where, value, f"a {kind.__name__}, given by class_path and init_args", depth)
    return value


def _build_number(kind: Any, value: Any, where: str, depth: int, limits: Range) -> Any:
    whole = kind is int
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if fits and value in limits and (whole or math.isfinite(value)):
        return value
    raise _Mismatch(where, value, f"{'a whole number' if whole else 'a number'} {limits}", depth)


def _build_union(options: Sequence[Any], value: Any, where: str, depth: int) -> Any:
    if value is None and types.NoneType in options:
        return None
    mismatches = []
    for option in options:
        if option is not types.NoneType:
            try:
                return _build(option, value, where, depth)
            except _Mismatch as mismatch:
                mismatches.append(mismatch)
    deepest = max(mismatches, key=lambda each: each.depth)
    expected = [str(each).partition("; it must be ")[2] for each in mismatches if each.depth == deepest.depth]
    if deepest.depth > depth or len(expected) == 1:
        raise deepest
    raise _Mismatch(where, value, ", or ".join(dict.fromkeys(expected)), depth)


def _build_dataclass(kind: Any, value: Any, where: str, depth: int) -> Any:
    if not isinstance(value, Mapping):
        raise _Mismatch(where, value, f"a set of keys: {', '.join(field.name for field in fields(kind))}", depth)
    hints = argument_types(kind)
    names = [field.name for field in fields(kind) if field.init]
    if unknown := [key for key in value if key not in names]:
        near = get_close_matches(str(unknown[0]), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(names)}"
        raise UserError(f"{where} has an unknown key {shown(unknown[0])}; {hint}")
    for field in fields(kind):
        if field.init and field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{where} lacks the key {field.name}")
    prefix = f"{where}." if where else ""
    return kind(**{key: _build(hints[key], item, f"{prefix}{key}", depth + 1) for key, item in value.items()})


def _build_container(container: Any, arguments: Sequence[Any], value: Any, where: str, depth: int) -> Any:
    if container in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _Mismatch(where, value, "a set of keys", depth)
        item = arguments[1] if arguments else Any
        return {key: _build(item, each, f"{where}.{key}", depth + 1) for key, each in value.items()}
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, set)):
        raise _Mismatch(where, value, "a list", depth)
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _Mismatch(where, value, f"a list of {len(arguments)} values", depth)
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    items = [
        _build(kind, each, f"{where}[{index}]", depth + 1)
        for index, (kind, each) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(items) if container is tuple else set(items) if container is set else items


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
