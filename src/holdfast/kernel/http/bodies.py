"""Reading a JSON body: nothing repeated, nothing too deep, nothing that is not Unicode, typed.

msgspec decodes at wire speed, refuses NaN, infinities, invalid UTF-8 and lone surrogates, and
guards its recursion; but it keeps the last of two equal keys in silence. Two facts make the check
for those nearly free (ADR 0003 has the figures):

- A body that equals, byte for byte, what we would write for the value just decoded cannot repeat
  a key, because we never do: with its members in the order of the type, as Holdfast's own clients
  write it, or sorted, as a worker does, who signs its records so.
- A type that can nest only so deep bounds the depth of whatever decodes into it.

Everything else takes the slower, general scan.
"""

from __future__ import annotations

import array
import gc
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import inspect

from holdfast.kernel.errors import Invalid, Problem
from holdfast.kernel.structs import form_at

DEPTH_MAX = 64
PROBLEMS_MAX = 50
PAUSE_BYTES = 256 * 1024
"""Bodies from this size on are decoded with the garbage collector paused: it would walk the
half-built value again and again, for two thirds of the time."""


class Body:
    """How bodies of one type are read."""

    def __init__(self, wanted: Any) -> None:
        self.wanted = wanted
        self._decoder = msgspec.json.Decoder(wanted)
        self._writers = (
            msgspec.json.Encoder().encode,
            msgspec.json.Encoder(order="sorted").encode,
        )
        depth = depth_of(inspect.type_info(wanted))
        self._bounded = depth is not None and depth <= DEPTH_MAX
        self._validator: Any = None

    def read(self, data: bytes) -> Any:
        """The value of ``data``; :class:`Invalid` lists what is wrong with it and where."""
        if len(data) < PAUSE_BYTES:
            return self._read(data)
        with _collector_paused():
            return self._read(data)

    def _read(self, data: bytes) -> Any:
        if not self._bounded:
            check_depth(data)
        try:
            value = self._decoder.decode(data)
            if not self._bounded or not any(write(value) == data for write in self._writers):
                check_keys(data)
        except msgspec.ValidationError as error:
            check_keys(data)
            raise self._refusal(data, error) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _unreadable(str(error)) from error
        return value

    def _refusal(self, data: bytes, error: msgspec.ValidationError) -> Invalid:
        message, _, path = str(error).partition(" - at `")
        place = path.rstrip("`") or "$"
        first = Problem(place, self._in_words(place, message))
        found = self._all_problems(data) or [first]
        if len(found) == 1:
            found = [first]
        shown = "; ".join(map(str, found[:3])) + ("; …" if len(found) > 3 else "")
        return Invalid(f"cannot accept the body: {shown}", code="body-invalid", problems=found)

    def _in_words(self, place: str, message: str) -> str:
        """A regular expression is for machines: the form in words, where the type has them."""
        about_form = "matching regex" in message or "does not match" in message
        form = form_at(self.wanted, place) if about_form else ""
        return f"expected {form}" if form else message

    def _all_problems(self, data: bytes) -> list[Problem]:
        """Everything the type's JSON Schema has against ``data``; nothing if it cannot tell."""
        import jsonschema_rs

        try:
            if self._validator is None:
                schema = msgspec.json.schema(self.wanted)
                self._validator = jsonschema_rs.Draft202012Validator(schema, mask="the value")
            found: list[Problem] = []
            for item in self._validator.iter_errors(msgspec.json.decode(data)):
                place = _path(item.instance_path)
                found.append(Problem(place, self._in_words(place, item.message)))
                if len(found) == PROBLEMS_MAX:
                    break
            return found
        except (ValueError, TypeError, RecursionError):
            return []


def check_keys(data: bytes) -> None:
    """Refuse an object that repeats a key, at any depth; and what is no JSON text."""

    def pairs(items: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in items}) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise _unreadable(f"an object repeats the key {twice[:100]!r}")

    def constant(text: str) -> None:
        raise _unreadable(f"{text} is not JSON")

    try:
        json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise _unreadable(str(error)) from error


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
ROUNDS = 8
"""Levels that are taken away at a time each; what is left after them, hardly ever anything, is
counted bracket by bracket, so that the worst body costs no more than that."""
_NO_BRACKETS_IN_STRINGS = re.compile(rb'(?:[^"]*"[^"\[\]{}]*")*+[^"]*')
_STRING = re.compile(rb'"[^"]*"')


def check_depth(data: bytes, depth_max: int = DEPTH_MAX) -> None:
    """Refuse nesting deeper than ``depth_max`` without decoding anything.

    Exact for JSON texts; of other bytes it may pass some, which no decoder accepts.
    """
    if data.count(b"[") + data.count(b"{") <= depth_max:
        return
    if b"\\" in data:
        # Backslashes occur in strings only, and pair up from the left.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _NO_BRACKETS_IN_STRINGS.fullmatch(data) is None:
        data = _STRING.sub(b"", data)
    # One kind of bracket, so that each round takes away exactly the innermost level.
    brackets = data.translate(_SQUARE, _NOT_BRACKETS)
    for _ in range(min(depth_max, ROUNDS)):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return  # nothing left, or brackets that do not match: the decoder says so
        brackets = inner
    steps = array.array("b", brackets.translate(_STEPS))
    if max(itertools.accumulate(steps), default=0) > max(depth_max - ROUNDS, 0):
        raise _unreadable(f"it is nested deeper than {depth_max} levels")


def depth_of(found: inspect.Type, above: tuple[int, ...] = ()) -> int | None:
    """How many containers deep JSON of this type can be; ``None``: any depth, or not known.

    ``msgspec.Raw`` counts as any depth: what is in it was not looked at.
    """
    if isinstance(found, inspect.AnyType | inspect.RawType | inspect.CustomType | inspect.ExtType):
        return None
    if id(found) in above:
        return None  # it contains itself
    inner = [depth_of(part, (*above, id(found))) for part in _parts(found)]
    if any(depth is None for depth in inner):
        return None
    deepest = max((depth for depth in inner if depth is not None), default=0)
    return deepest if isinstance(found, inspect.UnionType | inspect.Metadata) else deepest + 1


def _parts(found: inspect.Type) -> list[inspect.Type]:
    match found:
        case inspect.Metadata():
            return [found.type]
        case inspect.UnionType():
            return list(found.types)
        case inspect.DictType():
            return [found.value_type]
        case inspect.TupleType():
            return list(found.item_types)
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return [found.item_type]
        case inspect.VarTupleType() | inspect.CollectionType():
            return [found.item_type]
        case (
            inspect.StructType()
            | inspect.TypedDictType()
            | inspect.DataclassType()
            | inspect.NamedTupleType()
        ):
            return [field.type for field in found.fields]
        case _:
            return []


def _path(parts: list[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _unreadable(reason: str) -> Invalid:
    if reason == CUT_OFF:  # said of half a surrogate pair as well
        reason = "it ends in the middle, or holds half of a pair such as \\ud800"
    return Invalid(f"cannot read the body: {reason}", code="json-invalid")


CUT_OFF = "Input data was truncated"


@contextmanager
def _collector_paused() -> Iterator[None]:
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
