"""Published keys: fetched ahead of need, looked for again when one is new, kept when none come."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from holdfast.identity.bearer import BearerTokens, TokensOfBoth
from holdfast.identity.jwks import AGAIN_SECONDS, FRESH_SECONDS, KeySets, public_keys
from holdfast.identity.tokens import shared_secret
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated, Unavailable

SECRET = bytes(range(32))
STALE = 6 * 3600.0
ISSUER, AUDIENCE = "https://issuer.example", "holdfast"


class Publisher:
    """Where keys are published: what it answers can be changed, and it may hang."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {
            "RS256": RSAKey.generate_key(2048, {"kid": "r"}),
            "ES256": ECKey.generate_key("P-256", {"kid": "e"}),
            "Ed25519": OKPKey.generate_key("Ed25519", {"kid": "o", "alg": "Ed25519"}),
        }
        self.answer: Any = None
        self.asked = 0
        self.hangs: asyncio.Event | None = None

    async def fetch(self, url: str) -> bytes:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return bytes(self.answer)
        keys = [key.as_dict(private=False) for key in self.keys.values()]
        return json.dumps({"keys": keys}).encode()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC))


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def kept(publisher: Publisher, clock: ManualClock) -> KeySets:
    return KeySets("https://issuer.example/jwks", publisher.fetch, clock, stale_seconds=STALE)


@pytest.fixture
def tokens(kept: KeySets, clock: ManualClock) -> TokensOfBoth:
    return TokensOfBoth(
        BearerTokens([shared_secret(SECRET)], b"naming", clock),
        BearerTokens(kept, b"another", clock, issuer=ISSUER, audience=AUDIENCE),
    )


def token(clock: ManualClock, key: Any, alg: str, **claims: Any) -> str:
    now = int(clock.now().timestamp())
    given = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 60, **claims}
    header = {"alg": alg, **({"kid": key.kid} if key.kid else {})}
    return jwt.encode(header, given, key, algorithms=[alg])


def segment(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_tokens_under_every_kind_of_published_key(
    tokens: TokensOfBoth, publisher: Publisher, clock: ManualClock
) -> None:
    names = set()
    for alg, key in publisher.keys.items():
        found = await tokens.principal(token(clock, key, alg, tenant="t2"))
        assert found.tenant == "t2"
        names.add(found.subject)
    assert len(names) == 1
    assert publisher.asked == 1
    secret = OctKey.import_key(SECRET)
    assert (await tokens.principal(token(clock, secret, "HS256"))).subject not in names


@pytest.mark.parametrize(
    "claims",
    [{"iss": "https://other.example"}, {"aud": "other"}, {"aud": None}, {"exp": None}, {"exp": 1}],
)
async def test_a_good_signature_is_not_enough(
    tokens: TokensOfBoth, publisher: Publisher, clock: ManualClock, claims: dict[str, Any]
) -> None:
    key = publisher.keys["ES256"]
    given = {name: value for name, value in claims.items() if value is not None}
    made = token(clock, key, "ES256", **given)
    if given != claims:
        now = int(clock.now().timestamp())
        left = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 60}
        del left[next(iter(claims))]
        made = jwt.encode({"alg": "ES256", "kid": "e"}, left, key, algorithms=["ES256"])
    with pytest.raises(Unauthenticated):
        await tokens.principal(made)


async def test_a_published_key_is_never_a_secret(
    tokens: TokensOfBoth, publisher: Publisher, clock: ManualClock
) -> None:
    public = publisher.keys["RS256"].as_pem(private=False)
    body = token(clock, publisher.keys["RS256"], "RS256").split(".")[1]
    head = segment(b'{"alg":"HS256","kid":"r"}')
    signed = f"{head}.{body}"  # no library would make it
    mac = segment(hmac.new(public, signed.encode(), hashlib.sha256).digest())
    with pytest.raises(Unauthenticated):
        await tokens.principal(f"{signed}.{mac}")
    stranger = RSAKey.generate_key(2048, {"kid": "r"})
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(clock, stranger, "RS256"))
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(clock, publisher.keys["RS256"], "RS384"))


async def test_a_new_key_is_looked_for_and_not_at_every_token(
    tokens: TokensOfBoth, publisher: Publisher, clock: ManualClock
) -> None:
    await tokens.principal(token(clock, publisher.keys["ES256"], "ES256"))
    new = publisher.keys["ES256"] = ECKey.generate_key("P-256", {"kid": "e2"})
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(clock, new, "ES256"))
    assert publisher.asked == 1
    clock.advance(AGAIN_SECONDS)
    await tokens.principal(token(clock, new, "ES256"))
    assert publisher.asked == 2
    stranger = ECKey.generate_key("P-256", {"kid": "nobody's"})
    for _ in range(50):
        clock.advance(1)
        with pytest.raises(Unauthenticated):
            await tokens.principal(token(clock, stranger, "ES256"))
    assert publisher.asked == 2 + 5


