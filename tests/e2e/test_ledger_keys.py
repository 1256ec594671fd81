"""API keys at the served ledger's own door: asked about at the identity role of another process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from pysqlite3 import dbapi2

from holdfast.app.elsewhere import TenantClients
from holdfast.identity.client import IdentityClient
from holdfast.identity.hop import HopSigner
from holdfast.identity.model import ApiKeyCreate, NewApiKey
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import operator
from holdfast.kernel.signing import SigningKey
from tests.support.program import Program, started, wait_until
from tests.support.stack import free_port

pytestmark = pytest.mark.timeout(1200)

SECRET = "a secret of at least thirty-two bytes, for a test"


def token() -> str:
    claims = {
        "iss": "craton",
        "aud": "craton",
        "sub": "somebody",
        "roles": ["operator"],
        "exp": int(time.time() + 600),
    }

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


async def make_keys(url: str, ledger_dir: Path) -> tuple[NewApiKey, NewApiKey]:
    """A key that may append and one that may only look at records; made as a role would."""
    clock = SystemClock()
    key = SigningKey.load(ledger_dir / "keys" / "ledger.key.jwk")
    clients = TenantClients(
        url, HopSigner("ledger", key, clock, id_source(clock)), "identity", IdentityClient
    )
    try:
        client: IdentityClient = clients.of(operator())
        return (
            await client.create_key(operator(), ApiKeyCreate(name="writer", roles=["operator"])),
            await client.create_key(operator(), ApiKeyCreate(name="reader", roles=["viewer"])),
        )
    finally:
        await clients.close()


async def revoke(url: str, ledger_dir: Path, key: str) -> None:
    clock = SystemClock()
    signing = SigningKey.load(ledger_dir / "keys" / "ledger.key.jwk")
    clients = TenantClients(
        url, HopSigner("ledger", signing, clock, id_source(clock)), "identity", IdentityClient
    )
    try:
        await clients.of(operator()).revoke_key(operator(), key)
    finally:
        await clients.close()


def append(program: Program, credential: str, number: int) -> int:
    event = {"stream": "notes/a", "type": "note.added", "payload": {"n": number}}
    return httpx.post(
        f"{program.url}/v1/ledger/events",
        json={"events": [event]},
        headers={"Authorization": f"Bearer {credential}"},
        timeout=30,
        trust_env=False,
    ).status_code


@pytest.mark.parametrize("mode", ["apikey", "both"])
def test_keys_of_the_identity_role_open_the_ledgers_own_door(tmp_path: Path, mode: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    shared = {
        "HOLDFAST_LOG_LEVEL": "error",
        "HOLDFAST_TRUST_DIR": str(tmp_path / "trusted"),
        "HOLDFAST_IDENTITY_URL": url,
    }
    guide = {
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_AUTH_MODE": mode,
        "VDB_JWT_SECRET": SECRET,
        "VDB_REPLICATION_MODE": "single-node",
        "VDB_REPLICA_ID": "7",
    }
    with (
        started(["serve", "ledger"], tmp_path / "ledger", environment=shared | guide) as ledger,
        started(
            ["serve", "identity", "--port", str(port)], tmp_path / "identity", environment=shared
        ),
    ):
        writer, reader = asyncio.run(make_keys(url, tmp_path / "ledger"))
        assert append(ledger, writer.secret, 1) == 200
        assert append(ledger, reader.secret, 2) == 403
        other = "_".join([*writer.secret.split("_")[:2], *reader.secret.split("_", 2)[2:]])
        assert append(ledger, other, 3) == 401, "one key's name with another's secret"
        assert append(ledger, "hf_nobody", 4) == 401
        assert append(ledger, token(), 5) == (200 if mode == "both" else 401)
        assert append(ledger, ledger.token, 6) == 200, "the operator's token always does"
        by = [entry["subject"] for entry in ledger.items("/v1/ledger/entries", stream="notes/a")]
        assert len(by) == (3 if mode == "both" else 2)
        assert len(set(by)) == len(by), "each is named as who it is"
        asyncio.run(revoke(url, tmp_path / "ledger", writer.key.id))
        wait_until(
            lambda: append(ledger, writer.secret, 7) == 401, what="the revoked key to be refused"
        )
        state = dbapi2.connect(f"file:{tmp_path}/ledger/state/holdfast.db?mode=ro", uri=True)
        with closing(state):
            [(holder,)] = state.execute(
                "SELECT holder FROM ledger_sequencers WHERE tenant = 'default'"
            ).fetchall()
        assert holder.startswith("replica-7-"), "VDB_REPLICA_ID names who sequences"
