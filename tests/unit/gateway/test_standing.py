"""What goes on for long is asked about again, and ends with the credential it was begun with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.gateway.door import AGAIN_SECONDS, DoorAuthenticator, Remembered
from holdfast.identity import OperatorToken
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import HoldfastError, Unauthenticated, Unavailable
from holdfast.kernel.http import (
    ApiRequest,
    AppSpec,
    LiveEvent,
    create_app,
    events_answer,
    get,
    post,
    stream_answer,
)
from holdfast.kernel.http.standing import (
    CREDENTIAL_ENDED,
    RENEWED_SECONDS,
    STANDING,
    STANDING_SECONDS,
    STANDING_UNKNOWN,
    Standing,
    ended,
)
from holdfast.kernel.principal import Permission, Principal, PrincipalKind

WORKER = "hfw_one"
MAY = frozenset({Permission.RUNS_READ, Permission.RUNS_WRITE})
ONE = Principal("default", "w-1", PrincipalKind.WORKER, MAY)  # type: ignore[arg-type]


class Fleet:
    """Knows one credential, and how often it was asked."""

    def __init__(self) -> None:
        self.holder: Principal | HoldfastError = ONE
        self.asked = 0

    async def __call__(self, *_given: str | None) -> tuple[Principal, str]:
        self.asked += 1
        if isinstance(self.holder, HoldfastError):
            raise self.holder
        return self.holder, ""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 28, tzinfo=UTC))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def door(fleet: Fleet, clock: ManualClock) -> DoorAuthenticator:
    async def nobody(*_given: str | None) -> Any:
        raise Unauthenticated("cannot do this: nobody")

    return DoorAuthenticator(
        OperatorToken("hfo_x"), nobody, Remembered(fleet, clock), nobody, clock
    )


async def begun(door: DoorAuthenticator) -> Standing:
    scope: Any = {"method": "GET", "headers": [(b"authorization", f"Bearer {WORKER}".encode())]}
    await door(scope)
    found: Standing = scope[STANDING]
    return found


UNKNOWN = Unauthenticated("cannot do this: the token is not known")


async def test_it_holds_no_longer_than_five_seconds_from_when_it_was_asked_for(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock
) -> None:
    await begun(door)
    clock.advance(STANDING_SECONDS - 1)
    late = await begun(door)  # by what is remembered
    fleet.holder = UNKNOWN
    await late.check()
    clock.advance(1)
    with pytest.raises(Unauthenticated) as found:
        await late.check()
    assert found.value.code == CREDENTIAL_ENDED


@pytest.mark.parametrize(
    "less",
    [
        replace(ONE, permissions=frozenset({Permission.RUNS_READ})),
        replace(ONE, profiles=frozenset({"rain"})),
        replace(ONE, subject="w-2"),
        replace(ONE, tenant="other"),
    ],
    ids=["permissions", "profiles", "somebody else", "another tenant"],
)
async def test_what_may_less_by_now_is_over_for_what_was_begun(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock, less: Principal
) -> None:
    standing = await begun(door)
    fleet.holder = less
    clock.advance(STANDING_SECONDS)
    with pytest.raises(Unauthenticated) as found:
        await standing.check()
    assert found.value.code == CREDENTIAL_ENDED


async def test_whoever_may_more_goes_on(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock
) -> None:
    standing = await begun(door)
    fleet.holder = replace(ONE, permissions=MAY | {Permission.TASKS_READ})
    clock.advance(STANDING_SECONDS)
    await standing.check()


async def test_many_streams_of_one_credential_ask_together(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock
) -> None:
    several = [await begun(door) for _ in range(20)]
    assert fleet.asked == 1
    clock.advance(STANDING_SECONDS)
    for each in several:
        await each.check()
        await each.check()
    assert fleet.asked == 2
    clock.advance(AGAIN_SECONDS)
    await several[0].check()
    assert fleet.asked == 2, "it holds yet"


async def test_nobody_goes_on_when_nobody_can_tell(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock
) -> None:
    standing = await begun(door)
    fleet.holder = Unavailable("cannot reach the identity role")
    clock.advance(STANDING_SECONDS)
    with pytest.raises(Unavailable) as found:
        await standing.check()
    assert found.value.code == STANDING_UNKNOWN
    fleet.holder = ONE
    await standing.check()


async def test_who_is_silent_is_asked_about_in_time(
    door: DoorAuthenticator, fleet: Fleet, clock: ManualClock
) -> None:
    standing = await begun(door)
    waiting = asyncio.ensure_future(standing.over())
    await asyncio.sleep(0)
    fleet.holder = UNKNOWN
    clock.advance(RENEWED_SECONDS)
    assert (await waiting).code == CREDENTIAL_ENDED


# --- what is answered ---------------------------------------------------------------------------


class Door:
    """Lets everybody in until it is told to end them."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.over = False

    async def __call__(self, connection: Any) -> Principal:
        connection.scope[STANDING] = Standing(self.ask, self.clock.monotonic(), self.clock)
        return ONE

    async def ask(self) -> float:
        if self.over:
            raise ended()
        return self.clock.monotonic()

    def end(self) -> None:
        self.over = True
        self.clock.advance(STANDING_SECONDS)