@pytest.mark.parametrize(
    "answer",
    [
        Unavailable("cannot fetch: nobody answers"),
        b"<html>",
        b"{}",
        b"[]",
        b'{"keys": {}}',
        json.dumps({"keys": [{"kty": "EC"}] * 101}).encode(),
    ],
)
async def test_the_last_good_keys_hold_for_the_stated_time_and_it_says_so(
    kept: KeySets, publisher: Publisher, clock: ManualClock, answer: Any
) -> None:
    loop = asyncio.create_task(kept.keep())
    try:
        assert await kept.check() == "degraded"
        held = await kept.keys("e")
        assert await kept.check() is None
        publisher.answer = answer
        for _ in range(int((STALE - 60) / 600)):
            clock.advance(600)
            await asyncio.sleep(0)
            assert await kept.keys("e") == held
        assert await kept.check() == "degraded"
        clock.advance(700)
        with pytest.raises(Unavailable) as found:
            await kept.keys("e")
        assert (found.value.code, found.value.retry_after_seconds) == (
            "jwks-unreachable",
            AGAIN_SECONDS,
        )
        publisher.answer = None
        clock.advance(AGAIN_SECONDS)
        assert len(await kept.keys("e")) == 3
        assert await kept.check() is None
    finally:
        loop.cancel()


ODD: dict[str, Any] = {
    "weak": {"kty": "RSA", "e": "AQAB", "n": "_" * 170, "kid": "weak"},
    "secret": OctKey.import_key(SECRET, {"kid": "secret"}).as_dict(),
    "private": ECKey.generate_key("P-256", {"kid": "private"}).as_dict(private=True),
    "broken": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
    "no key": 7,
    "odd use": {"kty": "RSA", "key_ops": 5},
    "odd algorithm": {"kty": "oct", "alg": []},
    "odd id": ECKey.generate_key("P-256").as_dict(private=False) | {"kid": 7},
}


@pytest.mark.parametrize("odd", sorted(ODD))
async def test_an_odd_key_is_passed_over_and_the_others_of_its_set_hold(
    kept: KeySets, publisher: Publisher, odd: str
) -> None:
    good = [key.as_dict(private=False) for key in publisher.keys.values()]
    publisher.answer = json.dumps({"keys": [ODD[odd], *good]}).encode()
    assert [key.kid for key in await kept.keys("e")] == ["r", "e", "o"]
    assert await kept.check() is None
    [said] = public_keys(json.loads(publisher.answer))[1]
    assert not said.endswith(": "), said


async def test_of_two_keys_with_one_id_neither_is_taken(
    kept: KeySets, publisher: Publisher
) -> None:
    good = [key.as_dict(private=False) for key in publisher.keys.values()]
    other = ECKey.generate_key("P-256", {"kid": "r"}).as_dict(private=False)
    publisher.answer = json.dumps({"keys": [*good, other]}).encode()
    assert [key.kid for key in await kept.keys("e")] == ["e", "o"]


@pytest.mark.parametrize("entries", [[], [ODD["weak"]]])
async def test_a_set_without_a_key_of_use_ends_all_and_is_told_from_one_that_cannot_be_had(
    kept: KeySets, publisher: Publisher, clock: ManualClock, entries: list[Any]
) -> None:
    await kept.keys("e")
    publisher.answer = json.dumps({"keys": entries}).encode()
    clock.advance(FRESH_SECONDS)
    with pytest.raises(Unauthenticated) as found:
        await kept.keys("e")
    assert found.value.code == "jwks-empty"
    assert await kept.check() == "degraded"
    publisher.answer = None
    clock.advance(AGAIN_SECONDS)
    assert len(await kept.keys("e")) == 3


async def test_a_publisher_that_is_back_is_found_out_though_nobody_asks_for_a_key(
    kept: KeySets, publisher: Publisher, clock: ManualClock
) -> None:
    loop = asyncio.create_task(kept.keep())
    try:
        await kept.keys("e")
        publisher.answer = Unavailable("cannot fetch: nobody answers")
        clock.advance(AGAIN_SECONDS)
        await kept.keys("unknown")
        assert await kept.check() == "degraded"
        publisher.answer = None
        clock.advance(60)
        for _ in range(5):
            await asyncio.sleep(0)
        assert await kept.check() is None
    finally:
        loop.cancel()


async def test_a_publisher_that_hangs_holds_nobody_up_whose_key_is_there(
    kept: KeySets, publisher: Publisher, clock: ManualClock
) -> None:
    loop = asyncio.create_task(kept.keep())
    held = await kept.keys("e")
    publisher.hangs = asyncio.Event()
    clock.advance(FRESH_SECONDS)
    waiting = asyncio.create_task(kept.keys("unknown"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert publisher.asked == 2
    assert await kept.keys("e") == held  # would hang with the fetch, if it waited for it
    assert not waiting.done()
    publisher.hangs.set()
    assert await waiting == held
    loop.cancel()
