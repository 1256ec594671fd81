"""Which page is asked for next. Pure: requests in, requests out, no I/O.

A source that leads in a circle, repeats a page, leaves one out or says less than it promised is an
error: never a run that goes on for ever, never a cut that nobody sees.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import msgspec

from holdfast.collect.errors import (
    Incomplete,
    LimitReached,
    MappingRefused,
    PaginationFailed,
)
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.outbound import join, parse_target
from holdfast.registry.parts import Place
from holdfast.registry.source import (
    CursorPagination,
    LinkPagination,
    NextUrlPagination,
    OffsetPagination,
    PagePagination,
    Pagination,
    Source,
)

Given = str | int
"""A parameter's value. In a JSON body a whole number is a number, unless a text stands there."""

_ADDRESS_MAX = 8_192
_CHANGED = "run it again; where it always changes, ask for parts that are at rest (`windows`)"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a page. ``body`` is posted, if the source is asked by POST."""

    url: str
    body: str = ""

    @property
    def request(self) -> str:
        """SHA-256 of the body; empty without one. What tells it from others to the same address."""
        return hashlib.sha256(self.body.encode()).hexdigest() if self.body else ""


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What a page that was read tells about the ones after it.

    ``values`` holds what stands at :attr:`Walk.wanted`; ``rows`` is how many rows the source sent,
    ``skipped`` how many of them the profile leaves out, and ``mark`` tells whether they are those
    of another page, whatever surrounds them. ``following`` and ``total`` are what :func:`said_by`
    found in the headers. ``missing``: the answer was 404. ``framed``: its rows stand on
    every page, and are not counted here.
    """

    ask: Ask
    digest: str
    rows: int
    values: Mapping[str, Any] = field(default_factory=dict)
    following: str = ""
    total: str = ""
    mark: str = ""
    missing: bool = False
    skipped: int = 0
    framed: bool = False

    @property
    def kept(self) -> int:
        """How many of its rows the profile does not leave out."""
        return self.rows - self.skipped


@dataclass(frozen=True, slots=True)
class Section:
    """What is added to every request of one part of a run, such as a window over time."""

    query: Mapping[str, Given] = field(default_factory=dict)
    body: Mapping[str, Given] = field(default_factory=dict)

    def with_(self, place: Place, values: Mapping[str, Given]) -> Section:
        """The same with more in the query or in the body."""
        if place == "body":
            return Section(self.query, {**self.body, **values})
        return Section({**self.query, **values}, self.body)


# --- addresses and bodies -----------------------------------------------------------------------


def ask_of(source: Source, section: Section) -> Ask:
    """The request of ``source`` with what ``section`` adds; a name given twice is replaced."""
    url = with_parameters(source.url, {**source.parameters, **_texts(section.query)})
    if source.method != "POST":
        return Ask(url)
    return Ask(url, with_members(source.body, source.body_type, section.body))


def _texts(values: Mapping[str, Given]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """``url`` with ``parameters`` in its query, those of the same name replaced in place.

    What the address spelled itself is left as it is, byte for byte: publishers are particular.
    """
    if not parameters:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=_with_pairs(parts.query, parameters)))


def _with_pairs(query: str, parameters: Mapping[str, str]) -> str:
    kept = [piece for piece in query.split("&") if piece and _name_of(piece) not in parameters]
    added = [f"{quote(k, safe='$[]')}={quote(v, safe=':,/@$')}" for k, v in parameters.items()]
    return "&".join([*kept, *added])


def _name_of(piece: str) -> str:
    pairs = parse_qsl(piece, keep_blank_values=True)
    return pairs[0][0] if pairs else piece


def without_parameter(url: str, name: str) -> str:
    """``url`` with every parameter of that name removed."""
    parts = urlsplit(url)
    kept = [piece for piece in parts.query.split("&") if piece and _name_of(piece) != name]
    return urlunsplit(parts._replace(query="&".join(kept)))


