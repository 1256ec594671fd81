"""From the bytes of a profile to plain data, with the line each member stands on.

YAML is read as YAML 1.2 does it: ``no`` is a text, ``2020-01-01`` is a text, only ``true`` and
``false`` are truth values. What could surprise or explode is refused: tags, anchors and aliases,
repeated keys, several documents, deep nesting. Reading stops at a bound, before work piles up
(a hundred thousand nested brackets cost the parser ten seconds when nothing stops it).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from holdfast.kernel.errors import Problem, TooLarge

DOCUMENT_BYTES_MAX = 256 * 1024
SUFFIXES = (".yaml", ".yml", ".json")
"""How the names of profiles' files end, where a folder stands for those in it."""
DEPTH_MAX = 16
NODES_MAX = 20_000

Place = tuple["str | int", ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,2})?")


@dataclass(slots=True)
class Document:
    """What was read: ``lines`` has the line of each member, ``spelled`` how a bare value that is
    no text was written. ``problems`` is what is wrong with the bytes themselves."""

    plain: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    spelled: dict[Place, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """The line of ``place``, or of the nearest thing around it; 0 where there are no lines."""
        for end in range(len(place), -1, -1):
            if found := self.lines.get(place[:end]):
                return found
        return 0

    def problem(self, place: Place, message: str, hint: str = "") -> Problem:
        """A problem at ``place``, with its line."""
        return Problem(path=dotted(place), message=message, hint=hint, line=self.line(place))


def dotted(place: Place) -> str:
    """``("key", 0)`` as people read it: ``key[0]``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_document(data: bytes, *, media_type: str = "application/yaml") -> Document:
    """The document in ``data``: JSON where the media type says so, else YAML.

    What is wrong with the bytes is in ``problems``; then ``plain`` is what could be read, or
    ``None``. Raises :class:`TooLarge` beyond 256 KiB.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        raise TooLarge(
            f"cannot read this profile: {len(data)} bytes, at most {DOCUMENT_BYTES_MAX} are allowed"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Document(problems=[Problem(path="", message="this is not UTF-8", line=line)])
    return _read_json(text) if "json" in media_type else _Yaml(text).read()


def media_type_of(file: PurePath) -> str:
    """As what a file of this name is read."""
    return "application/json" if file.suffix == ".json" else "application/yaml"


class _Stop(Exception):
    """Reading cannot go on; the problem is already noted."""


class _Yaml:
    """One pass over the events of a YAML text, building plain data without recursion in depth."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._document = Document()
        self._nodes = 0

    def read(self) -> Document:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._yaml = yaml
        self._events = iter(yaml.parse(self._text, Loader=loader))
        try:
            self._stream()
        except _Stop:
            pass
        except yaml.YAMLError as error:
            self._note(_line_of(error), "", f"this is not YAML: {_reason(error)}")
        return self._document

    def _stream(self) -> None:
        yaml, document = self._yaml, self._document
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._note(1, "", "the document is empty")
            return
        document.plain = self._value(self._next(), ())
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            self._note(after.start_mark.line + 1, "", "a second document begins here")

    def _next(self) -> Any:
        return next(self._events)

    def _note(self, line: int, path: str, message: str, hint: str = "") -> None:
        self._document.problems.append(Problem(path=path, message=message, hint=hint, line=line))

    def _value(self, event: Any, place: Place) -> Any:
        """The value that begins with ``event``; depth is bounded, so recursion is too."""
        yaml = self._yaml
        line = event.start_mark.line + 1
        self._document.lines.setdefault(place, line)
        self._nodes += 1
        if len(place) > DEPTH_MAX or self._nodes > NODES_MAX:
            what = f"nested deeper than {DEPTH_MAX}" if len(place) > DEPTH_MAX else "too many nodes"
            self._note(line, dotted(place), what)
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self._note(line, dotted(place), "aliases are not read", "write the value out")
            return None
        self._refuse_decoration(event, place, line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        return self._mapping(place)

    def _refuse_decoration(self, event: Any, place: Place, line: int) -> None:
        if event.anchor is not None:
            self._note(line, dotted(place), "anchors are not read", f"remove &{event.anchor}")
        if event.tag is not None:
            self._note(line, dotted(place), "tags are not read", f"remove {event.tag}")

    def _sequence(self, place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), self._yaml.SequenceEndEvent):
            items.append(self._value(event, (*place, len(items))))
        return items

    def _mapping(self, place: Place) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(event := self._next(), self._yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, self._yaml.ScalarEvent):
                self._note(line, dotted(place), "a key must be a text")
                raise _Stop
            key = event.value
            if key in members:
                first = self._document.lines[(*place, key)]
                self._note(
                    line, dotted((*place, key)), f"{key} is given twice, first on line {first}"
                )
            self._document.lines.setdefault((*place, key), line)
            members[key] = self._value(self._next(), (*place, key))
        return members

    def _scalar(self, event: Any, place: Place, line: int) -> Any:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._note(line, dotted(place), "half of a surrogate pair is no character")
            return ""
        if not event.implicit[0]:
            return text
        value = _resolve(text)
        if not isinstance(value, str):
            self._document.spelled[place] = text
        return value


def _resolve(text: str) -> Any:
    """What a bare scalar means in the core schema of YAML 1.2."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    return Decimal(text) if _DECIMAL.fullmatch(text) else text


def _line_of(error: Any) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark else 0


def _reason(error: Any) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return f"{said}, {context}" if context else str(said)


def _read_json(text: str) -> Document:
    document = Document()
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(items)
        if len(members) != len(items):
            keys = [key for key, _ in items]
            repeated.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return members

    def number(spelled: str) -> Decimal | str:
        return Decimal(spelled) if _DECIMAL.fullmatch(spelled) else spelled

    def whole(spelled: str) -> int | str:
        return int(spelled) if _INTEGER.fullmatch(spelled) else spelled

    try:
        document.plain = json.loads(
            text, object_pairs_hook=pairs, parse_float=number, parse_int=whole
        )
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        document.problems.append(Problem(path="", message=f"this is not JSON: {error}", line=line))
        return document
    document.problems.extend(
        Problem(path="", message=f"{key} is given twice in one object") for key in repeated
    )
    problem = _too_much(document.plain)
    if problem:
        return Document(problems=[*document.problems, Problem(path="", message=problem)])
    return document


def _too_much(plain: Any) -> str:
    """What of the bounds a JSON value breaks; empty if none. No recursion: it may be deep."""
    nodes, waiting = 0, [(plain, 0)]
    while waiting:
        value, depth = waiting.pop()
        nodes += 1
        if depth > DEPTH_MAX:
            return f"nested deeper than {DEPTH_MAX}"
        if nodes > NODES_MAX:
            return "too many nodes"
        texts = [value] if isinstance(value, str) else value if isinstance(value, dict) else ()
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            return "half of a surrogate pair is no character"
        inside = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            waiting.extend((item, depth + 1) for item in inside)
    return ""


def write_document(plain: Any) -> str:
    """``plain`` as YAML that :func:`read_document` reads back as the same.

    A text that would be read as something else when it stands bare is quoted.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if isinstance(_resolve(value), str) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
