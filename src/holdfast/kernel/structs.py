"""Makes types ready for several threads to decode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from holdfast.kernel.importing import PREPARING


def prepare_structs() -> int:
    """Have msgspec look at every Struct that is loaded; how many there are.

    Ours are ready when their module is imported (``kernel.importing``); a served program calls this
    at its start for those of the libraries. msgspec works
    a type out at its first use and hangs the unfinished description on the class, so that types
    can contain themselves. Resolving a nested type's annotations runs Python code, which lets
    other threads in; one that uses the outer type at that moment follows a null pointer, and the
    process dies. A finished description is never touched again.
    """
    found = list(dict.fromkeys(_below(msgspec.Struct)))
    with PREPARING:
        for each in found:
            # Some, of libraries too, are only ever encoded and need not be decodable.
            with suppress(Exception):
                msgspec.json.Decoder(each)
    return len(found)


@lru_cache(maxsize=512)
def decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for ``wanted``: the way to one for types that are put together at their use.

    ``Page[Task]`` is a type of its own to msgspec, and no module's import makes it.
    """
    with PREPARING:
        return msgspec.json.Decoder(wanted)


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for each in base.__subclasses__():
        yield each
        yield from _below(each)


def said(error: msgspec.ValidationError, wanted: Any) -> str:
    """What is wrong with a value for ``wanted``, for people: with what it may be, where that is a
    closed set of words, members or a form of text that describes itself."""
    text, at, path = str(error).partition(" - at `")
    place = path.rstrip("`")
    kind = _kind_at(msgspec.inspect.type_info(wanted), place)
    may = ""
    if text.startswith("Invalid enum value") and (words := _words(kind)):
        may = f"{text.removeprefix('Invalid enum value ').strip()} is none of {', '.join(words)}"
    elif "unknown field" in text and (members := _members(kind)):
        may = f"{text.partition('unknown field ')[2]} is no member; known are {', '.join(members)}"
    elif "matching regex" in text and (form := _form(kind)):
        may = f"expected {form}"
    if not may:
        return str(error)
    return f"{place.removeprefix('$').lstrip('.')}: {may}" if at and place != "$" else may


def form_at(wanted: Any, place: str) -> str:
    """What the text at ``place`` of a ``wanted`` looks like, if its type says so in words."""
    return _form(_kind_at(msgspec.inspect.type_info(wanted), place))


_PLACE = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def _kinds(kind: Any) -> list[Any]:
    if isinstance(kind, msgspec.inspect.UnionType):
        return [inner for each in kind.types for inner in _kinds(each)]
    if isinstance(kind, msgspec.inspect.Metadata):
        return [kind, *_kinds(kind.type)]
    return [kind]


def _kind_at(kind: Any, place: str) -> Any:
    for name in _PLACE.findall(place.removeprefix("$")):
        for each in _kinds(kind):
            if name.startswith("[") and hasattr(each, "item_type"):
                kind = each.item_type
                break
            found = [f for f in getattr(each, "fields", ()) if f.encode_name == name]
            if found:
                kind = found[0].type
                break
        else:
            return None
    return kind


def _words(kind: Any) -> list[str]:
    for each in _kinds(kind):
        if isinstance(each, msgspec.inspect.EnumType):
            return [str(member.value) for member in each.cls]
        if isinstance(each, msgspec.inspect.LiteralType):
            return [str(value) for value in each.values]
    return []


def _members(kind: Any) -> list[str]:
    return [f.encode_name for each in _kinds(kind) for f in getattr(each, "fields", ())]


def _form(kind: Any) -> str:
    for each in _kinds(kind):
        if isinstance(each, msgspec.inspect.Metadata):
            form: str = (each.extra_json_schema or {}).get("description", "")
            return form
    return ""
