"""XML and feeds, read one repeated element at a time.

libxml2 parses; entities, document types and the network are closed. A record is an element taken
out of the tree as soon as it ends, so memory is bounded by the largest record. Fields are XPath 1.0
location paths from the record; those that lead out of it (``../…``, ``ancestor::…``, ``/…``) are
looked up while it still stands in its place, and a value that only comes after the records it
belongs to is refused: it would have been missing from some of them in silence.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast

from lxml import etree

from holdfast.collect.content import Content
from holdfast.collect.encodings import (
    AUTO,
    HEAD_BYTES,
    HINT,
    believed,
    charset_of,
    known,
    marked,
    refuse_no_text,
    shown,
)
from holdfast.collect.errors import BoundReached, MappingRefused, ParseFailed
from holdfast.collect.model import RawRow, ReadContext
from holdfast.registry.source import FeedFormat, Format, XmlFormat
from holdfast.registry.xpath import (
    FEED_NAMESPACES,
    leads_out,
    path_problem,
    record_steps,
)

_CHUNK = 64 * 1024
_KEPT_MAX = 10_000
"""Elements outside records that are held for the fields that look there."""
_DECLARATION = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_NATIVE = frozenset({"utf-8", "ascii"})
"""What libxml2 decodes itself."""


class XmlRecord:
    """One element of the source, out of its document. Equal to another of the same content."""

    __slots__ = ("element",)

    def __init__(self, element: Any) -> None:
        self.element = element

    def __eq__(self, other: object) -> bool:
        return isinstance(other, XmlRecord) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return etree.tostring(self.element, encoding="unicode", with_tail=False)

    def columns(self) -> Iterator[tuple[str, str]]:
        """What a table of such elements would have as columns, by names without prefixes.

        SDMX-ML's generic form has all its attributes at one path: there the concept names them.
        """
        return _columns(self.element, "", _COLUMNS_DEEP)


_COLUMNS_DEEP = 4


def _columns(element: Any, path: str, deep: int) -> Iterator[tuple[str, str]]:
    base = f"{path}/" if path else ""
    if concept := _concept(element):
        yield f"{path}[{concept[1]}]", element.get("value")
        return
    for name, value in element.attrib.items():
        yield f"{base}@{split_name(name)[1]}", value
    for child in element.iterchildren(etree.Element):
        if deep > 1:
            yield from _columns(child, f"{base}{split_name(child.tag)[1]}", deep - 1)
    if path and (text := (element.text or "").strip()):
        yield path, text


def _concept(element: Any) -> tuple[str, str] | None:
    """(attribute, name) of what an element of SDMX-ML's generic form gives the value of."""
    if not isinstance(element.tag, str) or "sdmx" not in split_name(element.tag)[0].lower():
        return None
    name = next((name for name in ("id", "concept") if element.get(name)), "")
    return (name, element.get(name)) if name and element.get("value") is not None else None


def namespaces_of(spec: Format) -> Mapping[str, str]:
    """The prefixes that a profile's paths may use."""
    if isinstance(spec, FeedFormat):
        return {**FEED_NAMESPACES, **spec.namespaces}
    return spec.namespaces if isinstance(spec, XmlFormat) else {}


