"""Which page is asked for next. Pure: addresses in, addresses out, no I/O.

A source that leads in a circle, or says less than it promised, is an error: never a run that goes
on for ever, never a cut that nobody sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from holdfast.collect.errors import LimitReached, PaginationFailed
from holdfast.kernel.outbound import join, parse_target
from holdfast.registry.model import (
    CursorPagination,
    LinkPagination,
    NextUrlPagination,
    OffsetPagination,
    PagePagination,
    Pagination,
    Source,
)


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What a page that was read tells about the ones after it.

    ``values`` holds what stands at :meth:`Pager.wanted`; ``rows`` is how many rows it had.
    """

    url: str
    digest: str
    rows: int
    link: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def address(source: Source, added: Mapping[str, str] | None = None) -> str:
    """``source.url`` with its parameters and ``added`` ones; a name given twice is replaced."""
    return with_parameters(source.url, {**source.parameters, **(added or {})})


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """``url`` with ``parameters`` in its query, those of the same name replaced in place.

    What the address spelled itself is left as it is, byte for byte: publishers are particular.
    """
    if not parameters:
        return url
    parts = urlsplit(url)
    kept = [
        piece for piece in parts.query.split("&") if piece and _name_of(piece) not in parameters
    ]
    added = [f"{quote(k, safe='$[]')}={quote(v, safe=':,/@$')}" for k, v in parameters.items()]
    return urlunsplit(parts._replace(query="&".join([*kept, *added])))


def _name_of(piece: str) -> str:
    pairs = parse_qsl(piece, keep_blank_values=True)
    return pairs[0][0] if pairs else piece


def without_parameter(url: str, name: str) -> str:
    """``url`` with every parameter of that name removed."""
    parts = urlsplit(url)
    kept = [piece for piece in parts.query.split("&") if piece and _name_of(piece) != name]
    return urlunsplit(parts._replace(query="&".join(kept)))


