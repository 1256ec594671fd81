"""What the registry promises, asked of the service and of its client, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Denied, Invalid, NotFound, Unsupported
from holdfast.kernel.http import AppSpec, create_app, encode_cursor
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, ClearSealer, Entry, Outbox
from holdfast.kernel.principal import Permission, Principal, PrincipalKind, operator
from holdfast.registry import http
from holdfast.registry.client import RegistryClient
from holdfast.registry.document import write_document
from holdfast.registry.model import Profile, Schedule, canonical_profile, profile_digest
from holdfast.registry.service import RegistryService
from holdfast.registry.supported import SUPPORTED
from holdfast.registry.validate import load_profile
from holdfast.registry.versions import LimitsOverride, OverridesChange, ProfileOverrides
from tests.unit.registry.profiles import GOOD, changed

Registry = RegistryService | RegistryClient
ME = operator()
READER = Principal(ME.tenant, "reader", PrincipalKind.KEY, frozenset({Permission.PROFILES_READ}))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def service(database: Database, clock: ManualClock) -> RegistryService:
    return RegistryService(database, Outbox(ClearSealer()), clock, id_source(clock))


@pytest.fixture
async def api(service: RegistryService, clock: ManualClock) -> AsyncIterator[ApiClient]:
    async def authenticate(connection: Any) -> Principal:
        return READER if "reader" in connection.headers.get("authorization", "") else ME

    spec = AppSpec(
        role="registry",
        version="0",
        handlers=http.handlers(service),
        authenticate=authenticate,
        clock=clock,
    )
    async with ApiClient.for_app(create_app(spec), token="me") as client:
        yield client


@pytest.fixture(params=["service", "client"])
def registry(request: pytest.FixtureRequest, service: RegistryService, api: ApiClient) -> Registry:
    return service if request.param == "service" else RegistryClient(api)


def profile(**members: Any) -> Profile:
    return load_profile(document(**members))


def document(**members: Any) -> bytes:
    return write_document(GOOD | members).encode()


async def events(database: Database, principal: Principal = ME) -> list[Entry]:
    outbox = Outbox(ClearSealer())
    return await database.read(
        principal, lambda conn: outbox.ready(conn, principal, BEGINNING, 1000)
    )


# --- publishing ---------------------------------------------------------------------------------


async def test_a_published_version_is_shown_as_it_was_published(registry: Registry) -> None:
    result = await registry.publish(ME, document(title="Rain"))
    assert (result.created, result.changed, result.dry_run, result.previous) == (
        True,
        True,
        False,
        "",
    )
    version = await registry.show(ME, "rain")
    assert version == result.version
    assert version.profile == profile(title="Rain")
    assert version.digest == profile_digest(version.profile)
    assert version.published_at == "2026-01-01T00:00:00.000000Z"
    assert version.published_by == "operator"
    assert await registry.show(ME, "rain", version.digest) == version


async def test_publishing_what_runs_changes_nothing_and_says_nothing(
    registry: Registry, database: Database
) -> None:
    first = await registry.publish(ME, document())
    again = await registry.publish(ME, profile())
    assert (again.created, again.changed, again.diff) == (False, False, [])
    assert again.version == first.version
    assert [entry.event.type for entry in await events(database)] == ["profile.published"]
    assert (await registry.status(ME, "rain")).revision == 1


async def test_versions_are_kept_and_an_old_one_can_run_again(
    registry: Registry, clock: ManualClock
) -> None:
    one = (await registry.publish(ME, document())).version
    clock.advance(60)
    two = await registry.publish(ME, document(title="Rain, new"))
    assert two.previous == one.digest
    assert [(each.path, each.before, each.after) for each in two.diff] == [
        ("title", None, '"Rain, new"')
    ]
    clock.advance(60)
    back = await registry.publish(ME, document())
    assert (back.created, back.changed) == (False, True)
    assert back.version.published_at == one.published_at
    assert (await registry.show(ME, "rain")).digest == one.digest
    listed = (await registry.versions(ME, "rain")).items
    assert [(each.digest, each.current) for each in listed] == [
        (two.version.digest, False),
        (one.digest, True),
    ]
    changes = (await registry.diff(ME, "rain", two.version.digest)).changes
    assert [(each.path, each.before, each.after) for each in changes] == [
        ("title", '"Rain, new"', None)
    ]


async def test_a_dry_run_tells_and_writes_nothing(registry: Registry, database: Database) -> None:
    planned = await registry.publish(ME, document(), dry_run=True)
    assert (planned.dry_run, planned.created, planned.changed) == (True, True, True)
    with pytest.raises(NotFound):
        await registry.show(ME, "rain")
    assert await events(database) == []
    real = await registry.publish(ME, document())
    assert real.version.digest == planned.version.digest


async def test_a_bad_document_is_refused_with_everything_that_is_wrong(registry: Registry) -> None:
    text = write_document(changed("titel", "x", changed("key", ["period", "dimensions.place"])))
    with pytest.raises(Invalid) as caught:
        await registry.publish(ME, text.encode())
    assert caught.value.code == "profile-invalid"
    assert [(problem.path, problem.line > 0) for problem in caught.value.problems] == [
        ("key[1]", True),
        ("titel", True),
    ]


async def test_a_part_that_is_not_built_is_refused_by_name(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SUPPORTED, "mode append", False)
    bad = write_document(GOOD | {"mode": "append"}).encode()
    with pytest.raises(Unsupported, match="does not carry out mode"):
        await registry.publish(ME, bad)
    with pytest.raises(NotFound):
        await registry.status(ME, "rain")


async def test_json_is_a_document_too(registry: Registry) -> None:
    result = await registry.publish(ME, canonical_profile(profile()), media_type="application/json")
    assert result.version.digest == profile_digest(profile())


async def test_a_writer_who_is_late_is_refused(registry: Registry) -> None:
    with pytest.raises(Conflict, match="there is none yet"):
        await registry.publish(ME, document(), expected="sha256:" + "0" * 64)
    one = await registry.publish(ME, document(), expected="")
    with pytest.raises(Conflict) as caught:
        await registry.publish(ME, document(title="b"), expected="")
    assert caught.value.code == "precondition-failed"
    await registry.publish(ME, document(title="b"), expected=one.version.digest)
    with pytest.raises(Conflict):
        await registry.publish(ME, document(title="c"), expected=one.version.digest)
    assert (await registry.show(ME, "rain")).profile.title == "b"


async def test_a_late_repeat_with_its_key_does_not_bring_an_old_version_back(
    registry: Registry, clock: ManualClock
) -> None:
    first = await registry.publish(ME, document(), idempotency_key="k1")
    await registry.publish(ME, document(title="newer"))
    assert await registry.publish(ME, document(), idempotency_key="k1") == first
    assert (await registry.show(ME, "rain")).profile.title == "newer"
    with pytest.raises(Conflict, match="another body"):
        await registry.publish(ME, document(title="x"), idempotency_key="k1")
    clock.advance(86_401)
    assert (await registry.publish(ME, document(), idempotency_key="k1")).changed


async def test_writers_at_once_leave_one_head_and_every_version(
    registry: Registry, database: Database
) -> None:
    results = await asyncio.gather(
        *(registry.publish(ME, document(title=f"t{number}")) for number in range(8))
    )
    head = await registry.show(ME, "rain")
    versions = (await registry.versions(ME, "rain")).items
    assert {each.digest for each in versions} == {r.version.digest for r in results}
    assert [each.digest for each in versions if each.current] == [head.digest]
    history = (await registry.history(ME, "rain")).items
    assert [each.sequence for each in history] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert history[0].digest == head.digest
    told = [entry.event for entry in await events(database)]
    assert {event.id for event in told} == {each.event for each in history}
    by_revision = {event.payload["revision"]: event for event in told}
    assert {each.sequence: each.digest for each in history} == {
        revision: event.payload["digest"] for revision, event in by_revision.items()
    }
    assert len({event.stream for event in told}) == 1
    assert all("rain" not in event.stream for event in told)


# --- the operator's hand ------------------------------------------------------------------------


async def test_pausing_and_resuming_change_what_runs_and_are_told_once(
    registry: Registry, database: Database
) -> None:
    await registry.publish(ME, document())
    for _ in range(2):
        paused = await registry.pause(ME, "rain")
        assert (paused.runnable, paused.overrides.paused, paused.revision) == (False, True, 2)
    for _ in range(2):
        resumed = await registry.resume(ME, "rain")
        assert (resumed.runnable, resumed.revision) == (True, 3)
    actions = [each.action for each in (await registry.history(ME, "rain")).items]
    assert actions == ["resumed", "paused", "published"]
    assert [entry.event.type for entry in await events(database)] == [
        "profile.published",
        "profile.paused",
        "profile.resumed",
    ]


async def test_overrides_are_in_force_and_outlive_new_versions(registry: Registry) -> None:
    await registry.publish(ME, document(schedule={"every": "1d"}, limits={"retries": 5}))
    change = OverridesChange(
        schedule=Schedule(every="10m"), limits=LimitsOverride(max_pages=7, timeout="5s")
    )
    status = await registry.override(ME, "rain", change)
    assert status.schedule == Schedule(every="10m")
    await registry.publish(ME, document(schedule={"every": "2d"}, limits={"retries": 6}))
    found = await registry.runnable(ME)
    assert found is not None
    [runs] = found.profiles
    assert runs.schedule == Schedule(every="10m")
    assert (runs.limits.max_pages, runs.limits.timeout, runs.limits.retries) == (7, "5s", 6)
    assert runs.limits_override == LimitsOverride(max_pages=7, timeout="5s")
    cleared = await registry.override(ME, "rain", OverridesChange(schedule=None, limits=None))
    assert cleared.overrides == ProfileOverrides()
    assert cleared.schedule == Schedule(every="2d")


async def test_overrides_that_make_no_sense_are_refused(registry: Registry) -> None:
    await registry.publish(ME, document())
    for change, path in (
        (OverridesChange(schedule=Schedule(every="1h", cron="0 * * * *")), "schedule"),
        (OverridesChange(schedule=Schedule(cron="often")), "schedule.cron"),
        (OverridesChange(limits=LimitsOverride(timeout="0s")), "limits.timeout"),
    ):
        with pytest.raises(Invalid) as caught:
            await registry.override(ME, "rain", change)
        assert [problem.path for problem in caught.value.problems] == [path]
    with pytest.raises(NotFound):
        await registry.pause(ME, "snow")
    assert (await registry.status(ME, "rain")).revision == 1


async def test_an_operator_who_is_late_is_refused(registry: Registry) -> None:
    await registry.publish(ME, document())
    await registry.pause(ME, "rain", expected=1)
    with pytest.raises(Conflict, match="revision 2, not 1"):
        await registry.resume(ME, "rain", expected=1)


# --- reading ------------------------------------------------------------------------------------


async def test_the_list_is_paged_by_name(registry: Registry) -> None:
    names = [f"p{number:02d}" for number in range(7)]
    for name in reversed(names):
        await registry.publish(ME, document(name=name, title=name.upper()))
    found: list[str] = []
    cursor = None
    while True:
        page = await registry.list(ME, cursor=cursor, limit=3)
        assert len(page.items) <= 3
        found += [item.name for item in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert found == names
    assert (await registry.list(ME)).items[0].title == "P00"
    with pytest.raises(Invalid):
        await registry.list(ME, cursor="not-a-cursor")


async def test_whoever_is_limited_to_profiles_has_these_in_the_list(
    service: RegistryService,
) -> None:
    for number in range(7):
        await service.publish(ME, document(name=f"p{number:02d}"))
    limited = replace(ME, profiles=frozenset({"p01", "p05", "p77"}))
    asked: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "UNION" in statement:
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert await service.count(limited) == 2
        first = await service.list(limited, limit=1)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(asked) == 2, "however many others there are"
    rest = await service.list(limited, limit=1, cursor=first.next)
    assert [item.name for item in first.items + rest.items] == ["p01", "p05"]
    assert rest.next is None
    nothing = replace(ME, profiles=frozenset[str]())
    assert ((await service.list(nothing)).items, await service.count(nothing)) == ([], 0)


async def test_history_and_versions_are_paged(registry: Registry) -> None:
    digests = [
        (await registry.publish(ME, document(title=str(number)))).version.digest
        for number in range(5)
    ]
    page = await registry.versions(ME, "rain", limit=2)
    rest = await registry.versions(ME, "rain", cursor=page.next, limit=10)
    assert [each.digest for each in [*page.items, *rest.items]] == digests[::-1]
    assert rest.next is None
    first = await registry.history(ME, "rain", limit=3)
    second = await registry.history(ME, "rain", cursor=first.next, limit=3)
    assert [each.sequence for each in [*first.items, *second.items]] == [5, 4, 3, 2, 1]
    with pytest.raises(Invalid):
        await registry.versions(ME, "rain", cursor=first.next)


async def test_asking_again_what_may_run_answers_only_after_a_change(registry: Registry) -> None:
    await registry.publish(ME, document())
    await registry.publish(ME, document(name="off", enabled=False))
    first = await registry.runnable(ME)
    assert first is not None
    assert [each.name for each in first.profiles] == ["rain"]
    assert await registry.runnable(ME, unless=first.etag) is None
    await registry.publish(ME, document())
    assert await registry.runnable(ME, unless=first.etag) is None
    await registry.pause(ME, "rain")
    second = await registry.runnable(ME, unless=first.etag)
    assert second is not None
    assert second.profiles == []
    await registry.override(
        ME, "rain", OverridesChange(paused=False, schedule=Schedule(every="1h"))
    )
    third = await registry.runnable(ME, unless=second.etag)
    assert third is not None
    assert [each.schedule for each in third.profiles] == [Schedule(every="1h")]


async def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    await registry.publish(ME, document())
    missing = "sha256:" + "f" * 64
    with pytest.raises(NotFound):
        await registry.show(ME, "snow")
    with pytest.raises(NotFound):
        await registry.show(ME, "rain", missing)
    with pytest.raises(NotFound):
        await registry.versions(ME, "snow")
    with pytest.raises(NotFound):
        await registry.history(ME, "snow")
    with pytest.raises(NotFound):
        await registry.diff(ME, "rain", missing)


async def test_another_tenant_sees_nothing(service: RegistryService, database: Database) -> None:
    other = operator(TenantId("other"))
    result = await service.publish(ME, document())
    for wanted in (None, result.version.digest):
        with pytest.raises(NotFound):
            await service.show(other, "rain", wanted)
    with pytest.raises(NotFound):
        await service.pause(other, "rain")
    assert (await service.list(other)).items == []
    found = await service.runnable(other)
    assert found is not None
    assert found.profiles == []
    assert await service.files(other) == []
    assert await events(database, other) == []
    await service.publish(other, document(title="theirs"))
    assert (await service.show(ME, "rain")).profile.title == ""


async def test_a_refused_event_takes_the_change_with_it(
    database: Database, clock: ManualClock
) -> None:
    """State and evidence commit together: an event the ledger would refuse undoes the change."""
    ids = iter(["not an id"] * 2 + ["still not"] * 2)
    broken = RegistryService(database, Outbox(ClearSealer()), clock, lambda: next(ids))
    with pytest.raises(Invalid, match="cannot append"):
        await broken.publish(ME, document())
    with pytest.raises(NotFound):
        await broken.status(ME, "rain")


async def test_a_name_that_can_be_none_is_not_found(registry: Registry) -> None:
    await registry.publish(ME, document())
    for name in ("..", "a/b", "a\0b", "Ä", "x" * 300, "%00"):
        for call in (registry.show, registry.status, registry.versions, registry.pause):
            with pytest.raises(NotFound):
                await call(ME, name)
        with pytest.raises(NotFound):
            await registry.show(ME, "rain", "sha256:" + name.replace("\0", ""))


async def test_a_cursor_of_somebodys_own_making_is_refused(registry: Registry) -> None:
    await registry.publish(ME, document())
    positions: list[list[Any]] = [[], ["x", 1], [None], [1.5], [True], ["a\0"], [{"a": 1}]]
    for position in positions:
        with pytest.raises(Invalid, match="cursor"):
            await registry.list(ME, cursor=encode_cursor("profiles", position))
        with pytest.raises(Invalid, match="cursor"):
            await registry.versions(ME, "rain", cursor=encode_cursor("profile-versions", position))


# --- over HTTP only -----------------------------------------------------------------------------


async def test_writing_needs_the_permission_to_write(api: ApiClient) -> None:
    api_headers = {"Authorization": "Bearer reader"}
    yaml = api_headers | {"Content-Type": "application/yaml"}
    for method, path, more in (
        ("POST", "/v1/profiles", {"content": document(), "headers": yaml}),
        ("PUT", "/v1/profiles/rain/overrides", {"json": {}, "headers": api_headers}),
        ("POST", "/v1/profiles/rain/pause", {"json": {}, "headers": api_headers}),
        ("POST", "/v1/profiles/rain/resume", {"json": {}, "headers": api_headers}),
    ):
        with pytest.raises(Denied, match="profiles:write"):
            await api.request(method, path, **more)
    assert await api.request("GET", "/v1/profiles", headers=api_headers, type=dict)


async def test_versions_have_etags_and_may_be_kept(api: ApiClient) -> None:
    result = await RegistryClient(api).publish(ME, document())
    digest = result.version.digest
    for path in ("/v1/profiles/rain", f"/v1/profiles/rain/versions/{digest}"):
        async with api.stream("GET", path) as response:
            assert response.headers["etag"] == f'"{digest}"'
            await response.aread()
    assert "immutable" in response.headers["cache-control"]
    async with api.stream("GET", "/v1/profiles/rain/status") as response:
        assert response.headers["etag"] == '"1"'


async def test_what_may_run_is_answered_304_while_nothing_changed(api: ApiClient) -> None:
    async with api.stream("GET", "/v1/profiles/runnable") as response:
        etag = response.headers["etag"]
        await response.aread()
    for sent in (etag, f"W/{etag}"):
        headers = {"If-None-Match": sent}
        async with api.stream("GET", "/v1/profiles/runnable", headers=headers) as response:
            assert response.status_code == 304
            assert response.headers["etag"] == etag
            assert await response.aread() == b""


async def test_strange_headers_and_bodies_are_refused(api: ApiClient) -> None:
    await RegistryClient(api).publish(ME, document())
    with pytest.raises(Invalid, match="If-Match"):
        await api.request("POST", "/v1/profiles/rain/pause", json={}, headers={"If-Match": '"x"'})
    with pytest.raises(Invalid, match="banana"):
        await api.request("PUT", "/v1/profiles/rain/overrides", json={"banana": 1})
    with pytest.raises(Unsupported):
        await api.request(
            "POST", "/v1/profiles", content=document(), headers={"Content-Type": "text/plain"}
        )
    with pytest.raises(Invalid):
        await api.request("POST", "/v1/profiles", json={"name": "x"})


async def test_the_schema_is_served(api: ApiClient) -> None:
    schema = await api.request("GET", "/v1/profiles/schema", type=dict)
    assert schema["$defs"]["Profile"]["required"] == [
        "version",
        "name",
        "publisher",
        "licence",
        "source",
        "key",
    ]


# --- when the process dies ----------------------------------------------------------------------


async def test_a_restart_finds_everything(
    service: RegistryService, database: Database, clock: ManualClock
) -> None:
    await service.publish(ME, document(schedule={"every": "1d"}))
    await service.override(ME, "rain", OverridesChange(limits=LimitsOverride(retries=9)))
    before = await service.runnable(ME)
    after = await RegistryService(
        database, Outbox(ClearSealer()), clock, id_source(clock)
    ).runnable(ME)
    assert after == before


async def test_a_stored_version_is_the_canonical_form_itself(
    service: RegistryService, database: Database
) -> None:
    result = await service.publish(ME, document())
    stored = await database.read(
        ME,
        lambda conn: conn.execute(
            text("SELECT canonical FROM profile_versions WHERE tenant = :tenant"),
            {"tenant": ME.tenant},
        ).scalar_one(),
    )
    assert stored.encode() == canonical_profile(result.version.profile)


async def test_profiles_are_counted_as_the_list_has_them(
    registry: Registry, service: RegistryService
) -> None:
    assert await registry.count(ME) == 0
    for name in ("a", "b", "c"):
        await service.publish(ME, document(name=name))
    theirs = operator(TenantId("other"))
    await service.publish(theirs, document(name="d"))
    found = await registry.list(ME)
    assert await registry.count(ME) == len(found.items) == 3
