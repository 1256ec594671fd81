"""JSON, newline-delimited JSON and GeoJSON, read one record at a time.

The parser is the standard library's C scanner, applied to one array element after the other over a
sliding window of text: faster than the event parsers and exact, because numbers stay the text they
were and every object is checked for repeated keys (ADR 0007 has the measurements). What lies
between the elements — brackets, commas, the members on the way to the records — is walked here.
Memory is bounded by the largest single value, not by the page.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from json.scanner import c_make_scanner  # type: ignore[attr-defined]
from typing import Any, BinaryIO, NoReturn, cast

from holdfast.collect import paths
from holdfast.collect.content import Content
from holdfast.collect.encodings import HINT, known, marked, refuse_no_text
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.formats.around import skipped_by
from holdfast.collect.formats.names import check_columns
from holdfast.collect.model import Bounds, Number, RawRow, ReadContext
from holdfast.collect.paths import Steps, Wild
from holdfast.kernel.outbound import excerpt
from holdfast.registry.source import Format, GeojsonFormat, JsonFormat, NdjsonFormat

_CHUNK = 256 * 1024
_BLANKS = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NEAR_END = 16
"""A word or escape cut off by the end of the window fails within this many characters of it."""


_CUT_NUMBER = frozenset({"", ".", "e", "E", "e+", "e-", "E+", "E-"})
"""What may stand between a number read so far and the end of the window: the number may go on."""


class _Repeated(ValueError):
    """An object says one thing twice."""


class _NotANumber(ValueError):
    """NaN and the infinities are not JSON."""


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        names = [name for name, _ in members]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _Repeated(repeated[:100])
    return found


def _constant(text: str) -> NoReturn:
    raise _NotANumber(text)


class _Rules:
    """How the C scanner is to read: strict text, exact numbers, no repeated keys."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = Number
    parse_int = int
    parse_constant = staticmethod(_constant)


_scan = c_make_scanner(_Rules)


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The records at ``spec.records``, in the order of the document.

    Raises :class:`ParseFailed` where the bytes are not JSON, end early, or have nothing at the
    path; rows before that have been yielded by then.
    """
    assert isinstance(spec, JsonFormat)
    rows = Document(content, context, spec.keys, spec.encoding).rows(spec.records)
    if spec.columns:
        rows = _from_columns(rows)
    elif spec.header:
        rows = _with_header(rows, context.columns)
    return _without_skipped(rows, spec.skip_rows, context)


def read_geojson(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The features of a FeatureCollection (RFC 7946) or of a sequence of features (RFC 8142)."""
    assert isinstance(spec, GeojsonFormat)
    if spec.sequence:
        rows = _sequence(content, context)
    else:
        rows = Document(content, context).rows("$.features[*]")
    for row in rows:
        if not isinstance(row.value, dict) or row.value.get("type") != "Feature":
            raise ParseFailed(
                f"cannot read GeoJSON: record {row.position} is not a feature",
                hint="`type: json` reads any other document",
            )
        yield row


