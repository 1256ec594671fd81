"""The folder of trusted keys: each file ends, or keeps, its own keys and nobody else's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Corrupt, Unauthenticated
from holdfast.kernel.signing import SigningKey, Verifier
from holdfast.kernel.trusted import (
    FOLDER_GONE_SECONDS,
    KEPT_SECONDS,
    PUBLIC_BYTES_MAX,
    REREAD_SECONDS,
    TrustedFolder,
    TrustedKeys,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYP = "holdfast-test+jwt"
KEY = SigningKey.from_seed(b"\x01" * 32)
OTHER = SigningKey.from_seed(b"\x02" * 32)
NEXT = SigningKey.from_seed(b"\x03" * 32)


class Trust:
    """A folder with the coordinator's and the gateway's key, and who is believed by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = KEY.write_public(folder, "coordinator")
        self.gateway = OTHER.write_public(folder, "gateway")
        self.clock = ManualClock(NOW)
        self.keys = TrustedFolder(folder, self.clock)
        self.verifier = Verifier(self.keys, self.clock)

    def later(self, seconds: float = REREAD_SECONDS) -> None:
        self.clock.advance(seconds)

    def believes(self, key: SigningKey, issuer: str) -> bool:
        ends = int((self.clock.now() + timedelta(seconds=30)).timestamp())
        try:
            self.verifier.verify(key.sign({"iss": issuer, "exp": ends}, typ=TYP), typ=TYP)
        except Unauthenticated:
            return False
        return True


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "trusted")


def break_file(path: Path, how: str) -> None:
    if how == "half":
        path.write_text("half")
    elif how == "unreadable":  # to root, too
        path.unlink()
        path.mkdir()
    elif how == "a pipe":  # that nobody writes into
        path.unlink()
        os.mkfifo(path)
    elif how == "huge":
        path.write_text(" " * PUBLIC_BYTES_MAX + json.dumps(NEXT.public_jwk()))
    elif how == "private":
        jwk = KEY.public_jwk() | {"d": urlsafe_b64encode(b"\x01" * 32).rstrip(b"=").decode()}
        path.write_text(json.dumps(jwk))
    else:
        path.write_text(json.dumps({"keys": [NEXT.public_jwk(), {}]}))


BROKEN = pytest.mark.parametrize(
    "how", ["half", "unreadable", "a pipe", "huge", "private", "one of two"]
)


async def test_whoever_comes_is_known_at_once_also_right_after_a_stranger(trust: Trust) -> None:
    assert not trust.believes(NEXT, "aggregator")
    NEXT.write_public(trust.folder, "aggregator")
    assert trust.believes(NEXT, "aggregator")
    assert trust.keys.issuers == {"aggregator", "coordinator", "gateway"}
    assert await trust.keys.check() is None


@pytest.mark.parametrize("how", ["taken out", "another in its place"])
async def test_whose_key_was_taken_out_of_the_folder_is_nobody_soon(trust: Trust, how: str) -> None:
    assert trust.believes(OTHER, "gateway")
    if how == "taken out":
        trust.gateway.unlink()
    else:
        trust.gateway.write_text(json.dumps(NEXT.public_jwk()))
    trust.later()
    assert not trust.believes(OTHER, "gateway")
    assert trust.believes(NEXT, "gateway") == (how != "taken out")
    assert trust.believes(KEY, "coordinator")
    assert await trust.keys.check() is None


@BROKEN
async def test_a_key_that_was_taken_out_ends_though_its_neighbour_is_broken(
    trust: Trust, how: str
) -> None:
    break_file(trust.coordinator, how)
    trust.gateway.unlink()
    trust.later()
    assert not trust.believes(OTHER, "gateway")
    assert trust.believes(KEY, "coordinator")
    trust.later(3600)
    assert not trust.believes(OTHER, "gateway")


@BROKEN
async def test_a_broken_file_keeps_its_own_last_keys_as_long_as_it_is_there_and_is_told_of(
    trust: Trust, how: str
) -> None:
    with capture_logs() as told:
        break_file(trust.gateway, how)
        for _ in range(3):
            trust.later()
            assert trust.believes(OTHER, "gateway")
            assert await trust.keys.check() == "degraded"
        assert not trust.believes(NEXT, "gateway")
        [line] = [each for each in told if each["event"] == "trusted.kept"]
        assert "gateway" in line["detail"]
        assert line["log_level"] == "warning"
        trust.gateway.rmdir() if how == "unreadable" else trust.gateway.unlink()
        trust.later()
        assert not trust.believes(OTHER, "gateway")
        assert await trust.keys.check() is None
    assert [each["event"] for each in told][-2:] == ["trusted.ended", "trusted.well"]


