"""Pages are walked to their end, and a source that leads astray is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from holdfast.collect.errors import (
    Incomplete,
    LimitReached,
    MappingRefused,
    PaginationFailed,
)
from holdfast.collect.pages import (
    Ask,
    PageFacts,
    Section,
    Walk,
    headers_wanted,
    next_link,
    said_by,
    with_members,
    with_parameters,
)
from tests.unit.collect.helpers import profile

URL = "https://example.org/data?x=1"


def source_of(pagination: dict[str, Any] | None, **source: Any) -> Any:
    parts: dict[str, Any] = {"url": URL, "format": {"type": "json"}, **source}
    if pagination:
        parts["pagination"] = pagination
    return profile(parts).source


def walker(
    pagination: dict[str, Any] | None,
    pages_max: int = 100,
    sections: Any = None,
    **source: Any,
) -> Walk:
    return Walk(source_of(pagination, **source), pages_max, sections or [Section()])


def walk(under: Walk, pages: list[dict[str, Any]]) -> list[str]:
    """The addresses asked for, when the pages are answered one after the other."""
    ask: Ask | None = under.first
    asked = [ask]
    for number, page in enumerate(pages):
        assert ask is not None
        page = {"digest": f"d{number}", **page}
        ask = under.after(PageFacts(ask=ask, **page))
        if ask is None:
            assert number == len(pages) - 1, "the walk ended before the last page"
            break
        asked.append(ask)
    return [each.url for each in asked]


def test_one_page_is_all_without_pagination() -> None:
    assert walk(walker(None), [{"rows": 5}]) == [URL]


# --- page numbers -------------------------------------------------------------------------------


def test_page_numbers_end_at_an_empty_page() -> None:
    under = walker({"type": "page", "size_parameter": "n", "size": 50})
    assert walk(under, [{"rows": 50}, {"rows": 50}, {"rows": 0}]) == [
        f"{URL}&page={n}&n=50" for n in (1, 2, 3)
    ]


def test_page_numbers_end_where_the_source_says() -> None:
    under = walker({"type": "page", "start": 0, "total_pages": "$.pages"})
    said = {"$.pages": 2}
    assert len(walk(under, [{"rows": 1, "values": said}, {"rows": 1, "values": said}])) == 2
    under = walker({"type": "page", "total_records": "$.total"})
    said = {"$.total": "3"}
    assert len(walk(under, [{"rows": 2, "values": said}, {"rows": 1, "values": said}])) == 2


def test_page_numbers_end_where_the_profile_says() -> None:
    short = {"type": "page", "size_parameter": "n", "size": 5, "end": "short"}
    assert len(walk(walker(short), [{"rows": 5}, {"rows": 4}])) == 2
    under = walker({"type": "page", "end": "missing"})
    assert not under.may_be_missing(), "a first page that is not there is a failure"
    second = under.after(PageFacts(under.first, "a", 3))
    assert second is not None
    assert under.may_be_missing()
    assert under.after(PageFacts(second, "", 0, missing=True)) is None
    assert not walker({"type": "page"}).may_be_missing()


def test_an_empty_page_where_more_were_promised_is_an_error() -> None:
    said = {"$.pages": 3}
    with pytest.raises(PaginationFailed, match="says 3 pages, and page 2 is empty"):
        walk(
            walker({"type": "page", "total_pages": "$.pages"}),
            [{"rows": 2, "values": said}, {"rows": 0, "values": said}],
        )


@pytest.mark.parametrize(("said", "rows"), [(9, 2), (1, 2)])
def test_another_number_of_records_than_promised_is_an_error(said: int, rows: int) -> None:
    page = {"rows": rows, "values": {"$.total": said}}
    empty = {"rows": 0, "values": {"$.total": said}}
    pages = [page, empty] if said > rows else [page]
    with pytest.raises(PaginationFailed, match=f"says {said} records and gave {rows}"):
        walk(walker({"type": "page", "total_records": "$.total"}), pages)
    partial = {"type": "page", "total_records": "$.total", "incomplete": "partial"}
    with pytest.raises(Incomplete) as caught:
        walk(walker(partial), pages)
    assert caught.value.code == "incomplete"


def test_a_total_may_stand_in_a_header() -> None:
    kind = {"type": "link", "total_header": "X-Total-Count"}
    pages: list[dict[str, Any]] = [{"rows": 2, "total": "4", "following": "/2"}]
    for said in ("4", ""):  # a later page may be silent
        assert walk(walker(kind), [*pages, {"rows": 2, "total": said}])[1].endswith("/2")
    with pytest.raises(PaginationFailed, match="says 5 records and gave 2"):
        walk(walker(kind), [{"rows": 2, "total": "5"}])


COUNTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "page", "total_records": "$.n"}, {}),
    ({"type": "page", "total_header": "X-N"}, {}),
    ({"type": "page", "total_pages": "$.n"}, {}),
    ({"type": "offset", "limit": 2, "total_records": "$.n"}, {}),
    ({"type": "offset", "limit": 2, "total_header": "X-N"}, {}),
    ({"type": "cursor", "parameter": "c", "path": "$.c", "total_records": "$.n"}, {"$.c": 1}),
    ({"type": "cursor", "parameter": "c", "path": "$.c", "total_header": "X-N"}, {"$.c": 1}),
    ({"type": "link", "total_records": "$.n"}, {}),
    ({"type": "link", "total_header": "X-N"}, {}),
    ({"type": "next-url", "path": "$.u", "total_records": "$.n"}, {"$.u": "/2"}),
    ({"type": "next-url", "path": "$.u", "total_header": "X-N"}, {"$.u": "/2"}),
]


@pytest.mark.parametrize(("kind", "leads"), COUNTED)
@pytest.mark.parametrize("by", [-1, 1])
def test_a_total_that_changes_between_two_pages_is_an_error(
    kind: dict[str, Any], leads: dict[str, Any], by: int
) -> None:
    """Even where the rows add up to the newest word: one that was taken out moved another away."""
    before = 3 if "total_pages" in kind else 4
    first = {"rows": 2, "values": {**leads, "$.n": before}, "total": str(before), "following": "/2"}
    now = before + by
    second = {"rows": 2 + by, "values": {"$.n": now}, "total": str(now)}
    with pytest.raises(PaginationFailed, match=f"said {before} .* before, and says {now} now"):
        walk(walker(kind), [first, second])
    if "total_pages" not in kind:
        with pytest.raises(Incomplete, match="it changed while it was read"):
            walk(walker({**kind, "incomplete": "partial"}), [first, second])


@pytest.mark.parametrize("last", [{"rows": 0}, {"rows": 0, "missing": True}])
def test_pages_that_were_promised_once_stay_promised(last: dict[str, Any]) -> None:
    kind = {"type": "page", "total_pages": "$.n", "end": "missing"}
    with pytest.raises(PaginationFailed, match="says 3 pages, and page 2 is empty"):
        walk(walker(kind), [{"rows": 1, "values": {"$.n": 3}}, last])


MORE = [{"type": "offset", "limit": 5, "more": "$.more"}, {"type": "page", "more": "$.more"}]


@pytest.mark.parametrize("kind", MORE)
def test_numbered_pages_go_on_as_long_as_the_source_says_that_there_is_more(
    kind: dict[str, Any],
) -> None:
    yes, no = {"$.more": True}, {"$.more": False}
    # A source gives less than it is asked for, and says so; a full page may be the last.
    short = [{"rows": 2, "values": yes}, {"rows": 2, "values": yes}, {"rows": 1, "values": no}]
    assert len(walk(walker(kind), short)) == 3
    assert len(walk(walker(kind), [{"rows": 5, "values": yes}, {"rows": 5, "values": no}])) == 2
    assert len(walk(walker(kind), [{"rows": 2, "values": no}])) == 1
    # One that says nothing is judged as without a flag, so that a misspelled path cuts nothing off.
    silent = {"rows": 2 if kind["type"] == "offset" else 0}
    assert len(walk(walker(kind), [{"rows": 5, "values": yes}, {"rows": 5}, silent])) == 3
    for empty in ({"rows": 0, "values": no}, {"rows": 0}):
        with pytest.raises(PaginationFailed, match="there is more, and page 2 is empty"):
            walk(walker(kind), [{"rows": 2, "values": yes}, empty])
    with pytest.raises(PaginationFailed, match="there is more, and page 1 is empty"):
        walk(walker(kind), [{"rows": 0, "values": yes}])
    counted = {**kind, "total_records": "$.n"}
    with pytest.raises(PaginationFailed, match="says 4 records and gave 2"):
        walk(walker(counted), [{"rows": 2, "values": {**no, "$.n": 4}}])


def test_a_flag_that_is_not_where_the_profile_says_does_not_hide_a_short_first_page() -> None:
    kind = {"type": "offset", "limit": 5, "more": "$.mroe"}
    with pytest.raises(PaginationFailed, match="gives 2 records where 5 are asked for"):
        walk(walker(kind), [{"rows": 2}, {"rows": 2}])


def test_a_page_that_says_it_is_another_is_an_error() -> None:
    kind = {"type": "page", "number": "$.page"}
    assert walk(
        walker(kind),
        [{"rows": 1, "values": {"$.page": 1}}, {"rows": 1, "values": {"$.page": "2"}}, {"rows": 0}],
    )
    with pytest.raises(PaginationFailed, match="number 2 was asked for, and the source gave numb"):
        walk(
            walker(kind),
            [{"rows": 1, "values": {"$.page": 1}}, {"rows": 1, "values": {"$.page": 3}}],
        )
    with pytest.raises(PaginationFailed, match="gave no number"):
        walk(walker(kind), [{"rows": 1}])


# --- offsets ------------------------------------------------------------------------------------


def test_offsets_end_at_a_short_page() -> None:
    under = walker({"type": "offset", "limit": 2})
    assert walk(under, [{"rows": 2}, {"rows": 2}, {"rows": 1}]) == [
        f"{URL}&offset={n}&limit=2" for n in (0, 2, 4)
    ]


def test_offsets_go_by_the_total_where_there_is_one() -> None:
    under = walker({"type": "offset", "limit": 5, "total_records": "$.n"})
    said = {"$.n": 4}  # the source gives shorter pages than it was asked for
    assert walk(under, [{"rows": 2, "values": said}, {"rows": 2, "values": said}]) == [
        f"{URL}&offset=0&limit=5",
        f"{URL}&offset=2&limit=5",
    ]


@pytest.mark.parametrize("last", [{"rows": 0}, {"rows": 0, "missing": True}])
def test_a_first_page_that_is_short_is_not_believed_at_once(last: dict[str, Any]) -> None:
    under = walker({"type": "offset", "limit": 1000})
    assert len(walk(under, [{"rows": 100}, last])) == 2
    with pytest.raises(PaginationFailed, match="gives 100 records where 1000 are asked") as caught:
        walk(walker({"type": "offset", "limit": 1000}), [{"rows": 100}, {"rows": 100}])
    assert "limit" in caught.value.hint
    trusted = walker({"type": "offset", "limit": 1000, "end": "short"})
    assert len(walk(trusted, [{"rows": 100}])) == 1


# --- cursors, links, next addresses -------------------------------------------------------------


@pytest.mark.parametrize("end", [None, "", False])
def test_cursors_end_when_there_is_none(end: Any) -> None:
    under = walker({"type": "cursor", "parameter": "after", "path": "$.next"})
    pages: list[dict[str, Any]] = [
        {"rows": 1, "values": {"$.next": "a b/="}},
        {"rows": 0, "values": {"$.next": 7}},
        {"rows": 1, "values": {} if end is None else {"$.next": end}},
    ]
    assert walk(under, pages) == [URL, f"{URL}&after=a%20b/%3D", f"{URL}&after=7"]


def test_a_cursor_is_believed_as_far_as_the_source_says_there_is_more() -> None:
    kind = {"type": "cursor", "parameter": "c", "path": "$.next", "more": "$.more"}
    said = {"$.next": "a", "$.more": True}
    assert len(walk(walker(kind), [{"rows": 1, "values": said}, {"rows": 1}])) == 2
    over = {"$.next": "a", "$.more": "false"}
    assert len(walk(walker(kind), [{"rows": 1, "values": over}])) == 1
    with pytest.raises(PaginationFailed, match="gives no cursor"):
        walk(walker(kind), [{"rows": 1, "values": {"$.more": True}}])
    with pytest.raises(PaginationFailed, match="neither true nor false"):
        walk(walker(kind), [{"rows": 1, "values": {"$.more": "perhaps"}}])


def test_a_cursor_may_come_in_a_header() -> None:
    kind = {"type": "cursor", "parameter": "c", "header": "X-Continuation"}
    source = source_of(kind)
    assert headers_wanted(source) == {"x-continuation"}
    assert said_by(source, {"x-continuation": " t ", "link": "<a>; rel=next"}) == ("t", "")
    assert walk(walker(kind), [{"rows": 1, "following": "t"}, {"rows": 1}]) == [URL, f"{URL}&c=t"]


def test_links_and_next_addresses_are_followed() -> None:
    link = '<https://example.org/data?p=0>; rel="prev", </data?p=2>; rel="next last"; title="a,b"'
    kind = {"type": "link", "total_header": "X-Total"}
    said = said_by(source_of(kind), {"link": link, "x-total": "2"})
    assert said == ("/data?p=2", "2")
    assert walk(walker(kind), [{"rows": 1, "following": said[0]}, {"rows": 1}]) == [
        URL,
        "https://example.org/data?p=2",
    ]
    under = walker({"type": "next-url", "path": "$.next"})
    values = {"$.next": "https://other.example/p2"}
    assert (
        walk(under, [{"rows": 1, "values": values}, {"rows": 1}])[1] == "https://other.example/p2"
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://example.org/2", "it leaves https"),
        ("ftp://example.org/2", "cannot go on"),
        ("https://example.org/" + "x" * 9000, "over 8192"),
        ("https://", "cannot go on"),
    ],
)
def test_a_next_address_that_cannot_be_followed_is_an_error(target: str, said: str) -> None:
    under = walker({"type": "next-url", "path": "$.next"})
    with pytest.raises(PaginationFailed, match=said):
        walk(under, [{"rows": 1, "values": {"$.next": target}}])


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("<a>; rel=next", "a"),
        ('<a>; REL="NEXT"', "a"),
        ('<a>; rel="prev", <b>; rel="next"', "b"),
        ('<a>; title="x; rel=next, y"; rel="up"', ""),
        ('<a>; title="x, y"; rel="next"', "a"),
        ("<a; rel=next", ""),
        ("", ""),
        ("a; rel=next", ""),
        ('<a>; rel="nextish"', ""),
    ],
)
def test_link_headers(header: str, target: str) -> None:
    assert next_link(header) == target


# --- astray -------------------------------------------------------------------------------------


def test_the_same_page_again_is_an_error_wherever_it_comes() -> None:
    kind = {"type": "page", "total_pages": "$.n"}
    said = {"$.n": 2}
    for same in ({"digest": "d"}, {"mark": "2 rows"}):
        with pytest.raises(PaginationFailed, match="page 2: it has the same"):
            # Also where it is the last one, and nothing is asked for after it.
            walk(walker(kind), [{"rows": 5, "values": said, **same}] * 2)
    # Two empty pages are not the same page.
    assert walk(walker({"type": "link"}), [{"rows": 0, "digest": "d", "following": "/2"}])


def test_the_same_address_again_is_a_circle() -> None:
    under = walker({"type": "next-url", "path": "$.next"})
    with pytest.raises(PaginationFailed, match="page 3: it was asked for before"):
        walk(
            under,
            [
                {"rows": 1, "values": {"$.next": "/b"}},
                {"rows": 1, "values": {"$.next": "/data?x=1"}},
            ],
        )
    under = walker({"type": "cursor", "parameter": "c", "path": "$.n"})
    with pytest.raises(PaginationFailed, match="it was asked for before"):
        walk(under, [{"rows": 1, "values": {"$.n": "a"}}, {"rows": 1, "values": {"$.n": "a"}}])


def test_more_pages_than_allowed_is_a_limit() -> None:
    with pytest.raises(LimitReached) as caught:
        walk(walker({"type": "page"}, pages_max=2), [{"rows": 1}, {"rows": 1}])
    assert caught.value.code == "limit-pages"
    # Exactly as many as allowed is no limit reached.
    assert len(walk(walker({"type": "page"}, pages_max=2), [{"rows": 1}, {"rows": 0}])) == 2


COUNTED_RECORDS = {"type": "offset", "limit": 3, "counts": "records", "more": "$.m"}


@pytest.mark.parametrize("last", [{"rows": 1, "skipped": 1}, {"rows": 0, "missing": True}])
def test_a_source_that_denies_more_is_asked_once_more_where_its_page_may_be_cut(
    last: dict[str, Any],
) -> None:
    """A tag took the place of a record; and the request is none of the pages that are allowed."""
    yes, no = {"$.m": True}, {"$.m": False}
    first, second = {"rows": 3, "skipped": 1, "values": yes}, {"rows": 3, "skipped": 1}
    under = walker(COUNTED_RECORDS, pages_max=2)
    assert not under.may_be_refused()
    asked = walk(under, [first, {**second, "values": no}, {**last, "values": no}])
    assert [url.rpartition("offset=")[2][0] for url in asked] == ["0", "2", "4"]
    assert under.may_be_missing() is False
    under = walker(COUNTED_RECORDS, pages_max=2)
    follow = under.after(PageFacts(under.first, "a", 3, no, skipped=1))
    assert follow is not None
    assert under.may_be_refused()
    assert under.may_be_missing()
    assert under.after(PageFacts(follow, "", 0, missing=True)) is None
    with pytest.raises(LimitReached):
        walk(walker(COUNTED_RECORDS, pages_max=2), [first, {**second, "values": yes}])
    third = [first, {**second, "values": no}, {**second, "values": no}]
    with pytest.raises(LimitReached):
        walk(walker(COUNTED_RECORDS, pages_max=2), third)


@pytest.mark.parametrize("more", [True, False, None])
def test_a_denial_of_more_is_no_proof_that_a_full_page_had_all_its_records(
    more: bool | None,
) -> None:
    """A source that gave ``limit`` rows with a tag among them believes that it gave as many."""
    said = {} if more is None else {"$.m": more}
    full = {"rows": 3, "skipped": 1, "values": said}
    kind = {"type": "offset", "limit": 3, "more": "$.m"}
    with pytest.raises(PaginationFailed, match="page 1 is full, and some of its rows") as caught:
        walk(walker(kind), [full])
    assert "`counts` in `source.pagination`" in caught.value.hint
    # The profile's word is taken, and a page that is not full was not cut.
    if more is not True:
        rows = {**kind, "counts": "rows"}
        assert len(walk(walker(rows), [full] if more is False else [full, {"rows": 0}])) < 3
        assert len(walk(walker(kind), [{"rows": 2, "skipped": 1, "values": {"$.m": False}}])) == 1


def test_where_as_many_records_came_as_there_are_none_was_passed_over() -> None:
    kind = {"type": "offset", "limit": 3, "total_records": "$.n"}

    def page(rows: int, skipped: int, total: int) -> dict[str, Any]:
        return {"rows": rows, "skipped": skipped, "values": {"$.n": total}}

    assert len(walk(walker(kind), [page(3, 1, 3), page(1, 0, 3)])) == 2
    # As many rows are no proof: two tags may stand where two records were cut off.
    with pytest.raises(PaginationFailed, match="cannot tell whether records were passed over"):
        walk(walker(kind), [page(3, 1, 6), page(3, 1, 6), page(0, 0, 6)])


def test_a_full_page_of_skipped_rows_alone_at_the_beginning_leaves_no_room_for_records() -> None:
    for counts in ("auto", "records"):
        kind = {"type": "offset", "limit": 3, "counts": counts, "total_records": "$.n"}
        with pytest.raises(PaginationFailed, match="first 3 rows of the source are all") as caught:
            walk(walker(kind), [{"rows": 3, "skipped": 3, "values": {"$.n": 9}}])
        assert "`source.pagination.limit` to more than 3" in caught.value.hint


@pytest.mark.parametrize("said", ["many", "-1", "1.5", True, [], "9" * 20])
def test_a_total_that_is_no_number_is_an_error(said: Any) -> None:
    under = walker({"type": "page", "total_pages": "$.n"})
    with pytest.raises(PaginationFailed):
        walk(under, [{"rows": 1, "values": {"$.n": said}}])


# --- what is asked ------------------------------------------------------------------------------

POST = {"method": "POST", "body": '{"q":{"size":"10","page":1},"ids":[1.50]}'}


def test_numbers_go_into_the_body_where_the_profile_says() -> None:
    kind = {"type": "page", "parameter": "$.q.page", "size_parameter": "$.q.size", "size": 20}
    under = walker({**kind, "into": "body"}, **POST)
    assert under.first.url == URL
    # The size was written as text, the page as a number: both stay so.
    assert msgspec.json.decode(under.first.body) == {
        "q": {"size": "20", "page": 1},
        "ids": [1.5],
    }
    second = under.after(PageFacts(under.first, "a", 20))
    assert second is not None
    assert msgspec.json.decode(second.body)["q"]["page"] == 2
    assert second.request != under.first.request
    form = {
        "method": "POST",
        "body": "a=1&page=9",
        "body_type": "application/x-www-form-urlencoded",
    }
    assert walker({"type": "page", "into": "body"}, **form).first.body == "a=1&page=1"


def test_a_token_in_a_body_keeps_its_type() -> None:
    kind = {"type": "cursor", "parameter": "after", "path": "$.next", "into": "body"}
    for token in (7, "7"):
        under = walker(kind, method="POST", body="{}")
        following = under.after(PageFacts(under.first, "a", 1, values={"$.next": token}))
        assert following is not None
        assert msgspec.json.decode(following.body) == {"after": token}


def test_a_body_without_parameters_is_sent_as_it_was_written() -> None:
    body = '{ "a" : 1.00 }'
    assert walker(None, method="POST", body=body).first.body == body
    assert walker(None).first == Ask(URL)


@pytest.mark.parametrize(
    ("body", "kind", "name"),
    [
        ("{", "application/json", "a"),
        ("[]", "application/json", "a"),
        ('{"a": 1}', "application/json", "$.a.b"),
        ("<x/>", "application/xml", "a"),
    ],
)
def test_a_body_that_takes_no_parameters_is_refused(body: str, kind: str, name: str) -> None:
    with pytest.raises(MappingRefused):
        with_members(body, kind, {name: 1})


def test_sections_are_walked_one_after_the_other_each_with_its_own_pages() -> None:
    sections = [Section({"from": year}) for year in ("2020", "2021")]
    under = walker({"type": "page", "total_records": "$.n"}, sections=sections)
    said = {"$.n": 3}
    assert walk(
        under,
        [
            {"rows": 2, "values": said},
            {"rows": 1, "values": said},
            {"rows": 0, "values": {"$.n": 0}},
        ],
    ) == [
        f"{URL}&from={year}&page={page}" for year, page in (("2020", 1), ("2020", 2), ("2021", 1))
    ]
    twice = walker(None, sections=[Section({"a": "1"})] * 2)
    with pytest.raises(PaginationFailed, match="asked for before"):
        walk(twice, [{"rows": 1}])


# --- whatever a source holds --------------------------------------------------------------------


@dataclass
class Shelf:
    """A source that keeps to its word: rows, and pages of them in each of the ways."""

    rows: int
    size: int
    kind: dict[str, Any]
    fetched: list[tuple[int, int]] = field(default_factory=list)

    def answer(self, ask: Ask) -> PageFacts:
        said = dict(piece.partition("=")[::2] for piece in ask.url.partition("?")[2].split("&"))
        at = int(said.get("at", 0))
        if self.kind["type"] == "page":
            at = (int(said["page"]) - 1) * self.size
        elif self.kind["type"] == "offset":
            at = int(said["offset"])
        count = max(0, min(self.size, self.rows - at))
        self.fetched.append((at, count))
        more = at + count < self.rows
        values: dict[str, Any] = {
            "$.pages": -(-self.rows // self.size),
            "$.n": self.rows,
            "$.next": at + count if more else None,
            "$.page": at // self.size + 1,
        }
        if self.kind["type"] == "next-url":
            values["$.next"] = f"/data?at={at + count}" if more else None
        link = f"/data?at={at + count}" if more and self.kind["type"] == "link" else ""
        known = {path: values[path] for path in values if path in self.kind.values()}
        mark = f"{count} {at}" if count else ""
        return PageFacts(ask, f"{at}", count, values=known, following=link, mark=mark)


KINDS: list[dict[str, Any]] = [
    {"type": "page"},
    {"type": "page", "total_pages": "$.pages", "number": "$.page"},
    {"type": "page", "total_records": "$.n"},
    {"type": "offset"},
    {"type": "offset", "total_records": "$.n"},
    {"type": "offset", "end": "empty"},
    {"type": "cursor", "parameter": "at", "path": "$.next", "total_records": "$.n"},
    {"type": "link"},
    {"type": "next-url", "path": "$.next"},
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KINDS), st.integers(0, 40), st.integers(1, 9), st.sampled_from(["", "gone"]))
def test_every_row_is_fetched_exactly_once(
    kind: dict[str, Any], rows: int, size: int, gone: str
) -> None:
    """And the same answers lead the same way again, which is what an attempt goes on from."""
    if kind["type"] == "offset":
        kind = {**kind, "limit": size}
    shelf = Shelf(rows, size, kind)
    under, again = walker(kind, pages_max=1000), walker(kind, pages_max=1000)
    ask: Ask | None = under.first
    repeated: Ask | None = again.first
    while ask is not None:
        assert ask == repeated
        facts = shelf.answer(ask)
        ask, repeated = under.after(facts), again.after(facts)
    assert repeated is None
    assert sum(count for _, count in shelf.fetched) == rows
    assert [at for at, count in shelf.fetched if count] == list(range(0, rows, size))
    assert len(shelf.fetched) <= rows // size + 2


SKIPPING: list[dict[str, Any]] = [
    *KINDS,
    {"type": "page", "size_parameter": "size", "end": "short"},
    {"type": "page", "size_parameter": "size", "total_records": "$.n"},
    {"type": "offset", "end": "short"},
    {"type": "offset", "end": "short", "total_records": "$.n"},
    {"type": "offset", "end": "empty", "total_records": "$.n"},
]


@dataclass
class Mixed:
    """A source of whose rows some are skipped: ``totals`` among those it counts, or ``heads``, so
    many of them beside what was asked for, on every page. It gives ``most`` rows at once."""

    shelf: Shelf
    totals: frozenset[int]
    heads: int
    most: int
    fetched: list[int] = field(default_factory=list)

    def answer(self, ask: Ask) -> PageFacts:
        asked, self.shelf.size = self.shelf.size, min(self.shelf.size, self.most)
        facts = self.shelf.answer(ask)
        self.shelf.size = asked
        at, count = self.shelf.fetched[-1]
        kept = [row for row in range(at, at + count) if row not in self.totals]
        self.fetched += kept
        rows = count + self.heads
        digest = facts.digest if count else "heads"
        mark = f"{rows} {kept[0]} {kept[-1]}" if kept else ""
        return replace(facts, digest=digest, rows=rows, skipped=rows - len(kept), mark=mark)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(SKIPPING),
    st.integers(0, 40),
    st.integers(1, 9),
    st.frozensets(st.integers(0, 40)),
    st.integers(0, 2),
    st.integers(1, 9),
)
def test_skipped_rows_lose_no_other_and_bring_none_twice(
    kind: dict[str, Any], rows: int, size: int, totals: frozenset[int], heads: int, most: int
) -> None:
    """Whether the source counts them or not; where nobody can tell, the walk fails."""
    if kind["type"] == "offset":
        kind = {**kind, "limit": size}
    if "size_parameter" in kind:
        kind = {**kind, "size": size}
    if kind.get("end") == "short":  # a profile that says so promises full pages
        most = size
    assume(not heads or rows + heads != size)  # as full as a page that was cut
    if kind["type"] == "page":  # it cannot be asked where its next page begins
        assume(most + heads != size)
    mixed = Mixed(Shelf(rows, size, kind), frozenset() if heads else totals, heads, most)
    under = walker(kind, pages_max=1000)
    ask: Ask | None = under.first
    failed = False
    try:
        while ask is not None:
            ask = under.after(mixed.answer(ask))
    except PaginationFailed:
        failed = True
    expected = [row for row in range(rows) if row not in mixed.totals]
    assert failed or mixed.fetched == expected
    told = kind["type"] != "offset" or not mixed.totals  # else `counts` must say it
    assert not failed or most < size or not told, "the source gives what it is asked for"


@dataclass(frozen=True)
class Offsets:
    """A source of offsets with rows that a profile skips, and all that it may say of itself."""

    records: int
    limit: int
    totals: frozenset[int]
    """Rows among its own that are skipped; then all are counted."""
    tags: int
    """Rows beside its own on each page, not counted."""
    preamble: int
    """The same on the first page alone."""
    cut: bool
    """Whether a page ends at ``limit``, such rows among it."""
    bare: bool
    """Whether such rows stand on a page without records, too."""
    total: str
    """What the total counts: ``records``, ``rows`` (its own), or that it says none."""
    more: str
    """Whether it says that there is more: by the ``page`` it gave, by the ``limit``, or not."""

    def answer(self, ask: Ask) -> tuple[PageFacts, list[int]]:
        """A page, and the records on it."""
        query = dict(piece.split("=") for piece in ask.url.partition("?")[2].split("&"))
        at = int(query["offset"])
        own = list(range(at, min(at + self.limit, self.records)))
        beside = self.tags + (self.preamble if at == 0 else 0)
        beside = beside if own or self.bare else 0
        if self.cut:
            beside = min(beside, self.limit)
            own = own[: self.limit - beside]
        kept = [row for row in own if row not in self.totals]
        reached = at + (self.limit if self.more == "limit" else len(own))
        values: dict[str, Any] = {}
        if self.total:
            values["$.n"] = len(self.all()) if self.total == "records" else self.records
        if self.more:
            values["$.m"] = reached < self.records
        rows = len(own) + beside
        facts = PageFacts(
            ask, f"{beside} {own}", rows, values, mark=str(own) * bool(kept),
            skipped=rows - len(kept),
        )  # fmt: skip
        return facts, kept

    def all(self) -> list[int]:
        return [row for row in range(self.records) if row not in self.totals]

    @property
    def counts(self) -> str:
        return "records" if self.tags or self.preamble else "rows"

    @property
    def unsure(self) -> bool:
        """Whether the pages look as those of another source that counts otherwise."""
        beside = self.tags + self.preamble
        cut = self.cut or self.records + beside == self.limit  # the only page is as full as one cut
        return bool(self.totals) or (cut and bool(beside)) or self.no_room

    @property
    def no_room(self) -> bool:
        """Whether the first page may be full of what is skipped, and is not of anything else."""
        beside = self.tags + self.preamble
        return (self.cut and beside >= self.limit) or (beside == self.limit and not self.records)


OFFSETS = st.builds(
    Offsets,
    records=st.integers(0, 40),
    limit=st.integers(1, 10),
    totals=st.just(frozenset[int]()),
    tags=st.integers(0, 2),
    preamble=st.integers(0, 3),
    cut=st.booleans(),
    bare=st.booleans(),
    total=st.sampled_from(["", "records", "rows"]),
    more=st.sampled_from(["", "page", "limit"]),
)
AMONG = st.builds(
    lambda source, totals: replace(source, totals=totals, tags=0, preamble=0),
    OFFSETS,
    st.frozensets(st.integers(0, 40), max_size=20),
)


def collected(source: Offsets, counts: str, end: str) -> tuple[list[int], PaginationFailed | None]:
    """The records that a run reads, and how it fails if it does: then nothing is published."""
    kind = {"type": "offset", "limit": source.limit, "end": end, "counts": counts}
    kind |= {"total_records": "$.n"} if source.total else {}
    kind |= {"more": "$.m"} if source.more else {}
    under, found = walker(kind, pages_max=1000), list[int]()
    ask: Ask | None = under.first
    try:
        while ask is not None:
            facts, kept = source.answer(ask)
            found += kept
            ask = under.after(facts)
    except PaginationFailed as error:
        return found, error
    return found, None


ONE_TAG_A_PAGE = Offsets(27, 10, frozenset(), 1, 0, True, True, "", "limit")


@settings(deadline=None, max_examples=600)
@given(OFFSETS | AMONG, st.sampled_from(["auto", "short", "empty"]))
@example(ONE_TAG_A_PAGE, "auto")
@example(replace(ONE_TAG_A_PAGE, bare=False, more="", total="rows"), "auto")
@example(replace(ONE_TAG_A_PAGE, records=28), "auto")
@example(replace(ONE_TAG_A_PAGE, tags=0, preamble=1, bare=False, more="", total="rows"), "auto")
@example(replace(ONE_TAG_A_PAGE, records=10, bare=False, more=""), "empty")
@example(replace(ONE_TAG_A_PAGE, records=9, cut=False), "auto")
def test_each_record_of_a_source_of_offsets_comes_once_or_the_run_fails(
    source: Offsets, end: str
) -> None:
    """The oracle is what the source holds; never fewer of it are published.

    Whoever says what an offset counts has them all, and who does not has them wherever that can be
    told, or is asked to say it.
    """
    assume(source.records or not source.preamble)  # of nothing but a preamble a run may fail
    found, failure = collected(source, "auto", end)
    assert failure is not None or found == source.all()
    if failure is not None:
        assert source.unsure, failure.detail
        assert "`counts`" in failure.hint
    found, failure = collected(source, source.counts, end)
    if source.no_room:
        assert failure is not None or found == source.all()
        return
    assert failure is None, failure.detail
    assert found == source.all()


@pytest.mark.parametrize(
    ("url", "parameters", "expected"),
    [
        ("https://e.org/a", {"b": "1 2"}, "https://e.org/a?b=1%202"),
        ("https://e.org/a?b=1&c=2", {"b": "9"}, "https://e.org/a?c=2&b=9"),
        ("https://e.org/a?odd%20name=x", {"odd name": "y"}, "https://e.org/a?odd%20name=y"),
        ("https://e.org/a??=1000&k", {"b": "ü&="}, "https://e.org/a??=1000&k&b=%C3%BC%26%3D"),
        ("https://e.org/a?$limit=5", {"$offset": "5"}, "https://e.org/a?$limit=5&$offset=5"),
        ("https://e.org/a?x=%2F", {}, "https://e.org/a?x=%2F"),
    ],
)
def test_parameters_are_added_and_the_rest_is_left_alone(
    url: str, parameters: dict[str, str], expected: str
) -> None:
    assert with_parameters(url, parameters) == expected


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(KINDS), st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_what_is_sent_ahead_is_what_will_be_asked(
    kind: dict[str, Any], rows: int, size: int, count: int
) -> None:
    if kind["type"] == "offset":
        kind = {**kind, "limit": size}
    shelf = Shelf(rows, size, kind)
    under = walker(kind, pages_max=1000)
    expected: list[Ask] = []
    ask: Ask | None = under.first
    while ask is not None:
        if expected:
            assert ask == expected.pop(0)
        ahead = under.ahead(count)
        assert len(ahead) <= count
        assert ahead[: len(expected)] == expected[: len(ahead)]
        expected = ahead
        ask = under.after(shelf.answer(ask))
    assert expected == []


def test_windows_are_sent_ahead_and_never_more_than_a_run_may_fetch() -> None:
    sections = [Section({"from": str(year)}) for year in range(2020, 2026)]
    under = walker(None, pages_max=4, sections=sections)
    assert [ask.url[-4:] for ask in under.ahead(9)] == ["2021", "2022", "2023"]
    second = under.after(PageFacts(under.first, "a", 1))
    assert second is not None
    assert second.url.endswith("2021")
    assert [ask.url[-4:] for ask in under.ahead(1)] == ["2022"]
