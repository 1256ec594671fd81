"""Roles in processes of their own: a registry's events reach the ledger, also one that was away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.app.elsewhere import TenantClients, TenantDeliveries
from holdfast.identity.hop import HopSigner
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import NotFound
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.principal import operator
from holdfast.kernel.signing import SigningKey
from holdfast.ledger.client import LedgerClient
from holdfast.ledger.frames import read_leaf
from tests.support.program import Program, start, wait_until
from tests.support.stack import SAMPLE, free_port

pytestmark = pytest.mark.timeout(1200)


def test_what_happens_in_a_role_is_in_the_ledger_of_another_process(tmp_path: Path) -> None:
    ledger_port, registry_port = free_port(), free_port()
    environment = {
        "HOLDFAST_LOG_LEVEL": "error",
        "HOLDFAST_TRUST_DIR": str(tmp_path / "trusted"),
        "HOLDFAST_LEDGER_URL": f"http://127.0.0.1:{ledger_port}",
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(_profiles(tmp_path)),
    }
    registry = start(
        ["serve", "registry", "--port", str(registry_port)],
        tmp_path / "registry",
        environment=environment,
    )
    ledger: Program | None = None
    try:
        # Nobody is there to take what the registry has published: it waits.
        wait_until(lambda: _lag(registry) >= 1, what="an event in the registry's outbox")
        ledger = start(
            ["serve", "ledger", "--port", str(ledger_port)],
            tmp_path / "ledger",
            environment=environment,
        )

        def arrived() -> list[str]:
            assert ledger is not None
            return [e["type"] for e in ledger.items("/v1/ledger/entries")]

        wait_until(lambda: "profile.published" in arrived(), what="the event in the ledger")
        wait_until(lambda: _lag(registry) == 0, what="the outbox to be empty")
        assert arrived().count("profile.published") == 1
        asyncio.run(_prove(ledger, tmp_path / "registry"))
    finally:
        registry.kill()
        if ledger is not None:
            ledger.kill()


async def _prove(ledger: Program, data_dir: Path) -> None:
    """A role asks for the proof of an event, under each tenant's own name."""
    first = next(iter(ledger.items("/v1/ledger/entries")))
    clock = SystemClock()
    key = SigningKey.load(data_dir / "keys" / "registry.key.jwk")
    signer = HopSigner("registry", key, clock, id_source(clock))
    clients = TenantClients(ledger.url, signer, "ledger", LedgerClient)
    away = TenantDeliveries(clients)
    try:
        [proof] = await away.event_proofs(operator(), [first["id"]])
        assert (proof.position, read_leaf(proof.leaf.encode()).id) == (0, first["id"])
        with pytest.raises(NotFound):
            await away.event_proofs(operator(TenantId("other")), [first["id"]])
    finally:
        await clients.close()


def _profiles(folder: Path) -> Path:
    profiles = folder / "profiles"
    profiles.mkdir()
    name = "scripps-co2-monthly.yaml"
    text = SAMPLE.joinpath("profiles", name).read_text(encoding="utf-8")
    (profiles / name).write_text(text)
    return profiles


def _lag(program: Program) -> int:
    for line in program.client.get("/metrics").text.splitlines():
        if line.startswith("vdb_replication_lag_records "):
            return int(float(line.rpartition(" ")[2]))
    return -1
