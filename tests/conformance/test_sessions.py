"""What identity promises of sessions, asked of the service, of its client and of the door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from holdfast.gateway.door import (
    COOKIE,
    REMEMBERED_SECONDS,
    SECURE_COOKIE,
    DoorAuthenticator,
    Remembered,
    session_secret,
)
from holdfast.identity import OperatorToken
from holdfast.identity.granting import Parts
from holdfast.identity.model import ROLES
from holdfast.identity.people.model import RolesChange
from holdfast.identity.people.service import PeopleService
from holdfast.identity.signin import http, store
from holdfast.identity.signin.client import SessionsClient
from holdfast.identity.signin.model import (
    SESSION_PREFIX,
    SESSIONS_OF_ONE_MAX,
    SessionBegin,
    csrf_of,
)
from holdfast.identity.signin.passkey_model import PasskeySettings
from holdfast.identity.signin.passkeys import PasskeysService
from holdfast.identity.signin.sessions import SessionLimits, SessionsService, principal_of_session
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.credentials import make_secret
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Denied, NotFound, Unauthenticated
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.http.door import SUBJECT, TENANT
from holdfast.kernel.http.standing import CREDENTIAL_ENDED, STANDING
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, service
from tests.support.identity import ME, app_for, clock, events, join, parts

__all__ = ["clock", "parts"]

TOKEN = OperatorToken("hfo_token")
CLERK = Principal(ME.tenant, "clerk", PrincipalKind.KEY, frozenset())
HOURS = 3600.0
Sessions = SessionsService | SessionsClient


@dataclass
class Served:
    """Sessions, and clients of theirs for anybody."""

    sessions: SessionsService
    api: Any


@pytest.fixture
async def served(parts: Parts, clock: ManualClock) -> AsyncIterator[Served]:
    sessions = SessionsService(parts, SessionLimits())
    who: dict[str, Principal] = {"self": service("gateway"), "me": ME}

    handlers = http.handlers(sessions, PasskeysService(parts, sessions, PasskeySettings()))
    app = app_for(who, handlers, clock)
    apis: list[ApiClient] = []

    def client(name: str, principal: Principal | None = None) -> SessionsClient:
        if principal is not None:
            who[name] = principal
        apis.append(ApiClient.for_app(app, token=name))
        return SessionsClient(apis[-1])

    yield Served(sessions, client)
    for api in apis:
        await api.aclose()


@pytest.fixture(params=["service", "client"])
def sessions(request: pytest.FixtureRequest, served: Served) -> Sessions:
    return served.sessions if request.param == "service" else served.api("self")


def begin(subject: str, kind: str = "person", **more: Any) -> SessionBegin:
    credential = more.pop("credential", "passkey:one")
    return SessionBegin(tenant="default", subject=subject, kind=kind, credential=credential, **more)


async def test_a_session_speaks_for_what_its_person_may_do_now(
    sessions: Sessions, parts: Parts, database: Database
) -> None:
    person = await join(parts, ["viewer"])
    begun = await sessions.begin(begin(person, address="10.0.0.1", agent="Firefox"))
    assert begun.secret.startswith(f"hfs_{begun.id}_")
    holder = await sessions.find_holder(begun.secret)
    assert principal_of_session(holder) == Principal(
        ME.tenant,
        person,
        PrincipalKind.PERSON,
        ROLES["viewer"] | {Permission.SELF},
        None,
        f"session:{begun.id}",
    )
    await PeopleService(parts).change_roles(ME, person, RolesChange(roles=["auditor"]))
    assert (await sessions.find_holder(begun.secret)).permissions == sorted(
        p.value for p in ROLES["auditor"] | {Permission.SELF}
    )
    row = await database.read(ME, lambda conn: store.find_session(conn, ME.tenant, begun.id))
    assert row is not None
    assert begun.secret.rpartition("_")[0][-43:].encode() not in bytes(row.secret)
    told = repr(await events(database))
    assert "session.began" in told
    assert begun.secret not in told


async def test_a_session_ends_when_idle_when_old_and_when_told(
    sessions: Sessions, parts: Parts, clock: ManualClock
) -> None:
    person = await join(parts, ["viewer"])
    kept = await sessions.begin(begin(person))
    for _ in range(11):
        clock.advance(HOURS)
        await sessions.find_holder(kept.secret)
    clock.advance(HOURS)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(kept.secret)
    idle = await sessions.begin(begin(person))
    clock.advance(2 * HOURS)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(idle.secret)
    told = await sessions.begin(begin(person))
    await sessions.end_by_secret(told.secret)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(told.secret)


async def test_a_secret_that_is_nobodys_says_nothing(sessions: Sessions, parts: Parts) -> None:
    begun = await sessions.begin(begin(await join(parts, ["viewer"])))
    other = await sessions.begin(begin(await join(parts, ["viewer"])))
    crossed = begun.secret.replace(begun.id, other.id)
    for secret in (
        "",
        "hfs_x",
        crossed,
        begun.secret[:-9],
        begun.secret.replace("hfs", "hf"),
    ):
        with pytest.raises(Unauthenticated):
            await sessions.find_holder(secret)


async def test_signing_in_again_ends_what_the_browser_had(sessions: Sessions, parts: Parts) -> None:
    person = await join(parts, ["viewer"])
    first = await sessions.begin(begin(person))
    second = await sessions.begin(begin(person, replaces=first.secret))
    assert second.secret != first.secret
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(first.secret)
    await sessions.find_holder(second.secret)
    await sessions.begin(begin(person, replaces="no session at all"))


async def test_nobody_ends_anothers_session_by_its_id(sessions: Sessions, parts: Parts) -> None:
    """Ids are in events; what a browser had it shows by the secret."""
    ada, mallory = await join(parts, ["viewer"]), await join(parts, ["viewer"])
    hers = await sessions.begin(begin(ada))
    guessed = make_secret(SESSION_PREFIX, hers.id, b"\x01" * 32)
    await sessions.begin(begin(mallory, replaces=guessed))
    assert (await sessions.find_holder(hers.secret)).subject == ada


async def test_a_disabled_person_is_signed_out_and_stays_so(
    sessions: Sessions, parts: Parts
) -> None:
    person, people = await join(parts, ["viewer"]), PeopleService(parts)
    begun = await sessions.begin(begin(person))
    await people.disable(ME, person)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(begun.secret)
    await people.enable(ME, person)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(begun.secret)


async def test_sessions_are_listed_and_ended_by_their_owner_and_by_an_administrator(
    served: Served, parts: Parts, clock: ManualClock
) -> None:
    person, other = await join(parts, ["viewer"]), await join(parts, ["viewer"])
    mine = []
    for _ in range(3):
        clock.advance(1)
        mine.append(await served.sessions.begin(begin(person)))
    theirs = await served.sessions.begin(begin(other))
    owner = principal_of_session(await served.sessions.find_holder(mine[0].secret))
    own: SessionsClient = served.api("owner", owner)
    admin: SessionsClient = served.api("me")
    found, _ = await own.list_sessions(None)
    assert [each.id for each in found] == [each.id for each in reversed(mine)]
    assert [each.current for each in found] == [False, False, True]
    with pytest.raises(NotFound):
        await own.end(None, theirs.id)
    for attempt in (own.list_sessions(None, person=other), own.end_all(None, other)):
        with pytest.raises(Denied):
            await attempt
    with pytest.raises(Denied):
        await own.list_sessions(None, person="")
    assert (await own.end(None, mine[1].id)).state == "ended"
    assert await own.end_all(None) == 1
    assert [each.state for each in (await own.list_sessions(None))[0]] == ["ended", "ended", "open"]
    everybody, _ = await admin.list_sessions(None, person="")
    assert len(everybody) == 4
    assert (await admin.end(None, theirs.id)).state == "ended"
    assert await admin.end_all(None, person) == 1
    with pytest.raises(Unauthenticated):
        await served.sessions.find_holder(mine[0].secret)


async def test_only_services_begin_sessions(served: Served) -> None:
    client: SessionsClient = served.api("me")
    for attempt in (client.begin(begin("x")), client.find_holder("x"), client.end_by_secret("x")):
        with pytest.raises(Denied) as refused:
            await attempt
        assert refused.value.code == "services-only"


async def test_one_person_has_so_many_sessions_at_once(
    served: Served, parts: Parts, clock: ManualClock
) -> None:
    person = await join(parts, ["viewer"])
    first = await served.sessions.begin(begin(person))
    for _ in range(SESSIONS_OF_ONE_MAX):
        clock.advance(1)
        last = await served.sessions.begin(begin(person))
    with pytest.raises(Unauthenticated):
        await served.sessions.find_holder(first.secret)
    await served.sessions.find_holder(last.secret)


@pytest.mark.parametrize("idle", [60, 300, 7200])
async def test_whoever_is_not_silent_stays_signed_in_however_little_silence_is_allowed(
    parts: Parts, clock: ManualClock, idle: int
) -> None:
    sessions = SessionsService(parts, SessionLimits(idle_seconds=idle))
    begun = await sessions.begin(begin(await join(parts, ["viewer"])))
    for _ in range(40):
        clock.advance(idle / 10)
        await sessions.find_holder(begun.secret)
    # At most a quarter of it is not written yet; the whole of it is over in any case.
    clock.advance(idle)
    with pytest.raises(Unauthenticated):
        await sessions.find_holder(begun.secret)


async def test_of_somebody_who_may_more_nobody_ends_a_session(served: Served, parts: Parts) -> None:
    chief = await served.sessions.begin(begin(await join(parts, ["admin"])))
    operators = await served.sessions.begin(begin("operator", "operator"))
    viewer = await served.sessions.begin(begin(await join(parts, ["viewer"])))
    identity = {Permission.IDENTITY_READ, Permission.IDENTITY_WRITE, Permission.SELF}
    clerk = replace(CLERK, permissions=ROLES["viewer"] | identity)
    api: SessionsClient = served.api("clerk", clerk)
    for attempt in (
        api.end(None, chief.id),
        api.end_all(None, chief.subject),
        api.end(None, operators.id),
        api.end_all(None, "operator"),
    ):
        with pytest.raises(Denied, match="cannot manage this person") as refused:
            await attempt
        assert refused.value.code == "grant-exceeds"
    await served.sessions.find_holder(chief.secret)
    await served.sessions.find_holder(operators.secret)
    assert (await api.end(None, viewer.id)).state == "ended"
    limited: SessionsClient = served.api("limited", replace(clerk, profiles=frozenset({"rain"})))
    with pytest.raises(Denied):
        await limited.list_sessions(None, person="")
    with pytest.raises(NotFound):
        await limited.end(None, chief.id)
    assert await limited.list_sessions(None) == ([], None)


# --- at the door --------------------------------------------------------------------------------


def scope(secret: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    given = [(b"cookie", f"{COOKIE}={secret}".encode())]
    given += [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"method": method, "headers": given}


@pytest.fixture
def door(served: Served, clock: ManualClock) -> DoorAuthenticator:
    async def nobody(credential: str) -> Any:
        raise Unauthenticated("cannot do this: nobody")

    found = Remembered(served.sessions.find_holder, clock)
    return DoorAuthenticator(TOKEN, found, nobody, nobody, clock)


async def test_an_ended_session_is_dead_at_every_door_within_the_stated_time(
    served: Served, parts: Parts, door: DoorAuthenticator, clock: ManualClock
) -> None:
    person = await join(parts, ["viewer"])
    begun = await served.sessions.begin(begin(person))
    open_ = scope(begun.secret)
    assert (await door(open_)).subject == person
    await served.sessions.end(ME, begun.id)
    clock.advance(REMEMBERED_SECONDS)
    with pytest.raises(Unauthenticated):
        await door(scope(begun.secret))
    with pytest.raises(Unauthenticated) as over:
        await open_[STANDING].check()
    assert over.value.code == CREDENTIAL_ENDED


async def test_what_somebody_began_ends_when_they_are_disabled(
    served: Served, parts: Parts, door: DoorAuthenticator, clock: ManualClock
) -> None:
    person = await join(parts, ["viewer"])
    open_ = scope((await served.sessions.begin(begin(person))).secret)
    await door(open_)
    await PeopleService(parts).disable(ME, person)
    clock.advance(REMEMBERED_SECONDS)
    with pytest.raises(Unauthenticated) as over:
        await open_[STANDING].check()
    assert over.value.code == CREDENTIAL_ENDED


async def test_the_use_of_a_session_that_is_over_is_told_as_its_owners_to_the_record_alone(
    served: Served, parts: Parts, door: DoorAuthenticator
) -> None:
    person = await join(parts, ["viewer"])
    begun = await served.sessions.begin(begin(person))
    await served.sessions.end(ME, begun.id)
    shown = scope(begun.secret)
    with pytest.raises(Unauthenticated) as refused:
        await door(shown)
    assert (shown[TENANT], shown[SUBJECT]) == (ME.tenant, person)
    assert (refused.value.code, refused.value.problems) == ("session-over", ())
    with pytest.raises(Unauthenticated) as refused:
        await served.api("self").end_by_secret(begun.secret)
    assert refused.value.problems == ()
    guessed = scope(make_secret(SESSION_PREFIX, begun.id, b"\x01" * 32))
    with pytest.raises(Unauthenticated):
        await door(guessed)
    assert SUBJECT not in guessed


async def test_a_write_by_cookie_is_our_own_pages(
    served: Served, parts: Parts, door: DoorAuthenticator
) -> None:
    begun = await served.sessions.begin(begin(await join(parts, ["viewer"])))
    other = await served.sessions.begin(begin(await join(parts, ["viewer"])))
    right = csrf_of(begun.secret)
    await door(scope(begun.secret, "POST", origin="http://localhost", x_csrf_token=right))
    for headers, code in (
        ({"x_csrf_token": right}, "origin-missing"),
        ({"origin": "http://localhost"}, "csrf-missing"),
        ({"origin": "http://localhost", "x_csrf_token": csrf_of(other.secret)}, "csrf-missing"),
    ):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            with pytest.raises(Denied) as refused:
                await door(scope(begun.secret, method, **headers))
            assert refused.value.code == code


async def test_an_operators_session_ends_with_the_operators_token(
    served: Served, door: DoorAuthenticator, clock: ManualClock
) -> None:
    now = await served.sessions.begin(
        begin("operator", "operator", credential=f"operator:{TOKEN.fingerprint}")
    )
    assert (await door(scope(now.secret))).kind is PrincipalKind.OPERATOR
    old = OperatorToken("hfo_before").fingerprint
    before = await served.sessions.begin(
        begin("operator", "operator", credential=f"operator:{old}")
    )
    with pytest.raises(Unauthenticated):
        await door(scope(before.secret))
    assert timestamp(clock.now()) < (await served.sessions.find_holder(now.secret)).expires_at


def test_one_cookie_counts_and_under_tls_only_the_one_that_tls_brought() -> None:
    assert session_secret([f"{COOKIE}=a"]) == "a"
    assert session_secret([f"{COOKIE}=a", f"{COOKIE}=b"]) is None
    assert session_secret([f"{COOKIE}=planted; {SECURE_COOKIE}=real"]) == "real"
    assert session_secret(["other=a"]) is None