def read_ndjson(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """One JSON value after the other, as lines."""
    assert isinstance(spec, NdjsonFormat)
    return _without_skipped(_sequence(content, context, spec.encoding), spec.skip_rows, context)


def _without_skipped(
    rows: Iterator[RawRow], skipped: Sequence[str], context: ReadContext
) -> Iterator[RawRow]:
    """The rows but for those whose first value is one of ``skipped``; positions still count all."""
    return _kept(rows, skipped_by(skipped), context.left_out) if skipped else rows


def _kept(
    rows: Iterator[RawRow], is_skipped: Callable[[str], bool], left_out: Callable[[], None]
) -> Iterator[RawRow]:
    for row in rows:
        if is_skipped(_first_scalar(row.value)):
            left_out()
        else:
            yield row


def _first_scalar(value: Any) -> str:
    """The first scalar in a value that is no empty text, in the order in which it was sent."""
    if isinstance(value, dict | list):
        return next(filter(None, map(_first_scalar, _members(value))), "")
    return str(value).strip() if isinstance(value, str | int) else ""


def _with_header(rows: Iterator[RawRow], columns: Sequence[str]) -> Iterator[RawRow]:
    """Arrays whose first names the columns become objects; positions still count the arrays."""
    names: list[str] | None = None
    for row in rows:
        value = row.value
        if not isinstance(value, list):
            raise ParseFailed(f"cannot read JSON: record {row.position} is not an array")
        if names is None:
            names = [str(name) for name in value]
            if len(set(names)) != len(names):
                raise ParseFailed("cannot read JSON: the header repeats a column")
            check_columns(columns, names)
            continue
        if len(value) != len(names):
            raise ParseFailed(
                f"cannot read JSON: record {row.position} has {len(value)} values "
                f"under {len(names)} columns"
            )
        record = dict(zip(names, value, strict=True))
        yield RawRow(row.position, record, row.enclosing, size=row.size)


def _from_columns(objects: Iterator[RawRow]) -> Iterator[RawRow]:
    """Objects of equally long arrays become objects of their cells, one after the other."""
    position = 0
    for each in objects:
        columns = each.value if isinstance(each.value, dict) else {}
        columns = {name: cells for name, cells in columns.items() if isinstance(cells, list)}
        lengths = {len(cells) for cells in columns.values()}
        if not columns:
            raise ParseFailed(
                "cannot read JSON: there is no object of columns at the record path",
                hint="`columns: true` reads {name: [value, …], …}",
            )
        if len(lengths) > 1:
            shown = ", ".join(f"{name[:40]} {len(cells)}" for name, cells in columns.items())
            raise ParseFailed(f"cannot read JSON: columns are not equally long: {shown[:300]}")
        size = each.size // max(1, *lengths)
        for cells in zip(*columns.values(), strict=True):
            record = dict(zip(columns, cells, strict=True))
            yield RawRow(position, record, each.enclosing, size=size)
            position += 1


def _sequence(content: Content, context: ReadContext, encoding: str = "utf-8") -> Iterator[RawRow]:
    if context.enclosing:
        raise MappingRefused("cannot use a $$ or # path: a sequence has no enclosing document")
    with content.open() as stream:
        window = _Window(stream, context.bounds, encoding)
        position = 0
        while window.more(" \t\n\r\x1e"):
            yield RawRow(position, window.value(), size=window.taken)
            position += 1


class _Window:
    """A sliding window of text over the page.

    ``at`` is the next character not yet read, ``taken`` the length of the value read last.
    """

    def __init__(self, stream: BinaryIO, bounds: Bounds, encoding: str) -> None:
        self._stream = stream
        self._bounds = bounds
        self._encoding = known(encoding)
        self._decoder: codecs.IncrementalDecoder | None = None
        self.text = ""
        self.at = 0
        self.taken = 0
        self._before = 0
        self.ended = False

    def fill(self) -> bool:
        """Drop what was read, add at least as much as is left; false at the end of the page."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        if len(rest) > self._bounds.record_bytes_max:
            raise BoundReached(
                f"cannot read JSON: one value is longer than {self._bounds.record_bytes_max} "
                f"characters, at character {self._before + self.at}",
                bound="record",
                hint="this bound cannot be set: ask the source for smaller records, such as "
                "without their geometry",
            )
        try:
            data = self._stream.read(max(_CHUNK, len(rest), 4))
            if self._decoder is None:
                refuse_no_text(data)
                self._encoding = marked(data) or self._encoding
                self._decoder = codecs.getincrementaldecoder(self._encoding)("strict")
            added = self._decoder.decode(data, not data)
        except UnicodeError as error:
            raise ParseFailed(f"cannot read JSON: not valid {self._encoding}", hint=HINT) from error
        self.ended = not data
        self._before += self.at
        self.text, self.at = rest + added, 0
        return True

    def more(self, skipped: str = " \t\n\r") -> bool:
        """Skip blanks; whether anything follows them."""
        while True:
            text, at = self.text, self.at
            while at < len(text) and text[at] in skipped:
                at += 1
            self.at = at
            if at < len(text):
                return True
            if not self.fill():
                return False

    def peek(self) -> str:
        """The next character that is no blank; refuses the end of the page."""
        if not self.more():
            self.fail("ends early")
        return self.text[self.at]

    def take(self, wanted: str) -> None:
        """Step over one character that must come next."""
        if self.peek() != wanted:
            self.fail(f"{wanted!r} is missing")
        self.at += 1

    def value(self) -> Any:
        """The next value, whole; ``at`` is behind it."""
        if not self.more():
            self.fail("ends early")
        while True:
            value, end = self.attempt()
            if end >= 0 and (self.ended or self.text[end : end + 3] not in _CUT_NUMBER):
                self.taken = end - self.at
                self.at = end
                return value
            if not self.fill() and end < 0:
                self.fail("ends early")

    def attempt(self) -> tuple[Any, int]:
        """The value at ``at`` and where it ends; -1 if the window may end within it."""
        text, at = self.text, self.at
        try:
            value, end = _scan(text, at)
        except StopIteration as error:
            return self._cut_off(int(error.value), "is no value")
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated string"):
                return (None, -1) if not self.ended else self.fail("ends early, within a text")
            return self._cut_off(error.pos, error.msg[0].lower() + error.msg[1:])
        except _Repeated as error:
            self.fail(f"an object repeats the key {str(error)!r}")
        except _NotANumber as error:
            self.fail(
                f"{error} is no number", "JSON has none such: ask the source for null, or CSV"
            )
        except ValueError as error:  # int() refuses thousands of digits
            raise BoundReached(
                f"cannot read JSON: a number has more than {self._bounds.digits_max} digits",
                bound="digits",
            ) from error
        except RecursionError as error:
            raise self._too_deep() from error
        opened = text.count("{", at, end) + text.count("[", at, end)
        if opened > self._bounds.depth_max and _depth(value) > self._bounds.depth_max:
            raise self._too_deep()
        if text.find("\\u", at, end) >= 0 and _SURROGATE.search(text, at, end) is not None:
            self._check_surrogates(value)
        return value, end

    def _cut_off(self, failed_at: int, reason: str) -> tuple[None, int]:
        if not self.ended and failed_at + _NEAR_END >= len(self.text):
            return None, -1
        self.at = min(failed_at, len(self.text))
        return self.fail(reason if self.at < len(self.text) else "ends early")

    def _too_deep(self) -> BoundReached:
        return BoundReached(
            f"cannot read JSON: nested deeper than {self._bounds.depth_max} levels",
            bound="depth",
            hint="this bound cannot be set: ask the source for a flatter form",
        )

    def _check_surrogates(self, value: Any) -> None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            self.fail("a text holds half a character (a lone surrogate)")

    def fail(self, reason: str, hint: str = "") -> NoReturn:
        """Refuse the page: it is not JSON at the current character."""
        at = self._before + self.at
        markup = at == 0 and self.text[:1] == "<"
        if markup:
            hint = "the source sent markup: a web page (an error, a login), or XML"
        raise ParseFailed(f"cannot read JSON: {reason}, at character {at}", hint=hint)


def _depth(value: Any) -> int:
    """How deep ``value`` is nested, without recursion."""
    deepest, level = 0, [value]
    while level:
        level = [c for node in level if isinstance(node, dict | list) for c in _members(node)]
        deepest += 1
    return deepest - 1


def _members(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node


_Element = tuple["str | None", Any, int]
"""A streamed value: its name in an object, the value, its length in characters."""

Chain = tuple[tuple["str | None", Any], ...]
"""What the record path's wildcards went through: each value, with its name in an object."""


class _NothingThere(ParseFailed):
    """The document has not what the record path names."""


_BEGINNING_BYTES = 1024


class Document:
    """One walk over one document: to the records, and over the rest to see that it is whole."""

    def __init__(
        self,
        content: Content,
        context: ReadContext,
        keys: Sequence[str] = (),
        encoding: str = "utf-8",
    ) -> None:
        self._content = content
        self._context = context
        self._keys = keys
        self._encoding = encoding

    def rows(self, records: str) -> Iterator[RawRow]:
        query = paths.steps(records)
        if query is None or any(isinstance(step, int) and step < 0 for step in query):
            raise MappingRefused(
                f"cannot read records at {records!r}: the path must be names, indexes and [*]"
            )
        streamed, inner = _split(query)
        enclosing = _Enclosing(self._context.enclosing, query, self._keys)
        if enclosing.outside:
            enclosing.found = self.collect(enclosing.outside)
        if not inner and not self._context.enclosing:  # the usual case, without its book-keeping
            for position, (_, value, size) in enumerate(self._walk(streamed)):
                yield RawRow(position, value, size=size)
            return
        position = 0
        for name, element, size in self._walk(streamed):
            for chain, value in _inner(name, element, inner):
                yield RawRow(position, value, enclosing.of(chain), size=size)
                position += 1

    def elements(self, query: str) -> Iterator[_Element]:
        """The values at ``query``, each with its name in an object and its length."""
        return self._walk(cast("Steps", paths.steps(query)))

    def _walk(self, query: Steps) -> Iterator[_Element]:
        """The values at ``query``; the whole document is read, so that a cut is never missed."""
        with self._content.open() as stream:
            window = _Window(stream, self._context.bounds, self._encoding)
            try:
                yield from _descend(window, query, 0)
            except _NothingThere as error:
                error.said = self._beginning()
                raise
            if window.more():
                window.fail("something follows the document")

    def _beginning(self) -> str:
        """How the document begins: where the records are missing, it often says why."""
        with self._content.open() as stream:
            return excerpt(stream.read(_BEGINNING_BYTES).decode(self._encoding, "replace"))

    def collect(self, wanted: tuple[tuple[str | int, ...], ...]) -> dict[Any, Any]:
        """The values of the enclosing document's paths, in a walk of their own.

        It ends at the last of them; only a value behind the records costs a second full read.
        """
        found: dict[Any, Any] = {}
        with self._content.open() as stream:
            window = _Window(stream, self._context.bounds, self._encoding)
            for path, value in _gather(window, set(wanted), ()):
                found[path] = value
                if len(found) == len(wanted):
                    break
        return found


def _split(query: Steps) -> tuple[Steps, Steps]:
    """The part up to the first wildcard, which is streamed, and the part within an element."""
    for index, step in enumerate(query):
        if isinstance(step, Wild):
            return query[: index + 1], query[index + 1 :]
    return query, ()


def _descend(window: _Window, query: Steps, index: int) -> Iterator[_Element]:
    """The values that ``query[index:]`` selects in the value that begins here."""
    if index == len(query):
        value = window.value()
        if isinstance(value, list):
            raise ParseFailed(
                "cannot read JSON: there is an array at the record path",
                hint="a path that ends in [*] selects its elements",
            )
        yield None, value, window.taken
        return
    step = query[index]
    if isinstance(step, Wild) and index == len(query) - 1:
        yield from _children(window)
        return
    missing = True
    for name in _entries(window):
        if name == step:
            missing = False
            yield from _descend(window, query, index + 1)
        else:
            _skip(window)
    if missing:
        shown = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in query[: index + 1])
        raise _NothingThere(
            f"cannot read JSON: nothing at ${shown[:200]}",
            hint="`source.format.records` says where the records are",
        )