def with_members(body: str, body_type: str, values: Mapping[str, Given]) -> str:
    """A POST's body with ``values`` in it: fields of a form, or members of a JSON object.

    ``$.a.b`` names an inner member, whose objects are made where they are missing. A member that is
    there keeps its type: a text stays a text, a number a number. Without values the body is as it
    was written, byte for byte.
    """
    if not values:
        return body
    kind = body_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return _with_pairs(body, _texts(values))
    if kind != "application/json" and not kind.endswith("+json"):
        raise MappingRefused(f"cannot put parameters into a body of the type {body_type}")
    try:
        document = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError as error:
        raise MappingRefused(f"cannot put parameters into the body: {error}") from error
    for name, value in values.items():
        _set_member(document, name, value)
    return msgspec.json.encode(document).decode()


def _set_member(document: Any, name: str, value: Given) -> None:
    *outer, last = name.removeprefix("$.").split(".") if name.startswith("$.") else [name]
    at = document
    for member in outer:
        at = at.setdefault(member, {}) if isinstance(at, dict) else None
    if not isinstance(at, dict):
        raise MappingRefused(f"cannot put {name} into the body: what holds it is no object")
    there = at.get(last)
    if isinstance(there, str):
        value = str(value)
    elif isinstance(there, int | float) and isinstance(value, str) and value.isdigit():
        value = int(value)
    at[last] = value


# --- the walk -----------------------------------------------------------------------------------


class Walk:
    """Walks a source's pages, section after section. ``first`` is the first request.

    Deterministic: the same source, sections and pages give the same requests, so whoever has the
    first pages already needs nothing else to go on from them.
    """

    def __init__(
        self, source: Source, pages_max: int, sections: Iterable[Section] = (Section(),)
    ) -> None:
        self._source = source
        self._pages_max = pages_max
        self._sections: Iterator[Section] = iter(sections)
        self._coming: deque[Section] = deque()
        self._pages = 0
        self._seen: set[bytes] = set()
        section = self._next_section() or Section()
        self._pager = Pager(source, section)
        self.first = self._pager.first
        self._is_new(self.first)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The paths in a page's body that :meth:`after` must be told the values of."""
        return self._pager.wanted

    def may_be_missing(self) -> bool:
        """Whether an answer 404 to the request that is under way is the end and no failure."""
        return self._pager.may_be_missing()

    def may_be_refused(self) -> bool:
        """Whether a source may find the request that is under way wrong, for it has no such page:
        nothing is expected there."""
        return self._pager.makes_sure()

    def after(self, page: PageFacts) -> Ask | None:
        """The request after ``page``, or ``None`` if that was the last.

        Raises :class:`PaginationFailed` for a source that repeats a page or contradicts itself,
        :class:`Incomplete` where the profile calls that partial, and :class:`LimitReached` where a
        further page would be more than ``limits.max_pages``.
        """
        # What makes sure that there is no more is no page where there is none: a profile that had
        # its last one within `limits.max_pages` still has it.
        self._pages += page.kept > 0 or not self._pager.makes_sure()
        following = self._pager.after(page)
        if following is None:
            section = self._next_section()
            if section is None:
                return None
            self._pager = Pager(self._source, section)
            following = self._pager.first
        if not self._is_new(following):
            raise PaginationFailed(
                f"cannot go on to page {self._pages + 1}: it was asked for before"
            )
        if self._pages >= self._pages_max + self._pager.makes_sure():
            raise LimitReached(
                f"cannot fetch more than {self._pages_max} pages",
                code="limit-pages",
                hint="`limits.max_pages` sets it",
            )
        return following

    def ahead(self, count: int) -> list[Ask]:
        """Up to ``count`` requests that follow the one under way, if the source keeps its word.

        Only such as it has committed itself to, by a total, or as we have chosen ourselves.
        """
        left = min(count, self._pages_max - self._pages - 1)
        found = self._pager.ahead(left)
        if self._source.pagination is None:
            while len(self._coming) < left and (more := next(self._sections, None)) is not None:
                self._coming.append(more)
            found = [ask_of(self._source, section) for section in islice(self._coming, left)]
        return found

    def _next_section(self) -> Section | None:
        return self._coming.popleft() if self._coming else next(self._sections, None)

    def _is_new(self, ask: Ask) -> bool:
        """Whether it was not asked before; sixteen bytes of each are remembered."""
        mark = hashlib.blake2b(f"{ask.url}\n{ask.body}".encode(), digest_size=16).digest()
        before = len(self._seen)
        self._seen.add(mark)
        return len(self._seen) > before


