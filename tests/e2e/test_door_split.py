"""The door of a system whose roles run elsewhere, when one of them dies under a request."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from holdfast.fleet.client import FleetClient
from holdfast.fleet.model import Beat
from holdfast.fleet.proofs import HEADER, WINDOW_SECONDS, Prover
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.signing import SigningKey
from tests.support.program import run_command, wait_until
from tests.support.stack import Stack
from tests.support.wire import wire

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway and a coordinator; nothing else is asked here.

    The door's way to the coordinator takes its call while the coordinator is gone, as a socket that
    somebody holds for it would: it asks again for seconds, and how many a program takes to come
    back is the machine's matter.
    """
    base = tmp_path_factory.mktemp("door-split")
    (base / "profiles").mkdir()
    made = Stack(base, "split", base / "replay.json", base / "profiles", drones=0)
    for part in made.served:
        made.port(part)
    with wire() as line:
        way = line.way("door", made.port("coordinator"), patient=True)
        made.environment = {"COORDINATOR_URL": way}
        try:
            made.start_role("coordinator")
            made.start_role("gateway")
            yield made
        finally:
            made.stop()


def unread(port: int) -> int:
    """Bytes that have come to this port and that nobody has read."""
    waiting = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port:
            waiting += int(queues.partition(":")[2], 16)
    return waiting


def died_under(stack: Stack, request: httpx.Request) -> httpx.Response:
    """The answer to a request under which the coordinator is killed and started again."""
    client = stack.door.client
    with ThreadPoolExecutor(1) as pool:
        stack.process("coordinator").send_signal(signal.SIGSTOP)
        answer = pool.submit(client.send, request)
        port = stack.port("coordinator")
        wait_until(lambda: unread(port) > 0, what="the door to have asked")
        stack.kill("coordinator")
        stack.start_role("coordinator")
        return answer.result(120)


def test_a_read_is_answered_although_the_role_died_under_it(stack: Stack) -> None:
    client = stack.door.client
    submitted = client.post("/v1/tasks", json={"kind": "x"})
    assert submitted.status_code == 201, submitted.text
    answer = died_under(stack, client.build_request("GET", "/v1/tasks", timeout=120))
    assert answer.status_code == 200, answer.text
    assert [task["id"] for task in answer.json()["items"]] == [submitted.json()["id"]]


def test_a_write_is_left_to_the_caller_who_is_told_that_nobody_knows(stack: Stack) -> None:
    client = stack.door.client
    before = client.get("/v1/tasks").json()["items"]
    request = client.build_request("POST", "/v1/tasks", json={"kind": "y"}, timeout=120)
    answer = died_under(stack, request)
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "outcome-unknown"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/v1/tasks").json()["items"] == before


# --- a worker's credential where nobody asks for certificates -----------------------------------


KEY = SigningKey.from_seed(b"e" * 32)


def registered(stack: Stack, name: str, key: SigningKey = KEY) -> tuple[httpx.Response, str]:
    """The answer to a registration with a proof by ``key`` of holding ``KEY``; and the token."""
    token = stack.door.client.post("/v1/workers/tokens", json={}).json()["token"]
    answer = httpx.post(
        f"{stack.door.url}/v1/workers/register",
        json={"name": name, "key": KEY.public_bytes().hex()},
        headers={
            "holdfast-join-token": token,
            HEADER: Prover(key, token)("POST", "/v1/workers/register"),
        },
        trust_env=False,
    )
    return answer, token


def beat(stack: Stack, credential: str, *proofs: str) -> tuple[int, str]:
    answer = httpx.post(
        f"{stack.door.url}/v1/workers/beat",
        json={},
        headers=[("authorization", f"Bearer {credential}"), *((HEADER, proof) for proof in proofs)],
        trust_env=False,
    )
    return answer.status_code, answer.json().get("code", "")


def test_a_worker_s_credential_is_of_no_use_without_its_key(stack: Stack) -> None:
    thief = SigningKey.from_seed(b"t" * 32)
    foreign, _ = registered(stack, "bound-1", thief)
    assert (foreign.status_code, foreign.json()["code"]) == (401, "proof-refused")
    admitted, _ = registered(stack, "bound-1")
    assert admitted.status_code == 201, admitted.text
    credential = admitted.json()["credential"]
    asked = ("POST", "/v1/workers/beat")
    prove = Prover(KEY, credential)
    proof = prove(*asked)
    assert beat(stack, credential, proof) == (200, "")
    assert beat(stack, credential, proof) == (401, "proof-replayed")
    assert beat(stack, credential) == (401, "proof-missing")
    assert beat(stack, credential, prove(*asked), prove(*asked)) == (401, "proof-missing")
    assert beat(stack, credential, Prover(thief, credential)(*asked)) == (401, "proof-refused")
    assert beat(stack, credential, prove("POST", "/v1/tasks/claim")) == (401, "proof-refused")
    late = Prover(KEY, credential, ahead=-WINDOW_SECONDS - 5)
    assert beat(stack, credential, late(*asked)) == (401, "proof-stale")
    assert beat(stack, credential, prove(*asked)) == (200, "")
    [shown] = [w for w in stack.door.items("/v1/workers") if w["name"] == "bound-1"]
    assert shown["bound"] is True
    # Nor does the credential admit a key of the thief's under that name.
    again = httpx.post(
        f"{stack.door.url}/v1/workers/register",
        json={"name": "bound-1", "key": thief.public_bytes().hex()},
        headers={"holdfast-join-token": credential},
        trust_env=False,
    )
    assert (again.status_code, again.json()["code"]) == (401, "join-token-invalid")


async def test_a_worker_whose_clock_is_wrong_learns_the_door_s(stack: Stack) -> None:
    admitted, _ = registered(stack, "bound-2")
    credential = admitted.json()["credential"]
    async with ApiClient.connect(stack.door.url) as api:
        prove = Prover(KEY, credential, moment=lambda: time.time() - 7200)
        fleet = FleetClient(api.authorised(credential, prove))
        await fleet.beat(None, Beat())
        assert prove.ahead == pytest.approx(7200, abs=60)
        await fleet.beat(None, Beat())


# --- whoever asks a role itself -------------------------------------------------------------------


def test_a_role_asked_by_itself_says_who_answers(stack: Stack) -> None:
    told = run_command("backup", "create", "--data-dir", str(stack.directory / "coordinator"))
    assert told.returncode != 0
    assert "roles answer through their gateway" in told.stderr
