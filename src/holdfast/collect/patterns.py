"""Regular expressions from profiles, admitted only when their worst case is small.

The standard engine backtracks and holds the interpreter while it does: one bad pattern would make
a drone look dead. So a pattern is measured before it is used, and what it meets is short.
"""

from __future__ import annotations

import re
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parse  # type: ignore[attr-defined]
from typing import Any

from holdfast.collect.errors import MappingRefused

TEXT_MAX = 256
"""Longer texts are not matched at all: they do not match."""

_WAYS_MAX = 2_000_000
_PATTERN_MAX = 512


@lru_cache(maxsize=256)
def bounded_pattern(pattern: str) -> re.Pattern[str]:
    """``pattern`` compiled, if no text of ``TEXT_MAX`` characters can make it run long.

    Raises :class:`MappingRefused` for what is not a pattern, for look-arounds and back-references,
    and for repeats inside repeats whose ways to match multiply.
    """
    if len(pattern) > _PATTERN_MAX:
        raise MappingRefused(f"cannot use a pattern of more than {_PATTERN_MAX} characters")
    try:
        ways = _ways(sre_parse.parse(pattern))
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise MappingRefused(f"cannot use the pattern {pattern!r}: {error}") from error
    if ways > _WAYS_MAX:
        raise MappingRefused(
            f"cannot use the pattern {pattern!r}: it can match one text in too many ways",
            hint="bound the repeats ({1,4}) and do not nest them",
        )
    return compiled


def _ways(parsed: Any) -> int:
    """An upper estimate of the ways to match one text: the product over the parts."""
    ways = 1
    for code, argument in parsed:
        ways *= _ways_of(code, argument)
        if ways > _WAYS_MAX:
            return ways
    return ways


def _ways_of(code: Any, argument: Any) -> int:
    if code in {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}:
        low, high, inner = argument
        return _ways_of_repeat(min(int(low), TEXT_MAX), min(int(high), TEXT_MAX), _ways(inner))
    if code is sre.SUBPATTERN:
        return _ways(argument[-1])
    if code is sre.BRANCH:
        return sum(_ways(branch) for branch in argument[1])
    if code in {sre.GROUPREF, sre.GROUPREF_EXISTS, sre.ASSERT, sre.ASSERT_NOT}:
        raise MappingRefused(
            "cannot use a pattern with look-arounds or back-references: their time has no bound"
        )
    return 1


def _ways_of_repeat(low: int, high: int, once: int) -> int:
    """A repeat can stop at any count; each repetition may go each way its part can."""
    counts = high - low + 1
    if once == 1:
        return counts
    return counts * once**high if high * once.bit_length() < 64 else _WAYS_MAX + 1