@dataclass(frozen=True, slots=True)
class _Probe:
    """A request is under way that makes sure that there is no more."""

    gave: int
    """How many rows came where as many as are asked for were expected."""
    other: int | None = None
    """The offset at which no row to keep may be either, where skipped ones come."""


_COUNTS = (
    "`counts` in `source.pagination` says what an offset of this source counts: `records` where "
    "rows that are skipped stand beside them (tags or a preamble on a page), `rows` where they are "
    "among them (totals)"
)


class Pager:
    """Walks the pages of one section. Raises what :meth:`Walk.after` says.

    **What an offset counts.** Rows that a profile skips stand either among those that the source
    counts (a total after each month) or beside them (tags on each page, a preamble on the first).
    Which of both it is decides where the next page begins, and a page that has as many rows as were
    asked for does not tell it: one that is cut there has lost as many records as it has tags. Nor
    does the end tell, nor a total (as many rows came as it says, though not the right ones), nor a
    flag that denies more, for such a source believes that it has given ``limit`` records. So
    ``counts`` must be known there; this is what becomes of a page that had skipped rows:

    ========================== ============================ ==================== ==================
    the page has               ``auto``                     ``rows``             ``records``
    ========================== ============================ ==================== ==================
    as many rows as ``limit``  fails, with a hint; where    next one behind all  next one behind the
                               there is a total, at the     its rows; a denial   records, also where
                               end, unless as many records  of more is the end   more is denied
                               came as it says
    more rows, and no more     next one behind the records  behind all its rows  behind the records
    records, than ``limit``
    fewer rows                 the last; one that has       behind all its rows  behind the records
                               records after it fails
    as many rows as ``limit``, fails, with a hint           behind all its rows  fails, with a hint:
    all of them skipped                                                          there is no room
    ========================== ============================ ==================== ==================

    Not seen: a source that gives less than it is asked for, tags within it, where what its first
    page left out is no more than these. ``limit`` must be what it gives at once.
    """

    def __init__(self, source: Source, section: Section) -> None:
        self._source = source
        self._section = section
        self._kind: Pagination | None = source.pagination
        self._pages = 0
        self._rows = self._kept = 0
        self._offset = 0
        self._asked = self._start()
        self._total: int | None = None
        self._total_pages: int | None = None
        self._promised = False
        self._probe: _Probe | None = None
        self._doubtful = self._denied = False
        self._overfull, self._mixed = False, 0
        self._framed, self._bare = True, ""
        self._seen: dict[bytes, int] = {}
        self.first = self._numbered(self._asked) if self._is_numbered() else self._plain()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The paths in a page's body that :meth:`after` must be told the values of."""
        names = ("path", "more", "number", "total_pages", "total_records")
        found = [getattr(self._kind, name, None) for name in names]
        return tuple(path for path in found if path)

    def may_be_missing(self) -> bool:
        """Whether 404 is an answer: past the first page, where the profile or we expect no more."""
        unsure = self._probe is not None or self._doubtful or self._denied
        return bool(self._pages) and (unsure or getattr(self._kind, "end", "") == "missing")

    def makes_sure(self) -> bool:
        """Whether the request that is under way asks for what the source denies to have."""
        return self._denied

    def after(self, page: PageFacts) -> Ask | None:
        """The request after ``page``, or ``None`` if the section ends with it."""
        self._pages += 1
        self._doubtful = self._denied = False
        page = self._without_frame(page)
        self._rows += page.rows
        self._kept += page.kept
        self._check_new(page)
        self._check_number(page)
        self._note_totals(page)
        following = self._following(page)
        if following is None:
            self._check_counts()
            self._check_total()
        return following

    def ahead(self, count: int) -> list[Ask]:
        """Requests that follow the one under way, as far as the source has said how many."""
        if not self._pages or not self._is_numbered() or self._probe is not None:
            return []
        step, left = 1, 0
        if isinstance(self._kind, PagePagination):
            if self._total_pages is not None:
                left = self._total_pages - self._pages - 1
            elif self._total is not None and self._rows:
                left = -(-self._total * self._pages // self._rows) - self._pages - 1
        elif isinstance(self._kind, OffsetPagination) and self._total is not None:
            step = self._kind.limit
            counted = self._kept if self._kind.counts == "records" else self._rows
            full = counted == self._pages * step  # else the source gives less than it is asked
            left = -(-(self._total - self._asked) // step) - 1 if full else 0
        numbers = [self._asked + step * number for number in range(1, min(left, count) + 1)]
        return [self._numbered(number) for number in numbers]

    # --- what a page says of itself -----------------------------------------------------------

    def _without_frame(self, page: PageFacts) -> PageFacts:
        """The page, or an empty one for one that brings but a frame.

        Where each page so far had rows that are skipped, such as one that holds the names of the
        members, and this one has nothing else, like the one before it, byte for byte, the source
        has come to its end: there is no page without rows at it.
        """
        self._framed = self._framed and bool(page.skipped)
        bare = page.digest if self._framed and not page.kept and self._is_numbered() else ""
        again, self._bare = bool(bare) and bare == self._bare, bare
        return replace(page, rows=0, skipped=0, framed=True) if again else page

    def _check_new(self, page: PageFacts) -> None:
        """A page that repeats one before it, in its bytes or in its rows."""
        if page.rows == 0 or self._kind is None:
            return
        for said, what in ((page.digest, "bytes"), (page.mark, "rows")):
            if not said:
                continue
            mark = hashlib.blake2b(f"{what}{said}".encode(), digest_size=16).digest()
            earlier = self._seen.setdefault(mark, self._pages)
            if earlier != self._pages:
                raise PaginationFailed(
                    f"cannot use page {self._pages}: it has the same {what} as page {earlier}"
                )

    def _check_number(self, page: PageFacts) -> None:
        path = getattr(self._kind, "number", None)
        if not path or page.missing or page.rows == 0:
            return
        said = _whole(page.values.get(path), path)
        if said != self._asked:
            answered = "no number" if said is None else f"number {said}"
            raise PaginationFailed(
                f"cannot use page {self._pages}: number {self._asked} was asked for, and the "
                f"source gave {answered}"
            )

    def _note_totals(self, page: PageFacts) -> None:
        """What a page says of all of them, and that it says what those before it did.

        A source whose total changes while it is read has moved its rows between the pages: one that
        was taken out pulls another over to a page that was read already. There may be so many rows
        as the newest word says, and not the right ones. A page that is silent changes nothing.
        """
        path = getattr(self._kind, "total_records", None)
        said = _whole(page.values.get(path), path) if path else None
        if said is None and page.total:
            said = _whole(page.total, getattr(self._kind, "total_header", "the total"))
        self._total = self._same(self._total, said, "records")
        path = getattr(self._kind, "total_pages", None)
        pages = _whole(page.values.get(path), path) if path else None
        self._total_pages = self._same(self._total_pages, pages, "pages")

    def _same(self, before: int | None, said: int | None, what: str) -> int | None:
        if said is None or before is None or said == before:
            return before if said is None else said
        detail = (
            f"cannot use page {self._pages}: the source said {before} {what} before, and says "
            f"{said} now: it changed while it was read"
        )
        if getattr(self._kind, "incomplete", "fail") == "partial":
            raise Incomplete(detail, hint=_CHANGED)
        raise PaginationFailed(detail, hint=_CHANGED)

    def _check_total(self) -> None:
        """A source that says how much there is must have given that much, and no more.

        Whether it counts rows that the profile leaves out is its own affair.
        """
        if self._total is None or self._total in {self._rows, self._kept}:
            return
        beside = f", {self._rows - self._kept} of them skipped" if self._rows > self._kept else ""
        detail = (
            f"cannot finish: the source says {self._total} records and gave {self._rows}{beside}"
        )
        if getattr(self._kind, "incomplete", "fail") == "partial":
            raise Incomplete(detail)
        raise PaginationFailed(detail)

    # --- what comes next ----------------------------------------------------------------------

    def _following(self, page: PageFacts) -> Ask | None:
        match self._kind:
            case None:
                return None
            case PagePagination() as p:
                return self._after_number(p, page)
            case OffsetPagination() as p:
                return self._after_offset(p, page)
            case CursorPagination() as p:
                return self._after_cursor(p, page)
            case LinkPagination():
                return self._led(page, page.following)
            case NextUrlPagination() as p:
                return self._led(page, _text(page.values.get(p.path), p.path))

    def _after_number(self, p: PagePagination, page: PageFacts) -> Ask | None:
        total = self._total_pages
        more = self._more(page, p.more)
        if more is False:
            return None
        if more:
            pass
        elif total is not None:
            if self._pages >= total:
                return None
            if page.rows == 0:
                raise PaginationFailed(
                    f"cannot go on: the source says {total} pages, and page {self._pages} is empty"
                )
        elif self._is_last(page, p.end, p.size):
            return None
        self._asked = p.start + self._pages
        return self._numbered(self._asked)

    def _after_offset(self, p: OffsetPagination, page: PageFacts) -> Ask | None:
        probe, more = self._probe, self._more(page, p.more)
        cut = self._may_be_cut(p, page)
        if more is False and cut and p.counts == "records":
            self._denied = True
            return self._at(self._further(p, page))
        if more is False:
            return None
        counted = page.kept if p.counts == "records" else page.rows
        if probe is not None and (page.kept or (counted and probe.other is None)):
            raise PaginationFailed(
                f"cannot go on: the source gives {probe.gave} records where "
                f"{p.limit} are asked for, and has more",
                hint="set `source.pagination.limit` to what the source gives at once",
            )
        if probe is not None and probe.other is not None and page.rows:
            # Of skipped rows: so must the other page be that may follow.
            return self._at(probe.other)
        short = 0 < page.rows < p.limit
        if more:
            pass
        elif p.end == "auto" and self._total is None and short and self._pages == 1:
            self._probe = _Probe(gave=page.rows)
        elif self._is_last(page, p.end, p.limit):
            return None
        return self._at(self._further(p, page))

    def _at(self, offset: int) -> Ask:
        self._asked = offset
        return self._numbered(offset)

    def _further(self, p: OffsetPagination, page: PageFacts) -> int:
        self._offset += self._advance(p, page)
        return self._offset

    def _may_be_cut(self, p: OffsetPagination, page: PageFacts) -> bool:
        """Whether skipped rows may have taken the places of records on the page.

        Raises :class:`PaginationFailed` where nothing that comes later can tell.
        """
        self._overfull = self._overfull or page.rows > p.limit  # then it cuts nowhere
        if p.counts == "rows" or not page.skipped or page.rows != p.limit or self._overfull:
            return False
        if page.kept == 0 and self._kept == 0:
            raise PaginationFailed(
                f"cannot go on: the first {p.limit} rows of the source are all skipped, and it may "
                "have cut off records behind them",
                hint=f"set `source.pagination.limit` to more than {p.limit}; {_COUNTS}",
            )
        if p.counts == "auto":
            self._mixed = self._mixed or self._pages
            if self._total is None:
                self._check_counts()
        return True

    def _check_counts(self) -> None:
        """Where a full page had skipped rows, only the number of records tells that all came."""
        if self._mixed and self._kept != self._total:
            raise PaginationFailed(
                f"cannot tell whether records were passed over: page {self._mixed} is full, and "
                "some of its rows are skipped",
                hint=_COUNTS,
            )

    def _advance(self, p: OffsetPagination, page: PageFacts) -> int:
        """How many of a page's rows the source counts in its offsets.

        All, as a rule, or what the profile says. Where they are more than were asked for, and those
        that are kept are not, the skipped ones stand beside what was asked for. Of any other number
        that is not the one asked for nobody can tell: then no page with a row to keep may follow.
        """
        if p.counts == "records":
            return page.kept or p.limit
        if p.counts == "rows" or not page.skipped or page.rows == p.limit:
            return page.rows
        if page.kept <= p.limit < page.rows:
            return page.kept or p.limit
        self._probe = _Probe(gave=page.rows, other=self._offset + page.kept)
        return page.rows

    def _more(self, page: PageFacts, path: str | None) -> bool | None:
        """Whether the source says that there is more; ``None`` where it does not say.

        What it promised must come: an empty page after it is one left out.
        """
        value = page.values.get(path) if path else None
        more = None if value is None else _yes_or_no(value, path)
        if page.rows == 0 and (more or self._promised):
            raise PaginationFailed(
                f"cannot go on: the source says that there is more, and page {self._pages} is "
                "empty",
                hint=_COUNTS if self._mixed else "",
            )
        self._promised = bool(more)
        return more

    def _is_last(self, page: PageFacts, end: str, size: int) -> bool:
        if page.missing or page.rows == 0:
            return True
        if self._total is None:
            return end in {"short", "auto"} and page.rows < size
        if self._kept >= self._total:
            return True
        # Rows that are skipped may be among those that the source counts, or not.
        self._doubtful = self._rows >= self._total
        return self._doubtful and end == "short" and page.rows < size

    def _after_cursor(self, p: CursorPagination, page: PageFacts) -> Ask | None:
        raw = page.values.get(p.path) if p.path else page.following
        cursor = _text(raw, p.path or p.header)
        more = _yes_or_no(page.values.get(p.more), p.more) if p.more else None
        if more is False or not cursor:
            if more and not cursor:
                raise PaginationFailed(
                    f"cannot go on from page {self._pages}: the source says that there is more, "
                    "and gives no cursor to ask for it"
                )
            return None
        given: Given = raw if isinstance(raw, int) and not isinstance(raw, bool) else cursor
        return ask_of(self._source, self._section.with_(p.into, {p.parameter: given}))

    def _led(self, page: PageFacts, target: str) -> Ask | None:
        """The next address as the source named it; never from https to http."""
        if not target:
            return None
        try:
            found = join(page.ask.url, target)
            leaves = parse_target(page.ask.url).scheme == "https" != parse_target(found).scheme
        except HoldfastError as error:
            raise PaginationFailed(f"cannot go on to the next page: {error.detail}") from error
        if leaves:
            raise PaginationFailed("cannot go on to the next page: it leaves https")
        if len(found) > _ADDRESS_MAX:
            raise PaginationFailed(
                f"cannot go on to the next page: its address is over {_ADDRESS_MAX} characters"
            )
        return Ask(found, page.ask.body)

    # --- requests -----------------------------------------------------------------------------

    def _start(self) -> int:
        return self._kind.start if isinstance(self._kind, PagePagination) else 0

    def _is_numbered(self) -> bool:
        return isinstance(self._kind, PagePagination | OffsetPagination)

    def _plain(self) -> Ask:
        return ask_of(self._source, self._section)

    def _numbered(self, number: int) -> Ask:
        asked: dict[str, Given] = {}
        match self._kind:
            case PagePagination() as p:
                asked[p.parameter] = number
                if p.size_parameter and p.size:
                    asked[p.size_parameter] = p.size
                return ask_of(self._source, self._section.with_(p.into, asked))
            case OffsetPagination() as p:
                asked = {p.parameter: number, p.limit_parameter: p.limit}
                return ask_of(self._source, self._section.with_(p.into, asked))
            case _:
                raise AssertionError("only pages and offsets have numbers")


# --- what a page says ---------------------------------------------------------------------------


def headers_wanted(source: Source) -> frozenset[str]:
    """The response headers, in lower case, that :func:`said_by` looks at."""
    kind = source.pagination
    names = {getattr(kind, "header", ""), getattr(kind, "total_header", "")}
    if isinstance(kind, LinkPagination):
        names.add("link")
    return frozenset(name.lower() for name in names if name)


def said_by(source: Source, headers: Mapping[str, str]) -> tuple[str, str]:
    """(what is said of the next page, what is said of the total) in an answer's headers."""
    kind = source.pagination
    following = ""
    if isinstance(kind, LinkPagination):
        following = next_link(headers.get("link", ""))
    elif isinstance(kind, CursorPagination) and kind.header:
        following = headers.get(kind.header.lower(), "").strip()
    total = headers.get(getattr(kind, "total_header", "").lower(), "").strip()
    if len(following) > _ADDRESS_MAX:
        raise PaginationFailed(
            f"cannot go on to the next page: what leads there is over {_ADDRESS_MAX} characters"
        )
    return following, total[:40]


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


def _yes_or_no(value: Any, path: str | None) -> bool:
    """What a flag says; absent and null deny."""
    if value is None or value is False or str(value).lower() in {"false", "0", "no", ""}:
        return False
    if value is True or str(value).lower() in {"true", "1", "yes"}:
        return True
    raise PaginationFailed(f"cannot read {path}: {str(value)[:60]!r} is neither true nor false")


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
