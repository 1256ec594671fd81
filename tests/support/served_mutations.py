"""The seeded mutations through the served program: what a client of it sees become of each.

One ``holdfast up`` with two drones, and a source that serves whatever the next run is to find. Each
profile is the one offline, at an address of its own; the unharmed bytes are collected first, so
that there is something published that a wrong run could spoil. The outcome is read over ``/v1``
alone: the run, what is published before and after it, and the rejects that it names.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast.collect.batches import REJECTS_KEPT_BEYOND
from holdfast.records.model import MappedRecord
from holdfast.registry.model import Profile, plain_profile
from tests.support import page_mutations
from tests.support.mutations import (
    FAILED,
    REJECTED,
    RIGHT,
    UNCHANGED,
    WRONG,
    Case,
    Document,
    Run,
    Verdict,
    judged,
    published,
    run_of,
    usual_least,
)
from tests.support.program import Program, started, wait_until
from tests.support.stack import QUICK

SOURCES_AT_ONCE = 4
"""Profiles that are collected at the same time; one after the other within each."""
UNFINISHED = "NO OUTCOME"
LEFT_OUT = (
    "pagination",
    "auth",
    "parameters",
    "headers",
    "method",
    "body",
    "compression",
    "member",
)
"""Parts of a source that say how it is asked: the mutated bytes are one page, and simply there."""


# --- what the source says -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of the source."""

    body: bytes
    charset: str = ""
    status: int = 200


NOTHING = Said(b"nothing here", status=404)