async def test_what_nobody_asks_for_is_read_beside_whoever_is_served(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, opens = set(), os.open

    def opened(*given: Any, **named: Any) -> int:
        read.add(threading.current_thread())
        return opens(*given, **named)

    monkeypatch.setattr(os, "open", opened)
    keeping = asyncio.create_task(trust.keys.keep())
    try:
        trust.gateway.unlink()
        async with asyncio.timeout(60):
            while trust.keys.issuers != {"coordinator"}:
                trust.later(KEPT_SECONDS)
                await asyncio.sleep(0)
        assert read
        assert threading.current_thread() not in read
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_nobody_takes_the_key_of_another_by_a_file(trust: Trust) -> None:
    (trust.folder / "auditor.pub.jwk").write_text(json.dumps(OTHER.public_jwk()))
    trust.later()
    assert trust.believes(OTHER, "gateway")
    assert not trust.believes(OTHER, "auditor")
    assert await trust.keys.check() == "degraded"
    trust.gateway.unlink()  # then it is the other's
    trust.later()
    assert trust.believes(OTHER, "auditor")
    assert await trust.keys.check() is None


@pytest.mark.parametrize("how", ["gone", "an empty one in its place", "a file in its place"])
async def test_a_folder_that_is_gone_is_told_of_and_its_keys_end_after_a_bounded_time(
    trust: Trust, how: str
) -> None:
    away = trust.folder.rename(trust.folder.with_name("away"))
    if how.startswith("an empty"):
        trust.folder.mkdir()
    elif how.startswith("a file"):
        trust.folder.touch()
    with capture_logs() as told:
        trust.later()
        assert trust.believes(OTHER, "gateway")
        assert await trust.keys.check() == "degraded"
        trust.later(FOLDER_GONE_SECONDS - 1)
        assert trust.believes(OTHER, "gateway")
        trust.later()
        assert not trust.believes(OTHER, "gateway")
        assert await trust.keys.check() == "degraded"
        trust.later()
        assert await trust.keys.check() == "degraded"
    levels = [(each["event"], each["log_level"]) for each in told]
    assert levels == [("trusted.kept", "warning"), ("trusted.ended", "error")]
    assert str(trust.folder) in told[0]["detail"]
    if trust.folder.is_dir():
        trust.folder.rmdir()
    trust.folder.unlink(missing_ok=True)
    away.rename(trust.folder)
    trust.later()
    assert trust.believes(OTHER, "gateway")
    assert await trust.keys.check() is None


async def test_a_folder_that_came_back_has_all_of_the_time_again(trust: Trust) -> None:
    away = trust.folder.with_name("away")
    for _ in range(2):
        trust.folder.rename(away)
        trust.later()
        assert trust.believes(OTHER, "gateway")
        trust.later(FOLDER_GONE_SECONDS - 1)
        assert trust.believes(OTHER, "gateway")
        away.rename(trust.folder)
        trust.later()
        assert trust.believes(OTHER, "gateway")


async def test_a_folder_that_somebody_emptied_ends_all_keys_at_once(trust: Trust) -> None:
    shutil.copytree(trust.folder, trust.folder.with_name("copy"))
    for file in trust.folder.iterdir():
        file.unlink()
    trust.later()
    assert not trust.believes(OTHER, "gateway")
    assert not trust.believes(KEY, "coordinator")
    assert await trust.keys.check() is None


async def test_a_folder_put_in_the_place_of_another_counts_as_it_is(trust: Trust) -> None:
    trust.folder.rename(trust.folder.with_name("away"))
    KEY.write_public(trust.folder, "coordinator")
    trust.later()
    assert trust.believes(KEY, "coordinator")
    assert not trust.believes(OTHER, "gateway")
    assert await trust.keys.check() is None


def test_two_keys_of_one_issuer_are_trusted_at_a_time(trust: Trust) -> None:
    trust.coordinator.write_text(json.dumps({"keys": [KEY.public_jwk(), NEXT.public_jwk()]}))
    trust.later()
    assert trust.believes(KEY, "coordinator")
    assert trust.believes(NEXT, "coordinator")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"keys":1}',
        '{"keys":[1]}',
        '{"kty":"OKP","crv":"Ed25519","x":"short"}',
        json.dumps(KEY.public_jwk() | {"kid": "another"}),
        json.dumps(NEXT.public_jwk() | {"d": urlsafe_b64encode(b"\x03" * 32).decode()[:-1]}),
        json.dumps(OTHER.public_jwk()),
    ],
)
async def test_a_broken_public_key_refuses_a_start_and_is_nobodys_when_it_comes_later(
    trust: Trust, content: str
) -> None:
    (trust.folder / "reporter.pub.jwk").write_text(content)
    with pytest.raises(Corrupt):
        TrustedFolder(trust.folder, trust.clock)
    trust.later()
    assert trust.keys.issuers == {"coordinator", "gateway"} == trust.keys.issuers
    assert trust.believes(KEY, "coordinator")
    assert await trust.keys.check() == "degraded"


def test_a_start_without_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="No such file"):
        TrustedFolder(tmp_path / "trusted", ManualClock(NOW))


def test_one_key_cannot_belong_to_two_issuers() -> None:
    with pytest.raises(Corrupt):
        TrustedKeys({"a": [KEY.public_jwk()], "b": [KEY.public_jwk()]})
