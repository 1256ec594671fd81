"""Pages are walked to their end, and a source that leads in a circle is an error."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.collect.errors import LimitReached, PaginationFailed
from holdfast.collect.pages import PageFacts, Pager, next_link, with_parameters
from tests.unit.collect.helpers import profile

URL = "https://example.org/data?x=1"


def pager(pagination: dict[str, Any] | None, pages_max: int = 100, **source: Any) -> Pager:
    parts: dict[str, Any] = {"url": URL, "format": {"type": "json"}, **source}
    if pagination:
        parts["pagination"] = pagination
    return Pager(profile(parts).source, pages_max, {})


def walk(under: Pager, pages: list[dict[str, Any]]) -> list[str]:
    """The addresses asked for, when the pages are answered one after the other."""
    asked = [under.first]
    for number, page in enumerate(pages):
        facts = PageFacts(url=asked[-1], digest=page.pop("digest", f"d{number}"), **page)
        following = under.after(facts)
        if following is None:
            assert number == len(pages) - 1, "the walk ended before the last page"
            return asked
        asked.append(following)
    return asked


def test_one_page_is_all_without_pagination() -> None:
    assert walk(pager(None), [{"rows": 5}]) == [URL]


def test_page_numbers_end_at_an_empty_page() -> None:
    under = pager({"type": "page", "size_parameter": "n", "size": 50})
    assert walk(under, [{"rows": 50}, {"rows": 50}, {"rows": 0}]) == [
        f"{URL}&page={n}&n=50" for n in (1, 2, 3)
    ]


def test_page_numbers_end_where_the_source_says() -> None:
    under = pager({"type": "page", "start": 0, "total_pages": "$.pages"})
    said = {"$.pages": 2}
    assert len(walk(under, [{"rows": 1, "values": said}, {"rows": 1, "values": said}])) == 2
    under = pager({"type": "page", "total_records": "$.total"})
    said = {"$.total": "3"}
    assert len(walk(under, [{"rows": 2, "values": said}, {"rows": 1, "values": said}])) == 2


def test_fewer_records_than_the_source_promised_is_an_error() -> None:
    under = pager({"type": "page", "total_records": "$.total"})
    with pytest.raises(PaginationFailed, match="says 9 records and gave 2"):
        walk(under, [{"rows": 2, "values": {"$.total": 9}}, {"rows": 0, "values": {"$.total": 9}}])


def test_offsets_end_at_a_short_page() -> None:
    under = pager({"type": "offset", "limit": 2})
    assert walk(under, [{"rows": 2}, {"rows": 2}, {"rows": 1}]) == [
        f"{URL}&offset={n}&limit=2" for n in (0, 2, 4)
    ]


def test_offsets_go_by_the_total_where_there_is_one() -> None:
    under = pager({"type": "offset", "limit": 5, "total_records": "$.n"})
    said = {"$.n": 4}  # the source gives shorter pages than it was asked for
    assert walk(under, [{"rows": 2, "values": said}, {"rows": 2, "values": said}]) == [
        f"{URL}&offset=0&limit=5",
        f"{URL}&offset=2&limit=5",
    ]


@pytest.mark.parametrize("end", [None, "", False])
def test_cursors_end_when_there_is_none(end: Any) -> None:
    under = pager({"type": "cursor", "parameter": "after", "path": "$.next"})
    pages: list[dict[str, Any]] = [
        {"rows": 1, "values": {"$.next": "a b/="}},
        {"rows": 0, "values": {"$.next": 7}},
        {"rows": 1, "values": {} if end is None else {"$.next": end}},
    ]
    assert walk(under, pages) == [URL, f"{URL}&after=a%20b/%3D", f"{URL}&after=7"]


def test_links_and_next_addresses_are_followed() -> None:
    under = pager({"type": "link"})
    link = '<https://example.org/data?p=0>; rel="prev", </data?p=2>; rel="next last"; title="a,b"'
    assert walk(under, [{"rows": 1, "link": link}, {"rows": 1}]) == [
        URL,
        "https://example.org/data?p=2",
    ]
    under = pager({"type": "next-url", "path": "$.next"})
    values = {"$.next": "https://other.example/p2"}
    assert (
        walk(under, [{"rows": 1, "values": values}, {"rows": 1}])[1] == "https://other.example/p2"
    )


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


def test_the_same_bytes_again_are_a_circle() -> None:
    under = pager({"type": "page"})
    with pytest.raises(PaginationFailed, match="the same bytes"):
        walk(under, [{"rows": 5, "digest": "d"}, {"rows": 5, "digest": "d"}])


def test_the_same_address_again_is_a_circle() -> None:
    under = pager({"type": "next-url", "path": "$.next"})
    with pytest.raises(PaginationFailed, match="its address was fetched before"):
        walk(
            under,
            [
                {"rows": 1, "values": {"$.next": "/b"}},
                {"rows": 1, "values": {"$.next": "/data?x=1"}},
            ],
        )
    under = pager({"type": "cursor", "parameter": "c", "path": "$.n"})
    with pytest.raises(PaginationFailed, match="its address was fetched before"):
        walk(under, [{"rows": 1, "values": {"$.n": "a"}}, {"rows": 1, "values": {"$.n": "a"}}])


def test_more_pages_than_allowed_is_a_limit() -> None:
    with pytest.raises(LimitReached) as caught:
        walk(pager({"type": "page"}, pages_max=2), [{"rows": 1}, {"rows": 1}])
    assert caught.value.code == "limit-pages"
    # Exactly as many as allowed is no limit reached.
    assert len(walk(pager({"type": "page"}, pages_max=2), [{"rows": 1}, {"rows": 0}])) == 2


def test_the_next_page_never_leaves_https() -> None:
    under = pager({"type": "next-url", "path": "$.next"})
    with pytest.raises(PaginationFailed, match="it leaves https"):
        walk(under, [{"rows": 1, "values": {"$.next": "http://example.org/2"}}])


@pytest.mark.parametrize("said", ["many", "-1", "1.5", True, [], "9" * 20])
def test_a_total_that_is_no_number_is_an_error(said: Any) -> None:
    under = pager({"type": "page", "total_pages": "$.n"})
    with pytest.raises(PaginationFailed):
        walk(under, [{"rows": 1, "values": {"$.n": said}}])


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
