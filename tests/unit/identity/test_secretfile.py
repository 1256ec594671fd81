"""A token secret in a file: the one that is there now counts, and a bad edit changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from holdfast.identity.bearer import BearerTokens
from holdfast.identity.secretfile import LOOK_SECONDS, TokensOfFile
from holdfast.identity.tokens import shared_secret
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Invalid, Unauthenticated

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, 12, tzinfo=UTC))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "secret"
    found.touch(mode=0o600)
    found.write_bytes(OLD + b"\n")
    return found


def of(file: Path, clock: ManualClock) -> TokensOfFile:
    return TokensOfFile(
        file, lambda secret: BearerTokens([shared_secret(secret)], secret, clock), clock
    )


def token(secret: bytes, clock: ManualClock) -> str:
    claims = {"sub": "ada", "exp": int(clock.now().timestamp()) + 60}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))


async def test_a_secret_that_was_replaced_is_in_force_soon_and_the_old_one_over(
    file: Path, clock: ManualClock
) -> None:
    tokens = of(file, clock)
    await tokens.principal(token(OLD, clock))
    file.write_bytes(NEW)
    clock.advance(LOOK_SECONDS)
    await tokens.principal(token(NEW, clock))
    with pytest.raises(Unauthenticated):
        await tokens.principal(token(OLD, clock))
    assert await tokens.check() is None


@pytest.mark.parametrize("edit", ["short", "gone", "writable"])
async def test_a_secret_that_is_of_no_use_changes_nothing_and_it_says_so(
    file: Path, clock: ManualClock, edit: str
) -> None:
    tokens = of(file, clock)
    if edit == "short":
        file.write_bytes(b"short")
    elif edit == "gone":
        file.unlink()
    else:
        file.write_bytes(NEW)
        file.chmod(0o666)
    clock.advance(LOOK_SECONDS)
    await tokens.principal(token(OLD, clock))
    assert await tokens.check() == "degraded"
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_bytes(NEW)
    clock.advance(LOOK_SECONDS)
    assert await tokens.check() is None
    await tokens.principal(token(NEW, clock))


def test_a_start_with_a_secret_of_no_use_is_refused(file: Path, clock: ManualClock) -> None:
    file.write_bytes(b"short")
    with pytest.raises(Invalid):
        of(file, clock)
    file.unlink()
    with pytest.raises(Invalid):
        of(file, clock)
