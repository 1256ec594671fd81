"""Notices delivered to the receiver of the documentation: signed, repeated, at last given up."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.app import settings as app_settings
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound import OutboundSettings
from holdfast.records import webhook as webhook_module
from holdfast.records.metrics import RecordsMetrics
from holdfast.records.webhook import (
    ATTEMPTS_MAX,
    NOTICE_TYPES,
    Webhook,
    WebhookSettings,
    read_secret,
    signature,
)
from tests.unit.records.helpers import OPERATOR, Bench, bench_on

SECRET = b"a secret of at least 24 bytes"
PAGE = Path(__file__).parents[2] / "docs" / "operating" / "watching.md"


@dataclass
class Seen:
    """What a receiver of ours got, and what it answers."""

    answers: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def receiver(seen: Seen) -> AsyncIterator[int]:
    """A plain HTTP receiver: 204 unless ``seen.answers`` says otherwise."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")[1:]
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        plain = dict(line.split(": ", 1) for line in lines if ": " in line)
        seen.heads.append({name.lower(): value for name, value in plain.items()})
        seen.bodies.append(await reader.readexactly(int(headers["content-length"])))
        answer = seen.answers.pop(0) if seen.answers else "204 No Content"
        writer.write(
            f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def told(bench: Bench, port: int, **changes: Any) -> AsyncIterator[Webhook]:
    allow = frozenset({f"127.0.0.1:{port}"})
    settings = WebhookSettings(
        url=f"http://127.0.0.1:{port}{changes.get('path', '/hook')}",
        secret=SECRET,
        outbound=OutboundSettings(allow=changes.get("allow", allow)),
    )
    async with Webhook(
        bench.db,
        settings,
        clock=bench.clock,
        random=lambda: 1.0,
        metrics=RecordsMetrics(bench.metrics),
    ) as found:
        yield found


@pytest.fixture
async def bench(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(sqlite_database, tmp_path, webhook_types=frozenset(NOTICE_TYPES)) as found:
        yield found


async def failed_run(bench: Bench, fence: int = 1) -> str:
    attempt = bench.attempt(fence=fence)
    await attempt.open()
    await attempt.finish("failed", code="http-status", reason="the source answered 500")
    return attempt.run


async def notices(bench: Bench) -> list[Any]:
    return (await bench.service.notices(OPERATOR)).items


async def test_a_notice_is_delivered_once_and_signed(bench: Bench) -> None:
    run = await failed_run(bench)
    seen = Seen()
    async with receiver(seen) as port, told(bench, port) as webhook:
        assert await webhook.deliver_due(OPERATOR) == 1
        assert await webhook.deliver_due(OPERATOR) == 0
    (head,), (body,) = seen.heads, seen.bodies
    event = json.loads(body)
    assert (event["type"], event["profile"], event["run"]) == ("run.failed", "rates", run)
    assert event["data"]["code"] == "http-status"
    (notice,) = await notices(bench)
    assert head["webhook-id"] == notice.id == event["id"]
    seconds = int(head["webhook-timestamp"])
    assert seconds == int(bench.clock.now().timestamp())
    assert head["webhook-signature"] == signature(SECRET, notice.id, seconds, body)
    assert head["webhook-signature"] != signature(b"x" * 24, notice.id, seconds, body)
    assert notice.delivered_at is not None
    assert notice.due_at is None


async def test_it_is_tried_again_ever_more_rarely_and_given_up_at_last(bench: Bench) -> None:
    await failed_run(bench)
    seen = Seen(answers=["500 Oops"] * ATTEMPTS_MAX)
    async with receiver(seen) as port, told(bench, port) as webhook:
        pauses: list[float] = []
        for _ in range(ATTEMPTS_MAX + 3):
            before = bench.clock.now()
            assert await webhook.deliver_due(OPERATOR) == 0
            (notice,) = await notices(bench)
            if notice.due_at is None:
                break
            assert "500" in notice.problem
            tried = len(seen.heads)
            bench.clock.advance(1)
            await webhook.deliver_due(OPERATOR)
            assert len(seen.heads) == tried, "nothing before its time"
            due = datetime.fromisoformat(notice.due_at)
            pauses.append((due - before).total_seconds())
            bench.clock.advance((due - bench.clock.now()).total_seconds())
    assert pauses[:5] == [10, 20, 40, 80, 160]
    assert max(pauses) == webhook_module.PAUSE_SECONDS_MAX
    assert len(seen.heads) == ATTEMPTS_MAX
    assert len({head["webhook-id"] for head in seen.heads}) == 1
    assert len({*seen.bodies}) == 1, "the same bytes at every attempt"
    assert len({head["webhook-signature"] for head in seen.heads}) == ATTEMPTS_MAX
    assert sum(pauses) > 2 * 86_400
    assert b'outcome="given-up"} 1.0' in bench.metrics.render()


async def test_a_receiver_may_ask_for_a_longer_pause_and_then_take_it(bench: Bench) -> None:
    await failed_run(bench)
    seen = Seen(answers=["503 Busy\r\nRetry-After: 300"])
    async with receiver(seen) as port, told(bench, port) as webhook:
        await webhook.deliver_due(OPERATOR)
        bench.clock.advance(299)
        assert await webhook.deliver_due(OPERATOR) == 0
        bench.clock.advance(2)
        assert await webhook.deliver_due(OPERATOR) == 1
    assert len(seen.heads) == 2


async def test_a_private_address_that_nobody_named_is_not_contacted(bench: Bench) -> None:
    await failed_run(bench)
    seen = Seen()
    async with receiver(seen) as port, told(bench, port, allow=frozenset()) as webhook:
        assert await webhook.deliver_due(OPERATOR) == 0
    assert seen.heads == []
    (notice,) = await notices(bench)
    assert "127.0.0.1" in notice.problem


async def test_a_redirect_is_not_followed(bench: Bench) -> None:
    await failed_run(bench)
    elsewhere, here = Seen(), Seen()
    async with receiver(elsewhere) as other, receiver(here) as port:
        here.answers.append(f"302 Found\r\nLocation: http://127.0.0.1:{other}/")
        allow = frozenset({f"127.0.0.1:{port}", f"127.0.0.1:{other}"})
        async with told(bench, port, allow=allow) as webhook:
            assert await webhook.deliver_due(OPERATOR) == 0
    assert elsewhere.heads == []


@pytest.mark.parametrize("answer", ["500 Oops", "302 Found\r\nLocation: /elsewhere", "garbage"])
async def test_the_address_is_told_nobody(
    bench: Bench, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chat services give out addresses that whoever knows them may write to."""
    await failed_run(bench)
    async with (
        receiver(Seen(answers=[answer])) as port,
        told(bench, port, path="/hooks/T0%31/let-me-in?key=and-me") as webhook,
    ):
        assert await webhook.deliver_due(OPERATOR) == 0
    (notice,) = await notices(bench)
    assert f"127.0.0.1:{port}" in notice.problem
    said = capsys.readouterr()
    for text in (notice.problem, said.out, said.err):
        assert "let-me-in" not in text
        assert "and-me" not in text


async def test_a_notice_whose_sender_died_is_due_again_after_a_minute(bench: Bench) -> None:
    await failed_run(bench)
    seen = Seen()
    async with receiver(seen) as port, told(bench, port) as dead, told(bench, port) as heir:
        (row,) = await dead._due(OPERATOR)
        assert await dead._take(OPERATOR, row)
        assert not await heir._take(OPERATOR, row), "two never send the same together"
        assert await heir.deliver_due(OPERATOR) == 0
        bench.clock.advance(61)
        assert await heir.deliver_due(OPERATOR) == 1


async def test_without_a_webhook_nothing_is_due(sqlite_database: Database, tmp_path: Path) -> None:
    async with bench_on(sqlite_database, tmp_path) as bench:
        await failed_run(bench)
        (notice,) = await notices(bench)
    assert (notice.type, notice.due_at) == ("run.failed", None)


def test_the_secret_is_read_from_a_file_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert read_secret(file) == SECRET
    file.write_text("whsec_YSBzZWNyZXQgb2YgYXQgbGVhc3QgMjQgYnl0ZXM=")
    assert read_secret(file) == SECRET
    for wrong in (b"", b"short", b"whsec_!!!", b"whsec_YQ=="):
        file.write_bytes(wrong)
        with pytest.raises(Invalid, match="cannot"):
            read_secret(file)
    with pytest.raises(Invalid, match="cannot read"):
        read_secret(tmp_path / "nothing")


def test_the_settings_know_every_type_of_notice() -> None:
    assert app_settings.NOTICE_TYPES == NOTICE_TYPES


async def test_the_receiver_of_the_documentation_verifies_what_we_send(
    bench: Bench, tmp_path: Path
) -> None:
    """The page's own program, run as it stands; a forgery is refused, a repeat dropped."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    (tmp_path / "receiver.py").write_text(code)
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(tmp_path / "receiver.py"),
        str(tmp_path / "secret"),
        "0",
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    try:
        async with asyncio.timeout(60):
            port = int((await program.stdout.readline()).split()[1])
            # Its clock is the machine's: what we sign must be of now.
            now = datetime.now(UTC)
            bench.clock.advance((now - bench.clock.now()).total_seconds())
            await failed_run(bench)
            async with told(bench, port) as webhook:
                (row,) = await webhook._due(OPERATOR)
                assert await webhook.deliver_due(OPERATOR) == 1
                said = (await program.stdout.readline()).decode()
                assert said.startswith("run.failed rates {")
                assert await webhook._sent(OPERATOR, row) == ("", 0.0), "a repeat is taken, quietly"
                webhook._settings = WebhookSettings(
                    webhook._settings.url, b"another secret of 24 bytes", webhook._settings.outbound
                )
                assert "401" in (await webhook._sent(OPERATOR, row))[0]
                bench.clock.advance(600)
                webhook._settings = WebhookSettings(
                    webhook._settings.url, SECRET, webhook._settings.outbound
                )
                assert "400" in (await webhook._sent(OPERATOR, row))[0]
    finally:
        program.kill()
        await program.wait()
