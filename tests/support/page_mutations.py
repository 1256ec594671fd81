"""Pages of real sources in disorder: left out, repeated, emptied, swapped; totals made wrong.

The recorded pages and the shipped profiles are read as a drone reads them; only the network is left
out. ``tests.support.served_mutations`` takes the same through the served program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from holdfast.collect.batches import BatchMaker
from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats import reader_of
from holdfast.collect.formats.json import lookup
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds, ReadContext
from holdfast.collect.pages import Ask, PageFacts, PaginationFailed, Section, Walk
from holdfast.records.model import MappedRecord
from holdfast.registry.code_lists import with_code_lists
from holdfast.registry.model import Profile
from holdfast.registry.validate import load_profile
from tests.support import recorded

ROOT = Path(__file__).parents[2]
BOUNDS = Bounds()

Pages = list[bytes | None]
"""What is answered to the request for each page; ``None`` is 404."""


@dataclass(frozen=True)
class Book:
    """A source of many pages: its profile, its recorded pages, and how a request names one."""

    name: str
    profile: Profile
    pages: list[bytes]
    number: Callable[[dict[str, str]], int]
    empty: bytes

    def answer(self, pages: Pages, url: str) -> bytes | None:
        """What the source says at an address; ``None`` is 404."""
        asked = dict(parse_qsl(urlsplit(url).query))
        number = self.number(asked)
        return pages[number] if number < len(pages) else self.empty


def book(name: str, file: str, empty: Callable[[bytes], bytes], number: Any) -> Book:
    folder = next(ROOT.glob(f"profiles/*/{name}.yaml"))
    files = sorted(recorded.folder().glob(f"{file}_page*.json"))
    pages = [path.read_bytes() for path in files]
    loaded = load_profile(with_code_lists(folder.read_bytes(), folder.parent))
    return Book(name, loaded, pages, number, empty(pages[0]))


def books() -> list[Book]:
    return [
        book(
            "worldbank-gdp-v1",
            "worldbank_v1_ny.gdp.mktp.cd_mrv1",
            lambda first: json.dumps([json.loads(first)[0], []]).encode(),
            lambda asked: int(asked["page"]) - 1,
        ),
        book(
            "nyc-bicycle-counts",
            "nyc_socrata_bicycle_counts",
            lambda _: b"[]",
            lambda asked: int(asked["$offset"]) // 1000,
        ),
    ]


def mutations(one: Book) -> Iterator[tuple[str, str, Pages]]:
    """(kind, where, the pages) of everything that is done to a book."""
    pages: Pages = list(one.pages)
    count = len(pages)
    yield "nothing", "", pages
    for at in range(count):
        where = f"page {at + 1}"
        yield "left out", where, [*pages[:at], *pages[at + 1 :]]
        yield "twice", where, [*pages[: at + 1], *pages[at:]]
        yield "again instead of the next", where, [*pages[: at + 1], pages[at], *pages[at + 2 :]]
        yield "for ever", where, [*pages[:at], *[pages[at]] * 50]
        yield "empty", where, [*pages[:at], one.empty, *pages[at + 1 :]]
        yield "not there", where, [*pages[:at], None, *pages[at + 1 :]]
        yield "cut in half", where, [*pages[:at], _half(one.pages[at]), *pages[at + 1 :]]
        yield (
            "without its last row",
            where,
            [*pages[:at], _shorter(one.pages[at]), *pages[at + 1 :]],
        )
        for other in range(at):
            swapped = list(pages)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            yield "swapped", f"{where} with page {other + 1}", swapped
    if one.name.startswith("worldbank"):
        for member, delta in (("total", 1), ("total", -1), ("pages", 1), ("pages", -1)):
            changed: Pages = [_said(page, member, delta) for page in one.pages]
            yield f"says {delta:+d} {member}", "every page", changed


def _half(page: bytes) -> bytes:
    return page[: len(page) // 2]


def _shorter(page: bytes) -> bytes:
    document = json.loads(page)
    rows = document[-1] if isinstance(document[-1], list) else document
    rows.pop()
    return json.dumps(document).encode()


def _said(page: bytes, member: str, delta: int) -> bytes:
    document = json.loads(page)
    document[0][member] = int(document[0][member]) + delta
    return json.dumps(document).encode()


def outcome(one: Book, pages: Pages, folder: Path) -> tuple[str, list[Any]]:
    """What a run comes to: how it ends, and the keys it would publish."""
    walk = Walk(one.profile.source, 60, [Section()])
    maker = BatchMaker(one.profile, BOUNDS)
    mapping, keys = Mapping(one.profile), []
    spec, path = one.profile.source.format, folder / "page"
    ask: Ask | None = walk.first
    while ask is not None:
        answer = one.answer(pages, ask.url)
        if answer is None:
            if not walk.may_be_missing():
                return "run failed: http-status", []
            ask = walk.after(PageFacts(ask, "", 0, missing=True))
            continue
        path.write_bytes(answer)
        content = SpooledContent(path, BOUNDS)
        try:
            values = lookup(content, walk.wanted, BOUNDS) if walk.wanted else {}
            rows = maker.count(content)
            facts = PageFacts(ask, str(hash(answer)), rows, values, mark=maker.mark)
            for row in reader_of(spec)(content, spec, ReadContext(bounds=BOUNDS)):
                for found in mapping.map(row, 0):
                    assert isinstance(found, MappedRecord)
                    keys.append((*found.key, found.period.text if found.period else ""))
            ask = walk.after(facts)
        except PaginationFailed:
            return "run failed: pagination", []
        except ParseFailed:
            return "run failed: parse", []
    if one.profile.duplicates == "error" and len(set(keys)) < len(keys):
        return "run failed: duplicate-keys", []
    if len(set(keys)) < one.profile.expect.min_records:
        return "run failed: too-few-records", []
    return "published", keys