def _children(window: _Window) -> Iterator[_Element]:
    """The elements of the array, or the named members of the object, that begins here."""
    if window.peek() != "[":
        for name in _entries(window):
            yield cast("str", name), window.value(), window.taken
        return
    window.at += 1
    if window.peek() == "]":
        window.at += 1
        return
    comma = _COMMA.match
    while True:
        # The fast path: the element and its comma both lie in the window.
        while True:
            value, end = window.attempt()
            if end < 0:
                break
            follows = comma(window.text, end)
            if follows is None or follows.end() == len(window.text):
                break
            size = end - window.at
            window.at = follows.end()
            yield None, value, size
        yield None, window.value(), window.taken
        if window.peek() == "]":
            window.at += 1
            return
        window.take(",")
        window.peek()


def _entries(window: _Window) -> Iterator[str | int]:
    """The names of an object's members, or the indexes of an array's elements.

    After each, the caller reads or skips the value. Repeated names are refused.
    """
    opening = window.peek()
    if opening not in "{[":
        value = window.value()
        raise ParseFailed(
            f"cannot read JSON: {json.dumps(value)[:60]} is neither an array nor an object",
            hint="`source.format.records` says where the records are",
        )
    window.at += 1
    closing = "}" if opening == "{" else "]"
    if window.peek() == closing:
        window.at += 1
        return
    names: set[str] = set()
    index = 0
    while True:
        if opening == "[":
            yield index
        else:
            yield _name(window, names)
        index += 1
        if window.peek() == closing:
            window.at += 1
            return
        window.take(",")


