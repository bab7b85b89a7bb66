"""Values checked against annotations: accepted, built or refused in one line."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from unildiff.utils.errors import UserError
from unildiff.utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Share,
    build,
    build_dataclass,
    check_arguments,
    check_fields,
)


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        attempt()
    return str(raised.value)


@dataclass
class Inner:
    kind: Literal["one", "two"] = "one"
    sizes: tuple[PositiveInt, ...] = (1,)


@dataclass
class Outer:
    share: Share
    inner: Inner = field(default_factory=Inner)
    steps: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class Base:
    def __init__(self, size: PositiveInt = 1, **kwargs: Any) -> None: ...


class Derived(Base):
    def __init__(self, rate: NonNegativeFloat = 1.0, each: list["Base"] | None = None, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Share, 0),
        (Share, 1.0),
        (int, -3),
        (float, 2),
        (PositiveInt | None, None),
        (int | float, 0.5),
        (Literal["x", 2], 2),
        (dict[str, Share], {"a": 0.5}),
        (Any, object()),
        (Path, "a/b"),
    ],
)
def test_values_that_fit_are_returned(kind: Any, value: Any) -> None:
    result = build(kind, value, "name")
    assert result == (Path(value) if kind is Path else value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Share, 1.5, "name is 1.5; it must be a number between 0 and 1"),
        (Share, math.nan, "name is nan; it must be a number between 0 and 1"),
        (Share, True, "name is True; it must be a number between 0 and 1"),
        (float, math.inf, "name is inf; it must be a number between -1,000,000,000 and 1,000,000,000"),
        (float, 1e30, "name is 1e+30; it must be"),
        (PositiveInt, 0, "name is 0; it must be a whole number between 1 and 1,000,000,000"),
        (PositiveInt, 1.5, "name is 1.5; it must be a whole number"),
        pytest.param(PositiveInt, 10**5000, "name is a very large int; it must be a whole number", id="huge"),
        (PositiveInt, None, "name is null; it must be a whole number"),
        (PositiveInt | None, "x", "name is 'x'; it must be a whole number"),
        (PositiveInt | list[str], 0, "name is 0; it must be a whole number between 1 and 1,000,000,000, or a list"),
        (list[Share], [0.5, 2], "name[1] is 2; it must be a number between 0 and 1"),
        (tuple[Share, Share], [0.5], "name is [0.5]; it must be a list of 2 values"),
        (dict[str, Share], {"a": -1}, "name.a is -1; it must be a number between 0 and 1"),
        (Literal["x", "y"], "z", "name is 'z'; it must be one of x, y"),
        (Literal[1], True, "name is True; it must be one of 1"),
        (str, 3, "name is 3; it must be text"),
        (bool, 1, "name is 1; it must be true or false"),
        (list[int], "12", "name is '12'; it must be a list"),
        (Inner, {"kind": "three"}, "name.kind is 'three'; it must be one of one, two"),
        (Inner, [], "name is []; it must be a set of keys: kind, sizes"),
        (Inner, {"kinds": "one"}, "name has an unknown key 'kinds'; did you mean kind?"),
    ],
)
def test_values_that_do_not_fit_are_named_in_one_line(kind: Any, value: Any, message: str) -> None:
    line = refusal(lambda: build(kind, value, "name"))
    assert line.startswith(message) and "\n" not in line and len(line) < 200


def test_plain_values_become_nested_dataclasses() -> None:
    built = build_dataclass(Outer, {"share": 0.5, "inner": {"sizes": [3, 5]}, "steps": 4}, "network")
    assert built == Outer(0.5, Inner("one", (3, 5)), 4)
    assert "network.inner.sizes[1] is 0" in refusal(
        lambda: build_dataclass(Outer, {"share": 0.5, "inner": {"sizes": [3, 0]}}, "network")
    )
    assert "network lacks the key share" in refusal(lambda: build_dataclass(Outer, {}, "network"))


def test_a_dataclass_checks_itself() -> None:
    assert "share is 2" in refusal(lambda: Outer(2))


def test_constructors_are_checked_with_the_parameters_of_their_bases() -> None:
    check_arguments(Derived, {"size": 3, "rate": 0, "unknown": "x", "self": None})
    assert "data.size is 0" in refusal(lambda: check_arguments(Derived, {"size": 0}, "data"))
    assert "data.rate is 2; it must be null" in refusal(
        lambda: check_arguments(Derived, {"rate": 2}, "data", {"rate": None})
    )