class Pager:
    """Walks a source's pages. ``first`` is the address of the first one."""

    def __init__(self, source: Source, pages_max: int, added: Mapping[str, str]) -> None:
        self._source = source
        self._pagination: Pagination | None = source.pagination
        self._pages_max = pages_max
        self._added = dict(added)
        self._seen_urls: set[str] = set()
        self._seen_digests: set[str] = set()
        self._pages = 0
        self._rows = 0
        self.first = self._numbered(self._start())
        self._seen_urls.add(self.first)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The paths in a page's body that :meth:`after` must be told the values of."""
        match self._pagination:
            case PagePagination(total_pages=pages, total_records=records):
                return tuple(path for path in (pages, records) if path)
            case OffsetPagination(total_records=records):
                return (records,) if records else ()
            case CursorPagination(path=path) | NextUrlPagination(path=path):
                return (path,)
            case _:
                return ()

    def after(self, page: PageFacts) -> str | None:
        """The address of the page after ``page``, or ``None`` if that was the last.

        Raises :class:`PaginationFailed` for a source that repeats a page or contradicts itself, and
        :class:`LimitReached` where a further page would be more than ``limits.max_pages``.
        """
        self._pages += 1
        self._rows += page.rows
        following = self._following(page)
        if following is None:
            self._check_total(page)
            return None
        if page.digest in self._seen_digests:
            raise PaginationFailed(
                f"cannot go on to page {self._pages + 1}: page {self._pages} has the same bytes "
                "as one before it"
            )
        if following in self._seen_urls:
            raise PaginationFailed(
                f"cannot go on to page {self._pages + 1}: its address was fetched before"
            )
        if self._pages >= self._pages_max:
            raise LimitReached(
                f"cannot fetch more than {self._pages_max} pages",
                code="limit-pages",
                hint="`limits.max_pages` sets it",
            )
        self._seen_digests.add(page.digest)
        self._seen_urls.add(following)
        return following

    def _start(self) -> int:
        if isinstance(self._pagination, PagePagination):
            return self._pagination.start
        return 0

    def _numbered(self, number: int) -> str:
        match self._pagination:
            case PagePagination() as p:
                asked = {p.parameter: str(number)}
                if p.size_parameter and p.size:
                    asked[p.size_parameter] = str(p.size)
            case OffsetPagination() as p:
                asked = {p.parameter: str(number), p.limit_parameter: str(p.limit)}
            case _:
                asked = {}
        return address(self._source, {**self._added, **asked})

    def _following(self, page: PageFacts) -> str | None:
        match self._pagination:
            case None:
                return None
            case PagePagination() as p:
                return self._after_number(p, page)
            case OffsetPagination() as p:
                total = _whole(page.values.get(p.total_records or ""), "total_records")
                done = page.rows < p.limit if total is None else self._rows >= total
                return None if done or page.rows == 0 else self._numbered(self._rows)
            case CursorPagination() as p:
                cursor = _text(page.values.get(p.path), p.path)
                return self._with_cursor(p.parameter, cursor) if cursor else None
            case LinkPagination():
                target = next_link(page.link)
                return self._checked(page.url, target) if target else None
            case NextUrlPagination() as p:
                target = _text(page.values.get(p.path), p.path)
                return self._checked(page.url, target) if target else None

    def _after_number(self, p: PagePagination, page: PageFacts) -> str | None:
        total = _whole(page.values.get(p.total_pages or ""), "total_pages")
        records = _whole(page.values.get(p.total_records or ""), "total_records")
        if total is not None:
            if self._pages >= total:
                return None
        elif records is not None and self._rows >= records:
            return None
        if page.rows == 0:
            return None
        return self._numbered(p.start + self._pages)

    def _with_cursor(self, parameter: str, cursor: str) -> str:
        return address(self._source, {**self._added, parameter: cursor})

    def _checked(self, base: str, target: str) -> str:
        """The next address as the source named it; never from https to http."""
        found = join(base, target)
        if parse_target(base).scheme == "https" and parse_target(found).scheme != "https":
            raise PaginationFailed("cannot go on to the next page: it leaves https")
        return found

    def _check_total(self, page: PageFacts) -> None:
        """A source that says how much there is must have given that much."""
        match self._pagination:
            case (
                PagePagination(total_records=str(path)) | OffsetPagination(total_records=str(path))
            ):
                total = _whole(page.values.get(path), "total_records")
                if total is not None and self._rows < total:
                    raise PaginationFailed(
                        f"cannot finish: the source says {total} records and gave {self._rows}"
                    )
            case _:
                return


def _whole(value: Any, name: str) -> int | None:
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 15:
        raise PaginationFailed(f"cannot read {name}: {text[:60]!r} is not a whole number")
    return int(text)


def _text(value: Any, path: str) -> str:
    """The text at a path; absent, null, false and empty all mean that there is no next page."""
    if value is None or value is False or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PaginationFailed(f"cannot read {path}: it is no text")
    return str(value)


def next_link(header: str) -> str:
    """The target of ``rel="next"`` in a ``Link`` header (RFC 8288), or empty."""
    at = 0
    while (start := header.find("<", at)) >= 0:
        end = header.find(">", start)
        if end < 0:
            return ""
        stop = _end_of_link(header, end + 1)
        for piece in _pieces(header[end + 1 : stop]):
            name, _, value = piece.partition("=")
            if name.strip().lower() == "rel":
                if "next" in value.strip().strip('"').lower().split():
                    return header[start + 1 : end].strip()
                break
        at = stop
    return ""


def _end_of_link(header: str, at: int) -> int:
    """Where the link that began before ``at`` ends: a comma that is not quoted."""
    quoted = False
    while at < len(header):
        if header[at] == '"':
            quoted = not quoted
        elif header[at] == "\\" and quoted:
            at += 1
        elif header[at] == "," and not quoted:
            return at
        at += 1
    return at


def _pieces(parameters: str) -> list[str]:
    found, piece, quoted = [], "", False
    for character in parameters:
        if character == '"':
            quoted = not quoted
        if character == ";" and not quoted:
            found.append(piece)
            piece = ""
        else:
            piece += character
    return [*found, piece]
