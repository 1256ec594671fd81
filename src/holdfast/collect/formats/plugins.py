"""Formats that other packages bring: found by name, and held to what the built-in ones promise.

A stranger's code runs in the drone. Whatever it does with the bytes, the run ends in rows or in a
refusal that names the format: what it raises is a failed page, not a failed drone, and its rows are
held to the same bounds as everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from itertools import count
from typing import Any, cast

from holdfast.collect.content import Content
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.kernel.errors import HoldfastError
from holdfast.registry.source import Format

GROUP = "holdfast.formats"

Reader = Callable[[Content, Format, ReadContext], Iterator[RawRow]]


def found(name: str) -> EntryPoint | None:
    """The entry point of that name, if a package brings one.

    Two packages that bring the same name are refused: which of them read a page must not depend on
    the order in which they were installed.
    """
    entries = tuple(entry_points(group=GROUP, name=name))
    if len({entry.value for entry in entries}) > 1:
        raise MappingRefused(
            f"cannot read the format {name!r}: more than one package brings it",
            hint="they are " + ", ".join(sorted(entry.value for entry in entries)),
        )
    return entries[0] if entries else None


def names() -> set[str]:
    """The formats that packages bring."""
    return set(entry_points(group=GROUP).names)


def loaded(entry: EntryPoint) -> Reader:
    """Its reader, held to the promises; :class:`MappingRefused` where it cannot be loaded."""
    try:
        reader = cast("Reader", entry.load())
    except Exception as error:  # a stranger's module may raise anything
        raise MappingRefused(
            f"cannot load the format {entry.name!r} from {entry.value}: "
            f"{type(error).__name__}: {error}"
        ) from error

    def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
        rows = _raised(entry.name, lambda: iter(reader(content, spec, context)))
        # How many rows there may be is the run's business, and so is how long it may take.
        for position in count():
            row = _raised(entry.name, lambda: next(rows, None))
            if row is None:
                return
            _check(entry.name, row, position, context)
            yield row

    return read


def _raised(name: str, call: Callable[[], Any]) -> Any:
    """``call()``; what it raises is a refusal of the page."""
    try:
        return call()
    except HoldfastError:
        raise
    except OSError:
        raise  # the spool's, and not the format's
    except RecursionError as error:
        raise BoundReached(f"cannot read {name!r}: it is nested too deep", bound="depth") from error
    except Exception as error:  # a stranger's code may raise anything
        raise ParseFailed(
            f"cannot read {name!r}: the format failed with {type(error).__name__}: {error}"[:2000]
        ) from error


def _check(name: str, row: Any, position: int, context: ReadContext) -> None:
    if not isinstance(row, RawRow):
        raise ParseFailed(f"cannot read {name!r}: the format gave {type(row).__name__}, no RawRow")
    if row.position != position:
        raise ParseFailed(
            f"cannot read {name!r}: row {position} has the position {row.position}; positions "
            "count from 0 without a gap"
        )
    if not row.problem and len(row.enclosing) != len(context.enclosing):
        raise ParseFailed(
            f"cannot read {name!r}: row {position} carries {len(row.enclosing)} enclosing values "
            f"where {len(context.enclosing)} were asked for"
        )
    size = _size(name, row.value, context.bounds, 1)
    if max(size, row.size) > context.bounds.record_bytes_max:
        raise BoundReached(
            f"cannot read {name!r}: row {position} is larger than "
            f"{context.bounds.record_bytes_max} characters",
            bound="record",
        )


def _size(name: str, value: Any, bounds: Bounds, depth: int) -> int:
    """About how many characters a value takes; refuses what no row may hold."""
    if depth > bounds.depth_max:
        raise BoundReached(
            f"cannot read {name!r}: a row is nested deeper than {bounds.depth_max}", bound="depth"
        )
    match value:
        case str():
            return len(value)
        case None | bool():
            return 4
        case int():
            return value.bit_length() // 3 + 1
        case dict():
            if depth == 1 and len(value) > bounds.columns_max:
                raise BoundReached(
                    f"cannot read {name!r}: a row has more than {bounds.columns_max} columns",
                    bound="columns",
                )
            if not all(isinstance(key, str) for key in value):
                raise ParseFailed(f"cannot read {name!r}: a row has a name that is no text")
            return sum(
                len(key) + _size(name, each, bounds, depth + 1) for key, each in value.items()
            )
        case list() | tuple():
            return sum(_size(name, each, bounds, depth + 1) for each in value)
    raise ParseFailed(
        f"cannot read {name!r}: a row holds a {type(value).__name__}; texts, whole numbers, true, "
        "false, null, lists and objects are known, and a decimal is a Number as it was written"
    )