def _name(window: _Window, names: set[str]) -> str:
    if window.peek() != '"':
        window.fail("a member name is missing")
    name = window.value()
    assert isinstance(name, str)
    if name in names:
        window.fail(f"an object repeats the key {name[:100]!r}")
    names.add(name)
    window.take(":")
    return name


def _skip(window: _Window) -> None:
    """Step over a value, a member at a time, so that a large one is never held whole."""
    if window.peek() in "{[":
        for _ in _children(window):
            pass
    else:
        window.value()


def _gather(
    window: _Window, wanted: set[tuple[str | int, ...]], here: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The wanted paths below ``here`` and their values, in document order."""
    for name in _entries(window):
        path = (*here, name)
        if path in wanted:
            value = window.value()
            yield path, value
            for longer in wanted:
                if len(longer) > len(path) and longer[: len(path)] == path:
                    yield longer, paths.follow(longer[len(path) :])(value)
        elif window.peek() in "{[" and any(w[: len(path)] == path for w in wanted):
            yield from _gather(window, wanted, path)
        else:
            _skip(window)


def _inner(name: str | None, element: Any, inner: Steps) -> Iterator[tuple[Chain, Any]]:
    """What ``inner`` selects in a streamed element, with what it went through."""
    until = next((i for i, step in enumerate(inner) if isinstance(step, Wild)), len(inner))
    for node in paths.select(element, inner[:until]):
        if until == len(inner):
            yield ((name, element),), node
        else:
            for child_name, child in _named_children(node):
                for chain, value in _inner(child_name, child, inner[until + 1 :]):
                    yield ((name, element), *chain), value


def _named_children(node: Any) -> Iterable[tuple[str | None, Any]]:
    if isinstance(node, dict):
        return cast("Iterable[tuple[str | None, Any]]", node.items())
    return ((None, child) for child in node) if isinstance(node, list) else ()


class _Enclosing:
    """The values of ``$$`` and ``#`` paths for a row.

    A ``$$`` path through the record path's own ``[*]`` means the element this record is in; the
    others are looked up once in the document. ``#name`` is the name of an object's member that the
    record path went through, under the name that the format's ``keys`` gives it.
    """

    def __init__(self, wanted: Sequence[str], query: Steps, keys: Sequence[str]) -> None:
        self.found: dict[Any, Any] = {}
        self._plan = [
            self._by_name(path, keys) if path.startswith("#") else self._by_path(path, query)
            for path in wanted
        ]
        outside = [where for kind, where, _ in self._plan if kind == "document"]
        self.outside = tuple(dict.fromkeys(cast("list[tuple[str | int, ...]]", outside)))

    @staticmethod
    def _by_name(path: str, keys: Sequence[str]) -> tuple[str, Any, Any]:
        if path[1:] not in keys:
            raise MappingRefused(
                f"cannot use the path {path!r}: it is none of the format's keys",
                hint="`source.format.keys` names the members that [*] walks over",
            )
        return "name", list(keys).index(path[1:]), None

    @staticmethod
    def _by_path(path: str, query: Steps) -> tuple[str, Any, Any]:
        wilds = [i for i, step in enumerate(query) if isinstance(step, Wild)]
        found = paths.steps(path[1:]) or ()
        shared = sum(1 for i in wilds if found[: i + 1] == query[: i + 1])
        rest = found[wilds[shared - 1] + 1 :] if shared else found
        plain = tuple(step for step in rest if not isinstance(step, Wild))
        if not found or len(plain) != len(rest):
            raise MappingRefused(
                f"cannot use the path {path!r}: an enclosing path is names and indexes, "
                "and [*] only where the record path has it"
            )
        if shared:
            return "element", shared - 1, paths.follow(plain)
        return "document", plain, None

    def of(self, chain: Chain) -> tuple[Any, ...]:
        return tuple([self._one(kind, where, get, chain) for kind, where, get in self._plan])

    def _one(self, kind: str, where: Any, get: Any, chain: Chain) -> Any:
        if kind == "document":
            return self.found.get(where)
        if kind == "element":
            return get(chain[where][1]) if where < len(chain) else None
        names = [name for name, _ in chain if name is not None]
        return names[where] if where < len(names) else None


def lookup(
    content: Content, wanted: Sequence[str], bounds: Bounds, encoding: str = "utf-8"
) -> dict[str, Any]:
    """What stands at each of the singular paths in one document; absent ones are left out.

    Reads no further than the last of them. Raises :class:`MappingRefused` for a path that is not
    singular, :class:`ParseFailed` for what is no JSON up to there.
    """
    plain: dict[tuple[str | int, ...], str] = {}
    for path in wanted:
        found = paths.singular(path)
        if not found:
            raise MappingRefused(f"cannot use the path {path!r} here: write names and indexes")
        plain[found] = path
    document = Document(content, ReadContext(bounds=bounds), (), encoding)
    return {plain[key]: value for key, value in document.collect(tuple(plain)).items()}