class Source:
    """Answers on loopback by the name that leads the path: what was set last by ``say``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._answers: dict[str, Callable[[str], Said]] = {}

    def say(self, name: str, answer: Callable[[str], Said]) -> None:
        """From now on ``answer(target)`` is what a request to ``/name/…`` gets."""
        self._answers[name] = answer

    def answer(self, target: str) -> Said:
        """What is said to a request."""
        found = self._answers.get(target.split("/")[1])
        return NOTHING if found is None or target.endswith("/robots.txt") else found(target)


@contextmanager
def source() -> Iterator[Source]:
    """A source that says nothing yet."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            said = made.answer(self.path)
            self.send_response(said.status)
            kind = "application/octet-stream" if not said.charset else "text/plain"
            charset = f"; charset={said.charset}" if said.charset else ""
            self.send_header("Content-Type", kind + charset)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Source(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


# --- the program ----------------------------------------------------------------------------------


@dataclass
class Served:
    """The running program and its source."""

    program: Program
    source: Source

    def publish(self, name: str, profile: Profile, query: str = "") -> None:
        """Make this the profile ``name``, with an origin of its own, collected by hand."""
        plain = plain_profile(profile) | {"name": name}
        plain["source"]["url"] = f"https://{origin_of(name)}/{name}/data{query}"
        for part in ("schedule", "freshness", "limits"):
            plain.pop(part, None)
        answer = self.program.client.post("/v1/profiles", json=plain)
        assert answer.status_code in (200, 201), answer.text

    def collect(self, name: str) -> dict[str, Any]:
        """Run it; what the run came to, once both the task and the run have ended."""
        answer = self.program.client.post("/v1/tasks/collect", json={"profile": name})
        assert answer.status_code in (200, 201), answer.text
        task = answer.json()

        def ended() -> bool:
            told = self.program.get(f"/v1/tasks/{task['id']}")
            return told["status"] in ("succeeded", "dead", "cancelled")

        def run() -> dict[str, Any] | None:
            told: dict[str, Any] = self.program.get(f"/v1/runs/{task['payload']['run']}")
            return None if told["status"] in ("running", "interrupted") else told

        wait_until(ended, what=f"a run of {name}")
        found: dict[str, Any] = wait_until(run, what=f"the end of a run of {name}")
        return found

    def state(self, name: str) -> dict[str, str]:
        """Everything that readers see of the profile: key → revision and content."""
        return {
            json.dumps(row["key"]): f"{row['revision']} {_content(row)}"
            for row in self.program.items("/v1/records", profile=name, limit=1000)
        }

    def contents(self, name: str) -> list[str]:
        """What the published records say, in one order."""
        rows = self.program.items("/v1/records", profile=name, limit=1000)
        return sorted(json.dumps(row["key"]) + _content(row) for row in rows)

    def rejects(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows that the run names as rejected, in the order of their positions."""
        found = list(self.program.items("/v1/rejects", run=run["id"], limit=500))
        return sorted(found, key=lambda each: (each["response"], each["position"]))


def origin_of(name: str) -> str:
    """The host that a profile's source has."""
    return f"{name}.example.org"


def _content(row: dict[str, Any]) -> str:
    """What a record says, wherever it stood and however its time was spelled."""
    period = row.get("period") or {}
    measures = {
        name: [measure.get("value"), measure.get("unit", ""), measure.get("multiplier", "1")]
        for name, measure in row.get("measures", {}).items()
    }
    said = [row.get("dimensions", {}), measures, row.get("attributes", {})]
    span = [period.get(name) for name in ("start", "end", "frequency")]
    return json.dumps([*said, *span], sort_keys=True)


def contents_of(records: Iterable[MappedRecord]) -> list[str]:
    """What mapped records say, as :meth:`Served.contents` tells it of published ones."""
    rows = map(msgspec.to_builtins, records)
    return sorted(json.dumps(row["key"]) + _content(row) for row in rows)


@contextmanager
def served(folder: Path, names: Sequence[str]) -> Iterator[Served]:
    """``holdfast up`` with two drones for the profiles ``names``."""
    with source() as made:
        replay = folder / "replay.json"
        replay.write_text(json.dumps({f"https://{origin_of(name)}": made.url for name in names}))
        environment = QUICK | {"HOLDFAST_COLLECT_REPLAY_FILE": str(replay)}
        arguments = ["up", "--drones", "2", "--port", "0"]
        with started(arguments, folder / "data", environment=environment) as program:
            assert program.client  # made here, once, before several threads ask for it
            try:
                yield Served(program, made)
            except BaseException:
                print("--- the program's log", program.tail(80), sep="\n")
                raise


# --- one document and its mutations ---------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What became of a case offline and in the served program, with the evidence that differs."""

    case: Case
    offline: Verdict
    served: Verdict
    differs: str = ""


def served_profile(found: Document, before: Run) -> Profile:
    """The document's profile as the served program is given it: one page, half of it too few."""
    plain = msgspec.to_builtins(found.profile)
    for part in LEFT_OUT:
        plain["source"].pop(part, None)
    plain["expect"]["min_records"] = usual_least(before)
    return msgspec.convert(plain, Profile)


def outcomes(program: Served, found: Document, cases: Sequence[Case], path: Path) -> list[Outcome]:
    """Every case of one document, offline and served, each from the same published state."""
    before = run_of(found.profile, found.bytes(), path)
    name = found.profile.name
    program.publish(name, served_profile(found, before))
    good = Said(found.bytes())
    wanted = contents_of(before.records)
    _restore(program, name, good, wanted)
    results = []
    for case in cases:
        now = run_of(found.profile, case.data, path, case.charset)
        expected = case.expected(before.records) if case.expected else None
        offline = judged(found.profile, before, now, expected)
        state = program.state(name)
        program.source.say(name, lambda _, case=case: Said(case.data, case.charset))
        run = program.collect(name)
        right = contents_of(published(found.profile, before.records, now.records))
        verdict = verdict_of(program, name, run, state, right)
        results.append(
            Outcome(
                case,
                offline,
                verdict,
                _difference(program, found.profile, run, offline, verdict, now),
            )
        )
        if program.state(name) != state:
            _restore(program, name, good, wanted)
    return results


def _restore(program: Served, name: str, good: Said, wanted: list[str]) -> None:
    """Collect the unharmed bytes; what is published then is what they say."""
    program.source.say(name, lambda _: good)
    run = program.collect(name)
    assert run["status"] in ("succeeded", "unchanged"), f"{name}: {run['code']}: {run['reason']}"
    for there, right in zip(program.contents(name), wanted, strict=True):
        assert there == right, f"{name}: {there} is published, {right} was mapped"


def verdict_of(
    program: Served, name: str, run: dict[str, Any], before: dict[str, str], wanted: list[str]
) -> Verdict:
    """The one outcome of a run; ``before`` was published, ``wanted`` would be right."""
    after = program.state(name)
    if run["status"] == "failed":
        if after != before or run["published_at"] is not None:
            return Verdict(WRONG, f"failed with {run['code']}, and readers see other records")
        if run["code"] in ("too-many-rejects", "rejects"):
            named = program.rejects(run)
            if not named or not all(each["reason"] for each in named):
                return Verdict(UNFINISHED, "rejected rows that are not named")
            return Verdict(REJECTED, f"{named[0]['field']}: {named[0]['reason']}")
        return Verdict(FAILED, f"{run['code']}: {run['reason']}")
    if run["status"] not in ("succeeded", "unchanged"):
        return Verdict(UNFINISHED, f"{run['status']} {run['code']}: {run['reason']}")
    if after == before:
        return Verdict(UNCHANGED)
    if program.contents(name) == wanted:
        return Verdict(RIGHT)
    return Verdict(WRONG, f"{run['changed']} changed, {run['new']} new, {run['withdrawn']} gone")


def _difference(
    program: Served,
    profile: Profile,
    run: dict[str, Any],
    offline: Verdict,
    verdict: Verdict,
    now: Run,
) -> str:
    """In which the served program's answer differs from the one offline; empty if it does not."""
    if offline.outcome != verdict.outcome:
        return f"offline {offline.outcome} ({offline.reason})"
    if verdict.outcome == FAILED and cause_of(offline) != cause_of(verdict):
        return f"offline it fails with {offline.reason}"
    if verdict.outcome == REJECTED:
        named = [(each["position"], each["field"], each["reason"]) for each in program.rejects(run)]
        kept = now.rejects[: profile.max_rejects + REJECTS_KEPT_BEYOND + 1]  # then it gives up
        wanted = [(each.position, each.field, each.reason) for each in kept]
        if sorted(named) != sorted(wanted):
            return f"names {named[:3]} of {len(named)}, offline {wanted[:3]} of {len(wanted)}"
    return ""


def cause_of(verdict: Verdict) -> str:
    """What caught it."""
    return verdict.reason.partition(":")[0]


# --- pages in disorder ----------------------------------------------------------------------------


@dataclass(slots=True)
class PageOutcome:
    """What became of one disorder of pages, and what it came to offline."""

    source: str
    kind: str
    where: str
    offline: str
    served: Verdict

    @property
    def agrees(self) -> bool:
        """What is published stays as it was, and a run fails for the same reason as offline."""
        if self.offline == "published":
            return self.served.outcome == UNCHANGED
        failed = f"run failed: {cause_of(self.served)}"
        return self.served.outcome == FAILED and failed == self.offline


def page_name(one: page_mutations.Book) -> str:
    """The name under which a book of pages is collected, pages and all."""
    return f"pages-{one.name}"


def page_outcomes(
    program: Served, one: page_mutations.Book, cases: Sequence[tuple[str, str, Any]], folder: Path
) -> list[PageOutcome]:
    """Disorders of one source's pages, each after the pages in their order were published."""
    name = page_name(one)
    program.publish(name, one.profile, _query(one.profile.source.url))

    def said(pages: Any) -> Callable[[str], Said]:
        def answer(target: str) -> Said:
            body = one.answer(pages, target)
            return NOTHING if body is None else Said(body)

        return answer

    program.source.say(name, said(list(one.pages)))
    run = program.collect(name)
    assert run["status"] == "succeeded", run
    results = []
    for kind, where, pages in cases:
        before = program.state(name)
        program.source.say(name, said(pages))
        run = program.collect(name)
        verdict = verdict_of(program, name, run, before, [])
        offline, _ = page_mutations.outcome(one, pages, folder)
        results.append(PageOutcome(one.name, kind, where, offline, verdict))
    return results


def _query(url: str) -> str:
    query = urlsplit(url).query
    return f"?{query}" if query else ""


# --- many at once ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """Everything that was taken through one program."""

    outcomes: list[Outcome] = field(default_factory=list)
    pages: list[PageOutcome] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """Every case that did not end as it may, or not as offline; in words."""
        found = [
            f"{each.case.source}: {each.case.kind}: {each.case.detail}: served "
            f"{each.served.outcome} ({each.served.reason}); {each.differs}"
            for each in self.outcomes
            if each.served.outcome not in each.case.allowed or each.differs
        ]
        return found + [
            f"{each.source}: pages: {each.kind} {each.where}: served {each.served.outcome} "
            f"({each.served.reason}), offline {each.offline}"
            for each in self.pages
            if not each.agrees
        ]


def take_through(
    folder: Path,
    documents: Sequence[tuple[Document, Sequence[Case]]],
    books: Sequence[tuple[page_mutations.Book, Sequence[tuple[str, str, Any]]]],
) -> Seen:
    """All of these through one served program, several sources at a time."""
    names = [document.profile.name for document, _ in documents]
    names += [page_name(one) for one, _ in books]
    with served(folder, names) as program, ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
        page_runs = [
            pool.submit(page_outcomes, program, one, cases, _own(folder, page_name(one)))
            for one, cases in books
        ]
        runs = [
            pool.submit(
                outcomes, program, document, cases, _own(folder, document.profile.name) / "page"
            )
            for document, cases in documents
        ]
        seen = Seen()
        for run in runs:
            seen.outcomes += run.result()
        for pages in page_runs:
            seen.pages += pages.result()
        return seen


def _own(folder: Path, name: str) -> Path:
    made = folder / "offline" / name
    made.mkdir(parents=True)
    return made
