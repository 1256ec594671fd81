"""The operator's file of keys, and tokens signed with the operator's secret."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from holdfast.gateway.door import DoorAuthenticator
from holdfast.identity import OperatorToken
from holdfast.identity.bearer import BearerTokens
from holdfast.identity.keyfile import KeyFile, parse
from holdfast.identity.model import ROLES
from holdfast.identity.tokens import LEEWAY_SECONDS, shared_secret
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Denied, HoldfastError, Invalid, Unauthenticated
from holdfast.kernel.http.standing import CREDENTIAL_ENDED, STANDING
from holdfast.kernel.principal import Permission, PrincipalKind

NEWS, EXPORT = "n" * 32, "e" * 40
SECRET = bytes(range(32))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def listed(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def test_a_key_may_do_what_the_file_says() -> None:
    sha = hashlib.sha256(EXPORT.encode()).hexdigest()
    found = parse(
        listed(
            {"name": "news", "key": NEWS, "roles": ["viewer"]},
            {"sha256": sha, "permissions": ["records:export"], "profiles": ["a"], "tenant": "t2"},
        ),
        "file",
    )
    news = found[hashlib.sha256(NEWS.encode()).digest()]
    export = found[bytes.fromhex(sha)]
    assert (news.tenant, news.permissions, news.profiles) == ("default", ROLES["viewer"], None)
    assert export.tenant == "t2"
    assert export.permissions == {Permission.RECORDS_EXPORT}
    assert export.profiles == {"a"}
    assert NEWS not in repr(found)
    assert "news" not in news.subject


def test_the_shorter_form_means_the_same() -> None:
    short = parse(json.dumps({NEWS: {"roles": ["viewer"]}}).encode(), "file")
    assert short == parse(listed({"key": NEWS, "roles": ["viewer"]}), "file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        NEWS.encode(),
        b"[]",
        b"{}",
        b"7",
        b'{"keys": 7}',
        json.dumps([NEWS]).encode(),
        json.dumps({NEWS: "viewer"}).encode(),
        listed({"key": "short", "roles": ["viewer"]}),
        listed({"roles": ["viewer"]}),
        listed({"key": NEWS, "sha256": "0" * 64, "roles": ["viewer"]}),
        listed({"key": NEWS}),
        listed({"key": NEWS, "roles": ["viewer"], "tenant": "../other"}),
        listed({"key": NEWS, "roles": ["boss"]}),
        listed({"key": NEWS, "permissions": ["tasks:work"]}),
        listed({"key": NEWS, "roles": ["viewer"], "role": "admin"}),
        listed({"key": NEWS, "roles": ["viewer"]}, {"key": NEWS, "roles": ["admin"]}),
        b'{"' + NEWS.encode() + b'": {"roles": ["viewer"]}, "' + NEWS.encode() + b'": {}}',
    ],
)
def test_a_file_that_is_wrong_admits_nobody_and_shows_no_key(content: bytes) -> None:
    with pytest.raises(Invalid) as found:
        parse(content, "file")
    shown = f"{found.value.detail} {found.value.hint} {found.value.problems}"
    assert NEWS not in shown


async def test_an_edit_counts_within_the_stated_time_and_a_bad_one_changes_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(listed({"key": NEWS, "roles": ["viewer"]}))
    keys = KeyFile(path, 30, clock)
    assert keys.find(NEWS) is not None
    assert keys.find("{") is None
    path.write_bytes(b'{"keys": [')
    clock.advance(30)
    assert keys.find(NEWS) is not None
    assert await keys.check() == "degraded"
    path.write_bytes(b"{}")
    clock.advance(30)
    assert keys.find(NEWS) is not None
    assert await keys.check() == "degraded"
    path.unlink()
    clock.advance(30)
    assert keys.find(NEWS) is not None
    assert await keys.check() == "degraded"
    path.write_bytes(listed({"key": EXPORT, "roles": ["admin"]}))
    clock.advance(29)
    assert keys.find(EXPORT) is None
    clock.advance(1)
    assert keys.find(NEWS) is None
    assert keys.find(EXPORT) is not None
    assert await keys.check() is None
    path.write_bytes(b'{"keys": []}')
    clock.advance(30)
    assert (keys.find(EXPORT), await keys.check()) == (None, None)


async def test_keys_that_anybody_may_have_written_are_not_taken(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(listed({"key": NEWS, "roles": ["viewer"]}))
    path.chmod(0o620)
    with pytest.raises(Invalid, match="others may write it") as refused:
        KeyFile(path, 30, clock)
    assert (refused.value.code, f"chmod 600 {path}" in refused.value.hint) == (
        "secret-exposed",
        True,
    )
    path.chmod(0o600)
    keys = KeyFile(path, 30, clock)
    path.write_bytes(listed({"key": EXPORT, "roles": ["admin"]}))
    path.chmod(0o666)
    clock.advance(30)
    assert (keys.find(EXPORT), keys.find(NEWS) is not None) == (None, True)
    assert await keys.check() == "degraded"
    path.chmod(0o640)
    clock.advance(30)
    assert (keys.find(NEWS), keys.find(EXPORT) is not None) == (None, True)
    assert await keys.check() is None


# --- tokens -------------------------------------------------------------------------------------


def token(clock: ManualClock, **claims: Any) -> str:
    now = int(clock.now().timestamp())
    given = {"sub": "ada@example.org", "exp": now + 60, **claims}
    return jwt.encode({"alg": "HS256"}, given, OctKey.import_key(SECRET))


@pytest.fixture
def tokens(clock: ManualClock) -> BearerTokens:
    return BearerTokens([shared_secret(SECRET)], b"naming", clock)


async def test_a_token_says_who_where_and_what(tokens: BearerTokens, clock: ManualClock) -> None:
    found = await tokens.principal(token(clock, tenant="t2", roles=["auditor", "their-own"]))
    assert (found.tenant, found.kind) == ("t2", PrincipalKind.FOREIGN)
    assert found.permissions == ROLES["auditor"]
    assert "ada" not in found.subject
    assert found.subject == (await tokens.principal(token(clock))).subject
    assert found.subject != (await tokens.principal(token(clock, iss="elsewhere"))).subject
    assert found.subject != (await tokens.principal(token(clock, sub="bob@example.org"))).subject


@pytest.mark.parametrize(
    ("claims", "permissions"),
    [
        ({}, ROLES["viewer"]),
        ({"roles": ["unknown"]}, ROLES["viewer"]),
        ({"role": "operator"}, ROLES["operator"]),
        ({"roles": "viewer operator"}, ROLES["operator"]),
        ({"permissions": ["records:read", "tasks:work", "public", 7]}, {Permission.RECORDS_READ}),
        ({"roles": {"admin": True}}, ROLES["viewer"]),
    ],
)
async def test_what_a_token_may_do(
    tokens: BearerTokens,
    clock: ManualClock,
    claims: dict[str, Any],
    permissions: frozenset[Permission],
) -> None:
    assert (await tokens.principal(token(clock, **claims))).permissions == permissions


@pytest.mark.parametrize(
    "claims", [{"sub": ""}, {"sub": 7}, {"sub": "x" * 256}, {"tenant": 7}, {"tenant": "../other"}]
)
async def test_a_token_of_nobody_is_refused(
    tokens: BearerTokens, clock: ManualClock, claims: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(clock, **claims))


# --- at the door --------------------------------------------------------------------------------


def door(tmp_path: Path, clock: ManualClock, *, required: bool) -> DoorAuthenticator:
    path = tmp_path / "keys.json"
    path.write_bytes(listed({"key": NEWS, "roles": ["viewer"], "tenant": "t2"}))

    async def nobody(credential: str, *more: str | None) -> Any:
        raise Unauthenticated("cannot do this: nobody")

    return DoorAuthenticator(
        OperatorToken("hfo_token"),
        nobody,
        nobody,
        nobody,
        clock,
        listed=KeyFile(path, 30, clock),
        tokens=BearerTokens([shared_secret(SECRET)], b"naming", clock),
        tenant_required=required,
    )


def scope(bearer: str, *tenants: str) -> dict[str, Any]:
    named = [(b"x-tenant-id", tenant.encode()) for tenant in tenants]
    return {"method": "GET", "headers": [(b"authorization", f"Bearer {bearer}".encode()), *named]}


async def test_what_was_begun_ends_with_its_token_and_its_line_in_the_file(
    tmp_path: Path, clock: ManualClock
) -> None:
    each = door(tmp_path, clock, required=False)
    by_token, by_key = scope(token(clock, exp=int(clock.now().timestamp()) + 10)), scope(NEWS)
    await each(by_token)
    await each(by_key)
    clock.advance(10 + LEEWAY_SECONDS - 1)  # five seconds and more: both are asked about
    await by_token[STANDING].check()
    await by_key[STANDING].check()
    (tmp_path / "keys.json").write_bytes(listed())
    clock.advance(30)
    for over in (by_token, by_key):
        with pytest.raises(Unauthenticated) as found:
            await over[STANDING].check()
        assert found.value.code == CREDENTIAL_ENDED


async def test_the_tenant_is_the_credentials_own(tmp_path: Path, clock: ManualClock) -> None:
    open_ = door(tmp_path, clock, required=False)
    strict = door(tmp_path, clock, required=True)
    assert (await open_(scope(NEWS))).tenant == "t2"
    assert (await strict(scope(NEWS, "t2"))).tenant == "t2"
    assert (await strict(scope("hfo_token"))).kind is PrincipalKind.OPERATOR
    for each in (open_, strict):
        for tenants in (("default",), ("t2", "default"), ("",)):
            with pytest.raises(Denied) as found:
                await each(scope(NEWS, *tenants))
            assert found.value.code == "tenant-mismatch"
    with pytest.raises(Denied) as found:
        await strict(scope(token(clock)))
    assert found.value.code == "tenant-required"


async def test_a_program_is_somebody_and_may_see_to_what_is_its_own(
    tmp_path: Path, clock: ManualClock
) -> None:
    admit = door(tmp_path, clock, required=False)
    for bearer in (NEWS, token(clock)):
        assert (await admit(scope(bearer))).may(Permission.SELF)


async def test_what_is_not_known_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    admit = door(tmp_path, clock, required=False)
    for bearer in ("{", "x" * 32, "a.b.c", NEWS[:-1], "hf_x", "hfw_x"):
        with pytest.raises(HoldfastError) as found:
            await admit(scope(bearer))
        assert isinstance(found.value, Unauthenticated)
