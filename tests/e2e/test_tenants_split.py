"""Tenants whose roles run apart: what is asked for one of them is asked in that tenant.

A gateway, a registry and a coordinator, each on a database of its own. Two tenants publish a
profile each, with a schedule. Neither's front page tells of the other's, and the coordinator
schedules for each what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.program import wait_until
from tests.support.stack import SAMPLE, Stack

pytestmark = pytest.mark.timeout(1200)

KEYS = {tenant: f"the-key-of-{tenant}-".ljust(40, "x") for tenant in ("newsroom", "office")}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    base = tmp_path_factory.mktemp("tenants-split")
    (base / "profiles").mkdir()
    keys = [
        {"name": tenant, "key": key, "tenant": tenant, "roles": ["operator"]}
        for tenant, key in KEYS.items()
    ]
    (base / "keys.json").write_text(json.dumps({"keys": keys}))
    made = Stack(base, "split", base / "replay.json", base / "profiles", drones=0)
    try:
        for part in made.served:
            made.port(part)
        made.environment = {"HOLDFAST_IDENTITY_KEYS_FILE": str(base / "keys.json")}
        for part in ("identity", "registry", "coordinator", "gateway"):
            made.start_role(part)
        yield made
    finally:
        made.stop()


@pytest.fixture
def tenants(stack: Stack) -> Iterator[dict[str, httpx.Client]]:
    clients = {
        tenant: httpx.Client(
            base_url=stack.door.url, headers={"authorization": f"Bearer {key}"},
            trust_env=False, timeout=60,
        )
        for tenant, key in KEYS.items()
    }  # fmt: skip
    yield clients
    for client in clients.values():
        client.close()


def test_each_tenant_sees_and_collects_what_it_has_itself(
    tenants: dict[str, httpx.Client],
) -> None:
    text = SAMPLE.joinpath("profiles", "nasa-global-temp-annual.yaml").read_text(encoding="utf-8")
    for tenant, client in tenants.items():
        named = text.replace("nasa-global-temp-annual", f"of-{tenant}") + "schedule: {every: 6h}\n"
        answer = client.post(
            "/v1/profiles", content=named, headers={"content-type": "application/yaml"}
        )
        assert answer.is_success, answer.text
        # Whoever is to collect for a tenant makes it known to the coordinator.
        assert client.post("/v1/workers/tokens", json={}).status_code == 201

    def scheduled(client: httpx.Client) -> list[str]:
        found = client.get("/v1/schedules")
        assert found.status_code == 200, found.text
        # One that the coordinator has just heard of is not due at any time yet.
        return [each["profile"] for each in found.json() if each["next_at"]]

    for tenant, client in tenants.items():
        wait_until(lambda c=client: scheduled(c), what=f"the schedule of {tenant}")  # type: ignore[misc]
        assert scheduled(client) == [f"of-{tenant}"]
        seen = client.get("/v1/overview").json()
        assert [each["name"] for each in seen["profiles"]] == [f"of-{tenant}"]
        assert (seen["total_profiles"], bool(seen["profiles"][0]["due_at"])) == (1, True)
