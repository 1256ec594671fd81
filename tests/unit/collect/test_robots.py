"""What a robots.txt asks of us (RFC 9309)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collect.robots import Robots, Rules, parse
from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.outbound import (
    FetchLimits,
    OutboundClient,
    OutboundRequest,
    OutboundSettings,
    SourceUnavailable,
)
from tests.support.waiting import until

SMALL = FetchLimits(size_bytes_max=1024, retries=0)
SIMPLE = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""
"""RFC 9309 §5.1."""


@pytest.mark.parametrize(
    ("agent", "path", "allowed"),
    [
        ("holdfast", "/example/page.html", False),
        ("holdfast", "/pictures/a.gif", False),
        ("holdfast", "/pictures/a.gif?x", True),
        ("holdfast", "/publications/a", True),
        ("foobot", "/", False),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/", True),
        ("quxbot", "/example/page.html", True),
    ],
)
def test_the_standard_s_own_example(agent: str, path: str, allowed: bool) -> None:
    assert parse(SIMPLE, agent).allows(path) is allowed


def test_the_longest_rule_decides_and_at_equal_length_the_kinder() -> None:
    rules = parse("user-agent: *\nallow: /example/page/\ndisallow: /example/page/disallowed.gif")
    assert not rules.allows("/example/page/disallowed.gif")
    assert parse("user-agent:*\ndisallow:/page\nallow:/page").allows("/page")
    assert parse("user-agent:*\nallow:/p\ndisallow:/").allows("/page")


@pytest.mark.parametrize(
    ("rule", "path", "fits"),
    [
        ("/", "/anything", True),
        ("/fish", "/fish.html", True),
        ("/fish", "/Fish.asp", False),
        ("/fish*", "/fish", True),
        ("/*.php", "/folder/filename.php?parameters", True),
        ("/*.php$", "/filename.php?parameters", False),
        ("/*.php$", "/folder/filename.php", True),
        ("/fish*.php", "/fishheads/catfish.php?parameters", True),
        ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("/*a*b$", "/xaab", True),
        ("/*a*b$", "/b", False),
        ("/caf%C3%A9", "/caf\u00e9", True),
        ("/%7Ejoe", "/~joe/index", True),
        ("/data?id=", "/data?id=1", True),
        ("/data?id=", "/data", False),
    ],
)
def test_patterns(rule: str, path: str, fits: bool) -> None:
    assert parse(f"user-agent: *\ndisallow: {rule}").allows(path) is not fits


def test_our_own_group_counts_instead_of_everybody_s() -> None:
    text = "User-agent: *\nDisallow: /\n\nUser-agent: HoldFast/1.0 # us\nDisallow: /private"
    assert parse(text).allows("/data")
    assert not parse(text).allows("/private/x")
    groups = [("holdfast", "/a"), ("x", "/"), ("holdfast", "/b")]
    twice = "\n".join(f"user-agent: {agent}\ndisallow: {path}" for agent, path in groups)
    assert [parse(twice).allows(path) for path in ("/a", "/b", "/c")] == [False, False, True]


@pytest.mark.parametrize(
    "text",
    ["", "disallow: /", "<html>nothing</html>", "user-agent: *\ndisallow:", "\ufeff# just this"],
)
def test_what_asks_nothing_admits_everything(text: str) -> None:
    assert parse(text) == Rules()


def test_a_pause_is_kept_within_reason() -> None:
    assert parse("user-agent: *\ncrawl-delay: 10").delay_seconds == 10
    assert parse("user-agent: *\ncrawl-delay: 86400").delay_seconds == 60
    assert parse("user-agent: *\ncrawl-delay: soon").delay_seconds == 0
    assert parse("user-agent: x\ncrawl-delay: 9").delay_seconds == 0


def test_the_robots_txt_itself_is_always_allowed() -> None:
    assert parse("user-agent: *\ndisallow: /").allows("/robots.txt")


@given(st.text(), st.text().map(lambda text: f"/{text}"))
def test_nothing_makes_it_fall(text: str, path: str) -> None:
    parse(text).allows(path)
    parse(f"user-agent: *\ndisallow: /{text}\ncrawl-delay: {text}").allows(path)


def test_no_pattern_takes_long() -> None:
    """A matcher that tried every way would not end."""
    rules = parse("user-agent: *\n" + "\n".join(["disallow: /" + "*a" * 1000 + "b"] * 20))
    assert rules.allows("/" + "a" * 4000)


async def empty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An origin that has nothing."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


class Patient(ManualClock):
    """A clock that moves for whoever waits."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


async def test_whether_there_are_rules_is_asked_at_the_pace_of_any_request() -> None:
    clock = Patient(datetime(2026, 11, 1, tzinfo=UTC))
    async with await asyncio.start_server(empty, "127.0.0.1", 0) as server:
        host = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        settings = OutboundSettings(allow=frozenset([host]))
        async with OutboundClient(settings, clock=clock) as outbound:
            begun = clock.monotonic()
            await Robots(outbound, clock).check(f"http://{host}/a", per_minute=6)
            assert clock.monotonic() == begun
            with pytest.raises(SourceUnavailable):
                await outbound.read(OutboundRequest(url=f"http://{host}/a", limits=SMALL))
            assert clock.monotonic() == begun + 10


async def test_an_origin_that_does_not_answer_keeps_nobody_from_another() -> None:
    """Two that want the silent one ask it once; one that wants another does not wait."""
    asked: list[bytes] = []
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await over.wait()
        writer.close()

    async with (
        await asyncio.start_server(silent, "127.0.0.1", 0) as one,
        await asyncio.start_server(empty, "127.0.0.1", 0) as other,
    ):
        hosts = ["127.0.0.1:{1}".format(*each.sockets[0].getsockname()) for each in (one, other)]
        async with OutboundClient(OutboundSettings(allow=frozenset(hosts))) as outbound:
            robots = Robots(outbound, SystemClock())
            wanted = f"http://{hosts[0]}/a"
            waiting = [asyncio.create_task(robots.check(wanted)) for _ in range(2)]
            await until(lambda: bool(asked))
            async with asyncio.timeout(20):
                assert (await robots.check(f"http://{hosts[1]}/b")).allows("/b")
            assert len(asked) == 1
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        over.set()
