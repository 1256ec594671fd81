"""Whether a page is one of several, and how the next is asked for. A guess for a draft. Pure.

What is guessed wrongly is found out by the first run: a parameter that the source does not know
brings the same page again, and that fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from holdfast.collect.pages import next_link
from holdfast.collect.paths import member_step
from holdfast.registry.source import Pagination

Plain = dict[str, Any]

_TOTAL = re.compile(
    r"(total|count|num_?found|total_?(records|count|results|items|rows|hits|features)|record_?count"
    r"|number_?matched)", re.I,
)  # fmt: skip
_PAGES = re.compile(r"(total_?pages|pages|page_?count|last_?page|num_?pages)", re.I)
_NEXT = re.compile(
    r"(@?odata\.|@|__)?next(_?(link|url|uri|href|page|cursor|token|offset|results?"
    r"|page_?(url|uri|link|token)|records?_?url))?|cursor", re.I,
)  # fmt: skip
_AROUND = re.compile(
    r"_?(meta|metadata|links?|pages?|paging|pagination|paginator|navigation|cursors?|info"
    r"|search_?metadata|response_?(info|metadata))", re.I,
)  # fmt: skip
"""What members are called in which a source speaks of its pages. Others may be its records."""
_ADDRESS = re.compile(r"https?://|/[^/]|[\w./%~-]*\?[^\s?]*=")
_MORE = re.compile(r"has_?(more|next)(_?pages?)?|more|exceeded_?transfer_?limit", re.I)
_MEMBERS_MAX = 2_000
_DEPTH_MAX = 3


def more_pages(
    value: Any, records: int | None, url: str, link: str = ""
) -> tuple[Plain | None, list[str]]:
    """The pagination that an answer suggests, and what to tell a person of it.

    ``value`` is its document, ``records`` how many records that has, ``link`` the header of that
    name. Nothing is suggested whose parameters stand in ``url`` already: two would then say where
    to begin. What is told and not suggested is said to be missing.
    """
    if next_link(link):
        told = "the `Link` header names a next one"
        return {"type": "link"}, [_note(told, written=True)]
    for told, found in _said(value, records):
        taken = set(_parameters(url))
        kind = _fitting(_kind(found, value, records, url))
        ours = {"page": ("page",), "offset": ("offset", "limit")}.get(kind.get("type", ""), ())
        names = {kind.get("parameter"), kind.get("limit_parameter"), *ours} - {None}
        if not kind or taken & {str(name).lower() for name in names}:
            return None, [_note(told, written=False) + _hint(found)]
        return kind, [_note(told, written=True)]
    return None, []


def _parameters(url: str) -> dict[str, str]:
    """The parameters of an address in small letters; none of what is no address."""
    with suppress(ValueError):
        return {name.lower(): one.lower() for name, one in parse_qsl(urlsplit(url).query, True)}
    return {}


def _fitting(kind: Plain) -> Plain:
    """``kind`` if a profile can say it: what an answer tells may be beyond all bounds."""
    with suppress(msgspec.ValidationError):
        msgspec.convert(kind, Pagination)
        return kind
    return {}


def _note(told: str, *, written: bool) -> str:
    if written:
        return (
            f"This seems to be one page of several ({told}): see whether `pagination` is what the "
            "source says of it."
        )
    return (
        f"This seems to be one page of several ({told}): add `pagination`, or a part is taken for "
        "the whole."
    )


class _Found:
    """A member that tells of more: its path, what it is, and what stands beside it."""

    def __init__(self, what: str, path: str, value: Any, beside: Plain, where: str) -> None:
        self.what = what
        self.path = path
        self.value = value
        self.beside = beside
        self.where = where
        self.elsewhere = ""
        """The path of the only total that the document tells."""


def _said(value: Any, records: int | None) -> list[tuple[str, _Found]]:
    """The first member that tells of more: flags and addresses before numbers."""
    head, path = (value[0], "$[0]") if isinstance(value, list) and value else (value, "$")
    if not isinstance(head, dict) or len(head) > _MEMBERS_MAX:
        return []
    found = [
        _Found(what, where + step, one, part, where)
        for part, where in _parts(head, path, 0)
        for name, member in part.items()
        for step, one in [_target(name, member)]
        if (what := _tells_of_more(name, one, records))
    ]
    found += _linked(head, path)
    if not found:
        return []
    rank = ("address", "more", "pages", "total", "next", "links")
    best = min(found, key=lambda each: rank.index(each.what))
    totals = [each.path for each in found if each.what == "total" and _is_total(each.path)]
    best.elsewhere = totals[0] if len(totals) == 1 else ""
    if best.what == "links":
        return [(f"{best.path} names a next one", best)]
    shown = json.dumps(best.value, ensure_ascii=False)[:60]
    return [(f"{best.path} is {shown}", best)]


def _parts(part: Plain, path: str, depth: int) -> Iterator[tuple[Plain, str]]:
    """An object and those in it that may speak of its pages, outermost first.

    All that stand in the document itself, further in those only that are called so.
    """
    if len(part) > _MEMBERS_MAX:
        return
    yield part, path
    for name, one in part.items():
        if not isinstance(one, dict):
            continue
        if depth == 0 or (depth < _DEPTH_MAX and _AROUND.fullmatch(name)):
            yield from _parts(one, path + member_step(name), depth + 1)


def _target(name: str, member: Any) -> tuple[str, Any]:
    """The step to a member and its value; of a link that is an object the address in it."""
    step = member_step(name)
    if isinstance(member, dict) and _NEXT.fullmatch(name) and isinstance(member.get("href"), str):
        return step + member_step("href"), member["href"]
    return step, member


def _tells_of_more(name: str, value: Any, records: int | None) -> str:
    if isinstance(value, list | float | dict) or not value:
        return ""
    if _MORE.fullmatch(name):
        return "more" if str(value).lower() in {"true", "1", "yes"} else ""
    if isinstance(value, int) and not isinstance(value, bool):
        if _TOTAL.fullmatch(name) and records is not None and value > records:
            return "total"
        if _PAGES.fullmatch(name):
            return "pages" if value > 1 else ""
    if not _NEXT.fullmatch(name):
        return ""
    if isinstance(value, str) and _ADDRESS.match(value):
        return "address"
    return "next"


def _linked(head: Plain, path: str) -> list[_Found]:
    """A list of links of which one is the next (OGC API, HAL in a list)."""
    links = head.get("links")
    if not isinstance(links, list):
        return []
    for one in links[:50]:
        if isinstance(one, dict) and one.get("rel") == "next" and isinstance(one.get("href"), str):
            return [_Found("links", f"{path}.links", one["href"], head, path)]
    return []


def _kind(found: _Found, value: Any, records: int | None, url: str) -> Plain:
    """The pagination for what was found; empty where the parameters cannot be told."""
    names = {name.lower(): name for name in found.beside}
    match found.what:
        case "address":
            return {"type": "next-url", "path": found.path} | _total(found)
        case "more" if found.path.rpartition(".")[2] == "exceededTransferLimit" and records:
            return {
                "type": "offset", "parameter": "resultOffset",
                "limit_parameter": "resultRecordCount", "limit": records, "more": found.path,
            }  # fmt: skip
        case "more" if {"offset", "limit"} <= set(names):
            limit = found.beside[names["limit"]]
            if isinstance(limit, int) and limit > 0:
                return {"type": "offset", "limit": limit, "more": found.path} | _total(found)
        case "pages" if found.beside.get(names.get("page", "")) in {1, "1"} or found.beside.get(
            names.get("next_page", "")
        ) in {2, "2"}:
            return {"type": "page", "total_pages": found.path} | _total(found)
        case "total" if records and _is_features(url):
            return {
                "type": "offset", "parameter": "startIndex", "limit_parameter": "count",
                "limit": records, "total_records": found.path,
            }  # fmt: skip
        case "total" if {"offset", "limit"} <= set(names):
            limit = found.beside[names["limit"]]
            if isinstance(limit, int) and limit > 0:
                return {"type": "offset", "limit": limit, "total_records": found.path}
    return {}


def _total(found: _Found) -> Plain:
    """The number of records, where it stands beside what leads on and can be nothing else."""
    for name, one in found.beside.items():
        plain = isinstance(one, int) and not isinstance(one, bool) and one > 0
        if plain and re.fullmatch(r"total|total_?(records|items|results)", name, re.I):
            return {"total_records": found.where + member_step(name)}
    return {"total_records": found.elsewhere} if found.elsewhere else {}


def _is_total(path: str) -> bool:
    return re.search(r"\.total(_?(records|count|items|results))?$", path, re.I) is not None


def _is_features(url: str) -> bool:
    """Whether a Web Feature Service of version 2 answers: that has ``startIndex``."""
    query = _parameters(url)
    return query.get("service") == "wfs" and not query.get("version", "2").startswith("1")


def _hint(found: _Found) -> str:
    match found.what:
        case "more":
            return f" `more: {found.path}` goes with `type: offset`, `page` or `cursor`."
        case "total":
            return f" `total_records: {found.path}` goes with every type."
        case "pages":
            return f" `total_pages: {found.path}` goes with `type: page`."
        case _:
            return ""