def read(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The elements at ``spec.records``, in the order of the document.

    Raises :class:`ParseFailed` where the bytes are not well-formed, end early, declare entities or
    have no element at the path's first step.
    """
    assert isinstance(spec, XmlFormat)
    steps = record_steps(spec.records, spec.namespaces)
    if isinstance(steps, str):
        raise MappingRefused(f"cannot read records at {spec.records!r}: {steps}")
    walk = _Walk(spec.namespaces, context, spec.records, steps)
    return walk.rows(content, spec.encoding)


def read_feed(content: Content, spec: Format, context: ReadContext) -> Iterator[RawRow]:
    """The items of an RSS feed (0.9 to 2.0) or the entries of an Atom feed (RFC 4287)."""
    assert isinstance(spec, FeedFormat)
    return _Walk(namespaces_of(spec), context, "", ()).rows(content, spec.encoding)


_FEEDS = {
    "rss": "/rss/channel/item",
    f"{{{FEED_NAMESPACES['rdf']}}}RDF": "/rdf:RDF/rss:item",
    f"{{{FEED_NAMESPACES['atom']}}}feed": "/atom:feed/atom:entry",
}


class _Level:
    """An open element outside records: whether it held any, and what is kept inside it."""

    __slots__ = ("element", "held", "kept")

    def __init__(self, element: Any) -> None:
        self.element = element
        self.held = False
        self.kept = 0


class _Walk:
    """One walk over one document."""

    def __init__(
        self,
        namespaces: Mapping[str, str],
        context: ReadContext,
        records: str,
        steps: Sequence[tuple[bool, str]],
    ) -> None:
        self._bounds = context.bounds
        self._records = records
        self._steps = tuple(steps)
        self._around = _Around(context.enclosing, namespaces)
        self._levels: list[_Level] = []
        self._spent: Any = None
        """What is to leave the tree at the next event: its tail is whole then."""
        self._elsewhere: Any = None
        """An element that is called as a record is, in another namespace than the path says."""
        self._depth = self._inside = self._size = 0
        """Open elements; those from the record's own on; characters of the record so far."""

    def rows(self, content: Content, encoding: str) -> Iterator[RawRow]:
        decoder, told = _encoding(content, encoding)
        parser = etree.XMLPullParser(
            events=("start", "end"),
            encoding=told,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            attribute_defaults=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        position = 0
        for element in self._elements(parser, _chunks(content, decoder)):
            around = self._around.of(element, self._depth)
            yield RawRow(position, XmlRecord(element), around, size=self._size)
            position += 1
        if not position and self._elsewhere is not None:
            raise ParseFailed(
                f"cannot read XML: there is no record at {self._records}, and there is a "
                f"{_shown(self._elsewhere)}{_namespace(self._elsewhere)}",
                hint="`source.format.namespaces` gives the namespace a prefix, and `records` has "
                "it before the name",
            )

    def _elements(self, parser: Any, chunks: Iterator[bytes]) -> Iterator[Any]:
        """Each record as it ends, still in its place."""
        limit = self._bounds.record_bytes_max
        unseen = whole = 0  # bytes without any event; bytes that lay wholly inside one record
        try:
            for data in chunks:
                before = self._inside
                parser.feed(data)
                seen = False
                for element in self._events(parser):
                    if element is None:
                        seen = True
                    else:
                        whole = 0
                        yield element
                unseen = 0 if seen else unseen + len(data)
                whole = whole + len(data) if before and self._inside else 0
                if max(unseen, whole) > limit:
                    self._too_large()
            parser.close()
        except etree.XMLSyntaxError as error:
            _refuse(error)
        yield from (element for element in self._events(parser) if element is not None)
        if self._depth:
            raise ParseFailed("cannot read XML: it ends early")

    def _too_large(self) -> NoReturn:
        raise BoundReached(
            f"cannot read XML: one record is larger than {self._bounds.record_bytes_max} bytes",
            bound="record",
        )

    def _events(self, parser: Any) -> Iterator[Any]:
        """Records, and ``None`` once if there was any event at all."""
        depth_max, size_max = self._bounds.depth_max, self._bounds.record_bytes_max
        seen = False
        for event, element in parser.read_events():
            seen = True
            if self._spent is not None:
                _take_out(self._spent)
                self._spent = None
            if event == "start":
                self._depth += 1
                if self._depth > depth_max:
                    raise BoundReached(
                        f"cannot read XML: nested deeper than {depth_max} levels", bound="depth"
                    )
                if self._inside:
                    self._inside += 1
                elif self._begins(element):
                    self._inside, self._size = 1, 0
                    if self._levels:
                        self._levels[-1].held = True
                else:
                    self._levels.append(_Level(element))
                    if self._elsewhere is None:
                        self._look_at(element)
                continue
            self._depth -= 1
            if not self._inside:
                self._ended()
                continue
            text = element.text
            self._size += 16 + (len(text) if text else 0)
            if self._size > size_max:
                self._too_large()
            self._inside -= 1
            if not self._inside:
                _check_entities(parser)
                yield element
                self._spent = element
        if seen:
            _check_entities(parser)
            yield None

    def _look_at(self, element: Any) -> None:
        """Keep in mind that a record's name was met where the path does not lead."""
        wanted = self._steps[-1][1] if self._records and self._steps else "*"
        if split_name(wanted)[1] == split_name(element.tag)[1] and not _fits(wanted, element.tag):
            self._elsewhere = etree.Element(element.tag)

    def _begins(self, element: Any) -> bool:
        """Whether a record begins here; the first element says what document this is."""
        if self._depth == 1:
            self._begun(element)
        return _matches(self._steps, [*(level.element.tag for level in self._levels), element.tag])

    def _begun(self, root: Any) -> None:
        declared = root.getroottree().docinfo.internalDTD
        if declared is not None and any(True for _ in declared.iterentities()):
            raise ParseFailed("cannot read XML: it declares entities, which are not read")
        if self._records:
            first = self._steps[0]
            if not first[0] and not _fits(first[1], root.tag):
                raise ParseFailed(
                    f"cannot read XML: the document is a {_shown(root)}"
                    f"{_namespace(root)}, and {self._records} begins with another element",
                    hint="`source.format.records` says where the records are, "
                    "`source.format.namespaces` in which namespaces",
                )
            return
        path = _FEEDS.get(root.tag)
        if path is None:
            raise ParseFailed(
                f"cannot read the feed: a {_shown(root)} is neither RSS nor Atom",
                hint="`type: xml` reads any other document",
            )
        self._steps = tuple(cast("list[tuple[bool, str]]", record_steps(path, FEED_NAMESPACES)))

    def _ended(self) -> None:
        """An element outside records has ended: it leaves, or is kept for paths that look there."""
        level = self._levels.pop()
        if level.held:
            self._around.check(level.element, self._depth + 1)
        if not self._levels:
            return
        around = self._levels[-1]
        around.held |= level.held
        if not self._around.wanted or level.held or self._could_hold(level.element):
            self._spent = level.element
            return
        around.kept += level.kept + 1
        if around.kept > _KEPT_MAX:
            raise BoundReached(
                f"cannot read XML: more than {_KEPT_MAX} elements beside the records are to be "
                "kept for the paths that lead out of a record",
                bound="enclosing",
            )

    def _could_hold(self, element: Any) -> bool:
        """An element where records could have been, and were not."""
        tags = [*(level.element.tag for level in self._levels), element.tag]
        return any(_matches(self._steps[:end], tags) for end in range(1, len(self._steps)))


class _Around:
    """The values of the paths that lead out of a record.

    They are looked up once for the records of one parent, and again when the element that the path
    leads to has ended: what differs then stood behind the records, and beyond what was read with
    them. So a value is right or refused, never missing.
    """

    def __init__(self, wanted: Sequence[str], namespaces: Mapping[str, str]) -> None:
        self.wanted = tuple(wanted)
        self._getters = [xpath_getter(path, namespaces) for path in wanted]
        self._up = [_levels_up(path) for path in wanted]
        self._parent: Any = None
        self._tags: list[str] = []
        self._depth = 0
        self._found: tuple[Any, ...] = ()

    def of(self, element: Any, depth: int) -> tuple[Any, ...]:
        """The values for a record, ``depth`` elements being open around it."""
        if not self.wanted:
            return ()
        parent = element.getparent()
        if parent is None or parent is not self._parent:
            self._parent, self._depth = parent, depth
            self._tags = [element.tag, *(one.tag for one in element.iterancestors())]
            self._found = tuple([get(element) for get in self._getters])
        return self._found

    def check(self, element: Any, depth: int) -> None:
        """``element``, at ``depth``, is whole: the paths that end here must select the same."""
        if not self.wanted or not self._tags:
            return
        up = self._depth - depth + 1
        asked = [at for at, levels in enumerate(self._up) if levels == (up if depth > 1 else -1)]
        if depth == 1:
            asked += [at for at, levels in enumerate(self._up) if levels == up]
        if not asked:
            return
        probe = first = None
        for tag in reversed(self._tags[:up]):
            probe = etree.SubElement(element if probe is None else probe, tag)
            first = probe if first is None else first
        found = [self._getters[at](element if probe is None else probe) for at in asked]
        if first is not None:
            element.remove(first)
        for at, value in zip(asked, found, strict=True):
            if value != self._found[at]:
                raise ParseFailed(
                    f"cannot use the path {self.wanted[at]!r}: what it selects stands behind the "
                    "records",
                    hint="XML is read in one pass; take the value from the record itself",
                )


def _levels_up(path: str) -> int:
    """How many ``..`` a path begins with; -1 for one from the root, 0 for ``ancestor::``."""
    if path.startswith("/"):
        return -1
    levels = 0
    while path.startswith(".."):
        path, levels = path[3:], levels + 1
    return levels


def declared_encoding(head: bytes) -> str:
    """What the XML declaration says of the encoding; empty if nothing."""
    match = _DECLARATION.match(head.lstrip())
    return match[1].decode() if match else ""


def _encoding(content: Content, encoding: str) -> tuple[str, str | None]:
    """Which encoding Python decodes for the parser (empty: none), and what the parser is told
    (``None``: it is left to the document's own declaration)."""
    with content.open() as stream:
        head = stream.read(HEAD_BYTES)
    name = marked(head)
    if not name:
        refuse_no_text(head)
    if not name and encoding != AUTO:
        name = known(encoding)
    elif not name and (charset := charset_of(content)):
        name = believed(content, charset, "the charset of its media type")
    if not name:
        declared = declared_encoding(head)
        name = believed(content, declared, "the XML declaration") if declared else ""
        if not name or name in _NATIVE:
            return "", None
    return ("", "utf-8") if name == "utf-8" else (name, "utf-8")


def _chunks(content: Content, decoder: str) -> Iterator[bytes]:
    decode = codecs.getincrementaldecoder(decoder)("strict").decode if decoder else None
    with content.open() as stream:
        while data := stream.read(_CHUNK):
            yield data if decode is None else _recoded(decode, data, decoder)
        if decode is not None and (rest := _recoded(decode, b"", decoder, last=True)):
            yield rest


def _recoded(decode: Any, data: bytes, name: str, *, last: bool = False) -> bytes:
    try:
        return cast("bytes", decode(data, last).encode())
    except UnicodeError as error:
        raise ParseFailed(f"cannot read XML: not valid {shown(name)}", hint=HINT) from error


def _take_out(element: Any) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _matches(steps: Sequence[tuple[bool, str]], tags: Sequence[str]) -> bool:
    """Whether the elements from the root on are those that the steps lead through."""
    if not steps:
        return not tags
    anywhere, name = steps[-1]
    if not tags or not _fits(name, tags[-1]):
        return False
    if not anywhere:
        return _matches(steps[:-1], tags[:-1])
    return any(_matches(steps[:-1], tags[:end]) for end in range(len(tags)))


def _fits(name: str, tag: str) -> bool:
    if name == "*":
        return True
    return tag.startswith(name[:-1]) if name.endswith("}*") else tag == name


def split_name(name: str) -> tuple[str, str]:
    """The namespace of an element or attribute (empty: none), and its name there.

    Where a prefix was never declared the parser takes it for a part of the name; ``etree.QName``
    refuses such a name.
    """
    namespace, _, local = name.rpartition("}")
    return namespace[1:], local


def _namespace(element: Any) -> str:
    found, _ = split_name(element.tag)
    return f" in the namespace {found[:200]}" if found else " in no namespace"


def _shown(element: Any) -> str:
    return f"<{split_name(element.tag)[1][:60]}>"


def _refuse(error: Any) -> NoReturn:
    """A fault of the bytes, or a bound of the parser's own."""
    said = str(error)
    if "depth" in said or "Excessive" in said:
        raise BoundReached(f"cannot read XML: nested too deeply: {said}", bound="depth") from error
    if "huge" in said.lower() or "amplification" in said:
        raise BoundReached(f"cannot read XML: {said[:200]}", bound="record") from error
    line = getattr(error, "lineno", None)
    where = f", at line {line}" if line and "line" not in said else ""
    encoding = "encod" in said.lower() or "utf-8" in said.lower()
    raise ParseFailed(
        f"cannot read XML: {said[:200]}{where}", hint=HINT if encoding else ""
    ) from error


def _check_entities(parser: Any) -> None:
    for entry in parser.feed_error_log:
        if entry.type_name in {"WAR_UNDECLARED_ENTITY", "ERR_UNDECLARED_ENTITY"}:
            raise ParseFailed(f"cannot read XML: {entry.message}, and entities are not read")


# --- paths ----------------------------------------------------------------------------------------

_PLAIN_CHILD = re.compile(r"(?:[^\W\d][\w.-]*:)?[^\W\d][\w.-]*")
_PLAIN_ATTRIBUTE = re.compile(r"@([\w.-]+)")


def xpath_getter(path: str, namespaces: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function from an element to the text at ``path``: nothing is ``None``, several are a list.

    Raises :class:`MappingRefused` for what is no path of the kind that profiles may use.
    """
    problem = path_problem(path, namespaces)
    if problem:
        raise MappingRefused(f"cannot use the path {path!r}: {problem}")
    if match := _PLAIN_ATTRIBUTE.fullmatch(path):
        name = match[1]
        return lambda element: element.get(name)
    if _PLAIN_CHILD.fullmatch(path):
        tag = _qualified(path, namespaces)
        return lambda element: _texts(element.iterchildren(tag))
    find = etree.XPath(path, namespaces=dict(namespaces), smart_strings=False)
    return lambda element: _texts(cast("list[Any]", find(element)))


def _qualified(name: str, namespaces: Mapping[str, str]) -> str:
    prefix, colon, local = name.rpartition(":")
    return f"{{{namespaces[prefix]}}}{local}" if colon else name


def _texts(found: Iterable[Any]) -> Any:
    texts = [one if isinstance(one, str) else text_of(one) for one in found]
    if not texts:
        return None
    return texts[0] if len(texts) == 1 else texts


def text_of(element: Any) -> str:
    """All the text of an element, that of elements inside it included."""
    if not len(element):
        return element.text or ""
    return "".join(element.itertext())


def row_getter(path: str, namespaces: Mapping[str, str]) -> Callable[[RawRow], Any]:
    """The same for a row of this format."""
    get = xpath_getter(path, namespaces)

    def of_row(row: RawRow) -> Any:
        value = row.value
        return get(value.element) if value.__class__ is XmlRecord else None

    return of_row


def leaves(record: XmlRecord, namespaces: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every attribute and every element with text of a record, by the path that selects it."""
    prefixes = {uri: prefix for prefix, uri in namespaces.items()}

    def named(tag: str) -> str:
        namespace, local = split_name(tag)
        return f"{prefixes.get(namespace, 'ns')}:{local}" if namespace else local

    def walk(element: Any, path: str) -> Iterator[tuple[str, str]]:
        base = f"{path}/" if path else ""
        for name, value in element.attrib.items():
            yield f"{base}@{named(name)}", value
        children = [(child, child.tag) for child in element]
        times = Counter(tag for _, tag in children)
        met: Counter[str] = Counter()
        for child, tag in children:
            step = named(tag)
            if (concept := _concept(child)) and "'" not in concept[1]:
                yield f"{base}{step}[@{concept[0]}='{concept[1]}']/@value", child.get("value")
                continue
            if times[tag] > 1:
                met[tag] += 1
                step = f"{step}[{met[tag]}]"
            yield from walk(child, f"{base}{step}")
        if path and (not len(element) or (element.text or "").strip()):
            yield path, element.text or ""

    return walk(record.element, "")


__all__ = ["XmlRecord", "leads_out", "leaves", "namespaces_of", "read", "read_feed", "row_getter"]
