"""Damage as strangers' files have it: flipped bytes, cut ends, overwritten lengths, repeated and missing parts."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest

from unildiff.utils.errors import UserError

Result = TypeVar("Result")
NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80")


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Return a copy with one to three faults; half of them near the start, where formats keep their headers."""
    made = bytearray(data)
    for _ in range(random.integers(1, 4)):
        if not made:
            break
        end = min(len(made), 200) if random.random() < 0.5 else len(made)
        place, length = int(random.integers(end)), int(random.integers(1, 64))
        match random.integers(6):
            case 0:
                made[place] ^= 1 << int(random.integers(8))
            case 1:
                made[place] = int(random.integers(256))
            case 2:
                del made[place:]
            case 3:
                made[place : place + 4] = NUMBERS[random.integers(len(NUMBERS))]
            case 4:
                del made[place : place + length]
            case _:
                made[place:place] = made[place : place + length]
    return bytes(made)


def result_or_refusal(attempt: Callable[[], Result]) -> Result | None:
    """Return what an attempt gives; None where it is refused in one line, as every stranger's file must be."""
    try:
        return attempt()
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return None


@contextmanager
def bounded_memory(megabytes: int) -> Iterator[None]:
    """Fail when the block raises the peak memory of this process by more than so much."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > megabytes:
        pytest.fail(f"{grown:.0f} MB more than before")