async def asked(
    door: Door, path: str, method: str = "GET", body: tuple[bytes, ...] = (b"",)
) -> tuple[int, bytes, bool]:
    """Status, body, and whether that came to its end."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        door.end()
        yield b"second\n"

    async def events(_last: str | None) -> AsyncIterator[LiveEvent]:
        yield LiveEvent(id="1", data={})
        door.end()
        yield LiveEvent(id="2", data={})

    @get("/stream", permission=Permission.RUNS_READ)
    async def a_stream() -> Any:
        """A stream."""
        return stream_answer(pieces())

    @get("/slow", permission=Permission.RUNS_READ)
    async def a_slow() -> dict[str, int]:
        """What takes long to find."""
        door.end()
        return {"found": 1}

    @post("/slow", permission=Permission.RUNS_WRITE, status=200)
    async def a_slow_write() -> dict[str, int]:
        """What takes long to do, and is done."""
        door.end()
        return {"done": 1}

    @get("/events", permission=Permission.RUNS_READ)
    async def all_events(request: ApiRequest) -> Any:
        """Live events."""
        return events_answer(request, events)

    @post("/upload", permission=Permission.RUNS_WRITE, raw=True, status=200)
    async def an_upload(request: ApiRequest) -> dict[str, int]:
        """A body as it comes."""
        return {"size": len(await request.body())}

    app = create_app(
        AppSpec(
            role="t", version="0", authenticate=door,
            handlers=[a_stream, a_slow, a_slow_write, all_events, an_upload],
        )
    )  # fmt: skip
    left = list(body)
    status, said, whole = 0, b"", False
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        if not left:
            return await never
        piece = left.pop(0)
        if piece == b"end":
            door.end()
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: Any) -> None:
        nonlocal status, said, whole
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            said += message.get("body", b"")
            whole = not message.get("more_body")

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "state": {}, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 1),
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except HoldfastError as error:
        assert error.code == CREDENTIAL_ENDED  # noqa: PT017 - the server cuts it off then
    return status, said, whole


async def test_a_stream_is_cut_off_when_its_credential_has_ended(clock: ManualClock) -> None:
    assert await asked(Door(clock), "/stream") == (200, b"first\n", False)


async def test_live_events_end_with_the_reason(clock: ManualClock) -> None:
    status, said, whole = await asked(Door(clock), "/events")
    assert (status, whole) == (200, True)
    assert b"id: 1\n" in said
    assert b"id: 2\n" not in said
    last = said.split(b"\n\n")[-2]
    assert last.startswith(b"event: problem\n")
    assert CREDENTIAL_ENDED.encode() in last


async def test_what_took_long_to_find_is_for_whoever_may_still_read_it(clock: ManualClock) -> None:
    status, said, _ = await asked(Door(clock), "/slow")
    assert status == 401
    assert CREDENTIAL_ENDED.encode() in said


async def test_what_was_done_is_told(clock: ManualClock) -> None:
    assert (await asked(Door(clock), "/slow", "POST"))[:2] == (200, b'{"done":1}')


async def test_no_more_is_taken_of_a_body_whose_credential_has_ended(clock: ManualClock) -> None:
    whole = await asked(Door(clock), "/upload", "POST", (b"some", b"more"))
    assert whole[:2] == (200, b'{"size":8}')
    status, said, _ = await asked(Door(clock), "/upload", "POST", (b"some", b"end", b"more"))
    assert status == 401
    assert CREDENTIAL_ENDED.encode() in said
