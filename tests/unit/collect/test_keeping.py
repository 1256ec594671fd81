"""What an attempt lets the aggregator keep of that which it did not take."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.collect import taking
from holdfast.collect.channel import Channel
from holdfast.collect.pages import Ask
from holdfast.collect.robots import Robots
from holdfast.collect.secrets import SecretStore
from holdfast.collect.taking import Attempt, Pages, Tools
from holdfast.collect.tokens import Tokens
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Conflict
from holdfast.kernel.outbound import Fetched, OutboundClient, OutboundSettings
from holdfast.records.model import RawResponse, RunPlan, Validator, page_name
from tests.unit.collect.helpers import profile

URL = "https://example.org/data"


class Shelf:
    """An aggregator that keeps what it is sent, and has of what is known to it another opinion."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.accounts: list[RawResponse] = []

    async def store_response(self, response: RawResponse, body: Path) -> None:
        self.kept.append(body.read_bytes())
        self.accounts.append(response)

    async def store_known(self, response: RawResponse) -> None:
        raise Conflict("cannot keep the response: it is another's")


def fetched(folder: Path, number: int, content: bytes, **headers: str) -> Fetched:
    path = folder / f"fetch-{number}"
    path.write_bytes(content)
    return Fetched(
        path=path,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        size_bytes=len(content),
        wire_bytes=len(content),
        status=200,
        headers=headers,
        url=URL,
        final_url=URL,
        address="",
        fetched_at="2026-01-01T00:00:00.000000Z",
        duration_seconds=0.0,
        requests=1,
        replayed=False,
    )


@asynccontextmanager
async def pages_of(
    shelf: Any, folder: Path, plan: RunPlan | None = None, **limits: Any
) -> AsyncIterator[tuple[Pages, Channel]]:
    told = profile(
        {"format": {"type": "json"}, "pagination": {"type": "link"}},
        limits={"retries": 0, **limits},
    )
    clock = SystemClock()
    channel = Channel(shelf, clock, "run", 1, ordered=False)
    with ThreadPoolExecutor(1) as executor:
        async with OutboundClient(OutboundSettings()) as outbound:
            tools = Tools(
                outbound=outbound,
                secrets=SecretStore({}, None),
                tokens=Tokens(outbound, clock),
                robots=Robots(outbound, clock),
                clock=clock,
                executor=executor,
            )
            attempt = Attempt("run", 1, "default", told)
            pages = Pages(
                attempt, channel, tools, folder, plan or RunPlan(run="run", publication=0)
            )
            try:
                yield pages, channel
            finally:
                await pages.close()
                await channel.abandon()


async def test_a_page_that_cannot_be_kept_takes_no_other_with_it(tmp_path: Path) -> None:
    """Nor does it stand for what the run failed of: it is told, beside that."""
    shelf = Shelf()
    odd = fetched(tmp_path, 0, b"odd", link=f'<{"x" * 9000}>; rel="next"')
    known = fetched(tmp_path, 1, b"known")
    plan = RunPlan(
        run="run",
        publication=0,
        validators={page_name(URL, ""): Validator(digest=known.digest, etag='"1"', size_bytes=5)},
    )
    async with pages_of(shelf, tmp_path, plan) as (pages, channel):
        for each in (odd, known, fetched(tmp_path, 2, b"cut")):
            pages.came_cut(Ask(URL), each)
        told = await pages.keep_rest(ended=True)
        assert await channel.settled() == ""
        assert shelf.kept == [b"cut"]
        assert [account.sequence for account in shelf.accounts] == [0]
        assert "over 8192 characters" in told[0]
        assert "it is another's" in told[1]
        # What was told once is not tried again.
        assert await pages.keep_rest(ended=True) == []


async def test_a_page_that_does_not_fit_leaves_room_for_those_that_do(tmp_path: Path) -> None:
    shelf = Shelf()
    async with pages_of(shelf, tmp_path, max_bytes=10) as (pages, channel):
        for number, content in enumerate([b"123456", b"1234567", b"1234"]):
            pages.came_cut(Ask(URL), fetched(tmp_path, number, content))
        await pages.keep_rest(ended=True)
        await channel.settled()
    assert sorted(shelf.kept) == [b"1234", b"123456"]


async def test_of_an_answer_that_broke_off_a_bounded_beginning_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "CUT_BYTES_MAX", 8)
    shelf = Shelf()
    async with pages_of(shelf, tmp_path) as (pages, channel):
        for number, content in enumerate([b"12345", b"abcdefgh", b"z"]):
            pages.came_cut(Ask(URL), fetched(tmp_path, number, content))
        await pages.keep_rest(ended=False)
        await channel.settled()
    assert shelf.kept == [b"12345", b"abc"]
    for content, account in zip(shelf.kept, shelf.accounts, strict=True):
        assert account.cut
        assert account.size_bytes == len(content)
        assert account.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
