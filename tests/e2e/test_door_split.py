"""The door of a system whose roles run elsewhere, when one of them dies under a request."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.program import wait_until
from tests.support.stack import Stack

pytestmark = pytest.mark.timeout(600)

BACK_SECONDS = 2.5
"""The door asks again for 3.5 seconds; a role that takes longer to come back is not its matter."""
TRIES = 10


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway and a coordinator; nothing else is asked here."""
    base = tmp_path_factory.mktemp("door-split")
    (base / "profiles").mkdir()
    made = Stack(base, "split", base / "replay.json", base / "profiles", drones=0)
    try:
        for part in made.served:
            made.port(part)
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


def died_under(stack: Stack, request: httpx.Request) -> tuple[httpx.Response, float]:
    """The answer to a request under which the coordinator is killed and started again, and how
    many seconds it was gone."""
    client = stack.door.client
    with ThreadPoolExecutor(1) as pool:
        stack.process("coordinator").send_signal(signal.SIGSTOP)
        answer = pool.submit(client.send, request)
        port = stack.port("coordinator")
        wait_until(lambda: unread(port) > 0, what="the door to have asked")
        gone = time.monotonic()
        stack.kill("coordinator")
        stack.start_role("coordinator")
        gone = time.monotonic() - gone
        return answer.result(120), gone


def test_a_read_is_answered_although_the_role_died_under_it(stack: Stack) -> None:
    client = stack.door.client
    submitted = client.post("/v1/tasks", json={"kind": "x"})
    assert submitted.status_code == 201, submitted.text
    for _ in range(TRIES):
        request = client.build_request("GET", "/v1/tasks", timeout=120)
        answer, gone = died_under(stack, request)
        if answer.status_code == 200 or gone < BACK_SECONDS:
            break
    print(f"\nthe coordinator was gone for {gone:.1f} s")
    assert answer.status_code == 200, answer.text
    assert [task["id"] for task in answer.json()["items"]] == [submitted.json()["id"]]


def test_a_write_is_left_to_the_caller_who_is_told_that_nobody_knows(stack: Stack) -> None:
    client = stack.door.client
    before = client.get("/v1/tasks").json()["items"]
    request = client.build_request("POST", "/v1/tasks", json={"kind": "y"}, timeout=120)
    answer, _ = died_under(stack, request)
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "outcome-unknown"
    assert answer.headers["retry-after"] == "1"
    assert client.get("/v1/tasks").json()["items"] == before
