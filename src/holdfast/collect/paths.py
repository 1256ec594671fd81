"""JSONPath (RFC 9535) as collecting needs it: singular queries as plain getters.

A query made only of names and indexes selects at most one node, and compiles to a Python closure.
Anything else goes to python-jsonpath, imported when it is first needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from holdfast.collect.errors import MappingRefused
from holdfast.collect.patterns import bounded_pattern

Getter = Callable[[Any], Any]
Steps = tuple["str | int | Wild", ...]


class Wild:
    """The step ``[*]``: every element of an array, every member value of an object."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[*]"


WILD = Wild()

_SHORTHAND = re.compile(r"\.([A-Za-z_\u0080-\ud7ff\ue000-\U0010ffff][\w\u0080-\U0010ffff]*)", re.A)
_INDEX = re.compile(r"\[[ \t\n\r]*(0|-?[1-9][0-9]{0,15})[ \t\n\r]*\]")
_QUOTED = re.compile(
    r"\[[ \t\n\r]*(?:'((?:[^'\\\x00-\x1f]|\\.)*)'|\"((?:[^\"\\\x00-\x1f]|\\.)*)\")[ \t\n\r]*\]"
)
_WILD = re.compile(r"\.\*|\[[ \t\n\r]*\*[ \t\n\r]*\]")
_BLANK = re.compile(r"[ \t\n\r]*")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.S)
_INDEX_MAX = 2**53 - 1


def steps(path: str) -> Steps | None:
    """The steps of a query made of names, indexes and wildcards; ``None`` for any other."""
    if path[:1] not in {"$", "@"}:
        return None
    found: list[str | int | Wild] = []
    at = 1
    while at < len(path):
        step = _BLANK.match(path, at)
        at = step.end() if step else at
        parsed = _step(path, at)
        if parsed is None:
            return None
        value, at = parsed
        found.append(value)
    return tuple(found)


def _step(path: str, at: int) -> tuple[str | int | Wild, int] | None:
    if match := _SHORTHAND.match(path, at):
        return match[1], match.end()
    if match := _WILD.match(path, at):
        return WILD, match.end()
    if match := _INDEX.match(path, at):
        index = int(match[1])
        return (index, match.end()) if abs(index) <= _INDEX_MAX else None
    if match := _QUOTED.match(path, at):
        single = match[1] is not None
        name = _unescape(match[1] if single else match[2], "'" if single else '"')
        return (name, match.end()) if name is not None else None
    return None


_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\"}

_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x20)}
_ESCAPED |= {ord(text): f"\\{letter}" for letter, text in _ESCAPES.items() if text != "/"}
_ESCAPED[ord("'")] = "\\'"


def member_step(name: str) -> str:
    """The step of a path that leads to a member, whatever its name holds."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return f".{name}"
    return f"['{name.translate(_ESCAPED)}']"


def _unescape(text: str, quote: str) -> str | None:
    """The name a quoted selector spells; ``None`` for an escape RFC 9535 does not know."""
    if "\\" not in text:
        return text
    bad = False

    def replace(match: re.Match[str]) -> str:
        nonlocal bad
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] == quote:
            return quote
        bad = bad or match[2] not in _ESCAPES
        return _ESCAPES.get(match[2], "")

    name = _ESCAPE.sub(replace, text)
    if bad:
        return None
    try:  # \ud83d\ude00 is one character; half of it is none
        return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None


def singular(path: str) -> tuple[str | int, ...] | None:
    """The names and indexes of a singular query; ``None`` if ``path`` is not one."""
    found = steps(path)
    if found is None:
        return None
    plain = tuple(step for step in found if not isinstance(step, Wild))
    return plain if len(plain) == len(found) else None


def getter(path: str) -> Getter:
    """A function from a value to what ``path`` selects in it.

    Nothing selected is ``None``. A query that can select several nodes gives their list, or the
    one value where it selects one. Raises :class:`MappingRefused` for a path that is no query.
    """
    plain = singular(path)
    return follow(plain) if plain is not None else _general(path)


def follow(plain: tuple[str | int, ...]) -> Getter:
    """A getter for names and indexes; what is not there, or not of that shape, is ``None``."""
    if not plain:
        return lambda value: value
    if all(isinstance(step, str) for step in plain):
        if len(plain) == 1:
            return _one(plain[0])
        if len(plain) == 2:
            return _two(plain[0], plain[1])
    return _chain(plain)


# A name step on anything but an object raises (KeyError, TypeError) and is "not there": text and
# arrays cannot be indexed by text. Index steps check for an array, because text can be indexed.


def _one(name: Any) -> Getter:
    def get(value: Any) -> Any:
        try:
            return value[name]
        except (KeyError, TypeError):
            return None

    return get


def _two(first: Any, second: Any) -> Getter:
    def get(value: Any) -> Any:
        try:
            return value[first][second]
        except (KeyError, TypeError):
            return None

    return get


def _chain(plain: tuple[str | int, ...]) -> Getter:
    def get(value: Any) -> Any:
        try:
            for step in plain:
                if step.__class__ is int and value.__class__ is not list:
                    return None
                value = value[step]
        except (KeyError, TypeError, IndexError):
            return None
        return value

    return get


def _general(path: str) -> Getter:
    find = finder(path)

    def get(value: Any) -> Any:
        found = find(value)
        if len(found) > 1:
            return found
        return found[0] if found else None

    return get


@lru_cache(maxsize=256)
def finder(path: str) -> Callable[[Any], list[Any]]:
    """A function from a value to all that the RFC 9535 query ``path`` selects, in order."""
    plain = steps(path)
    if plain is not None:
        return lambda value: select(value, plain)
    query = _compile("$" + path[1:] if path.startswith("@") else path)

    def find(value: Any) -> list[Any]:
        if not isinstance(value, dict | list):
            return []
        return [match.obj for match in query.finditer(value)]

    return find


def select(value: Any, plain: Steps) -> list[Any]:
    """All that names, indexes and wildcards select in ``value``, in document order."""
    found = [value]
    for step in plain:
        if isinstance(step, Wild):
            found = [child for node in found for child in children(node)]
        else:
            found = [child for node in found for child in _child(node, step)]
    return found


def children(node: Any) -> list[Any]:
    """The elements of an array or the member values of an object; nothing for a scalar."""
    if isinstance(node, list):
        return node
    return list(node.values()) if isinstance(node, dict) else []


def _child(node: Any, step: str | int) -> list[Any]:
    if isinstance(step, str):
        return [node[step]] if isinstance(node, dict) and step in node else []
    in_range = isinstance(node, list) and -len(node) <= step < len(node)
    return [node[step]] if in_range else []


def _compile(path: str) -> Any:
    import jsonpath

    try:
        for literal in _pattern_literals(path):
            bounded_pattern(literal)
        return jsonpath.compile(path, strict=True)
    except jsonpath.JSONPathError as error:
        raise MappingRefused(f"cannot use the path {path!r}: {error}") from error


_PATTERN_CALL = re.compile(r"(?:match|search)\s*\(")
_PATTERN_LITERAL = re.compile(r",\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")\s*\)")


def _pattern_literals(path: str) -> list[str]:
    """The patterns of ``match()`` and ``search()`` calls; one from the data itself is refused.

    A pattern that the source supplies could be made to run for hours.
    """
    calls = len(_PATTERN_CALL.findall(path))
    found = [one or two for one, two in _PATTERN_LITERAL.findall(path)]
    if calls > len(found):
        raise MappingRefused(f"cannot use the path {path!r}: a pattern must be written in the path")
    return [literal.replace("\\\\", "\\") for literal in found] if calls else []
