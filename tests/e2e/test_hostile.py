"""Hostile clients at the served door: memory stays bounded, and everybody else is served.

The attacker is at 127.0.0.2, everybody else at 127.0.0.1. Limits and times are those of the
settings, made small.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.support.memory import Peaks
from tests.support.program import Program, started, wait_until
from tests.support.raw_http import upload

ATTACKER = "127.0.0.2"
CONNECTIONS, OF_ONE_ADDRESS = 120, 80
CONNECTIONS_BY_DEFAULT = 1024
SECONDS = 2
GROWTH_BYTES_MAX = 96 * 1024 * 1024
"""What the program may grow by, whatever is done to it: its own warming up is in it."""
GIB = 1024**3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    environment = {
        "HOLDFAST_SERVE_CONNECTIONS_MAX": str(CONNECTIONS),
        "HOLDFAST_SERVE_ADDRESS_CONNECTIONS_MAX": str(OF_ONE_ADDRESS),
        "HOLDFAST_SERVE_HEADER_SECONDS": str(SECONDS),
        "HOLDFAST_SERVE_BODY_SECONDS": str(SECONDS),
        "HOLDFAST_SERVE_IDLE_SECONDS": str(2 * SECONDS),
    }
    folder = tmp_path_factory.mktemp("hostile") / "data"
    with started(["up", "--drones", "0", "--port", "0"], folder, environment=environment) as made:
        for _ in range(20):
            assert made.client.get("/v1/overview").status_code == 200
        yield made


@contextmanager
def bounded(program: Program) -> Iterator[None]:
    """What happens inside does not make the program grow, and leaves no connection behind."""
    peaks = Peaks([program.process.pid])
    yield
    assert_served(program)
    [grown] = peaks.grown().values()
    print(f"grew by {grown // 2**20} MiB at most")
    assert grown < GROWTH_BYTES_MAX
    wait_until(lambda: connections(program) < 10, what="the attacker's connections to be gone")


def connections(program: Program) -> int:
    text = program.client.get("/metrics").text
    line = next(x for x in text.splitlines() if x.startswith("vdb_connections_active "))
    return int(float(line.rpartition(" ")[2]))


def assert_served(program: Program) -> None:
    """Somebody else comes, on a connection of their own, and is answered."""
    with httpx.Client(base_url=program.url, trust_env=False, timeout=60) as client:
        assert client.get("/health").status_code == 200
        headers = {"authorization": f"Bearer {program.token}"}
        assert client.get("/v1/whoami", headers=headers).status_code == 200


def attack(program: Program) -> socket.socket:
    """A connection of the attacker's."""
    port = httpx.URL(program.url).port or 0
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(ATTACKER, 0))


def rest(line: socket.socket) -> bytes:
    """Everything that comes until the server is done with the connection."""
    data = b""
    with suppress(ConnectionError):
        while piece := line.recv(65536):
            data += piece
    return data


def test_slow_headers_are_given_up_while_others_are_served(program: Program) -> None:
    with bounded(program), ExitStack() as opened:
        lines = [opened.enter_context(attack(program)) for _ in range(OF_ONE_ADDRESS)]
        for line in lines:
            line.sendall(b"GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        waiting = set(lines)
        answers: Counter[bytes] = Counter()
        while waiting:
            assert_served(program)
            for line in list(waiting):
                readable, _, _ = select.select([line], [], [], 0)
                if readable:
                    answers[rest(line)[9:12]] += 1
                    waiting.discard(line)
                else:
                    with suppress(ConnectionError):
                        line.sendall(b"a")  # a drop now and then does not help
        assert answers == {b"408": OF_ONE_ADDRESS}


def test_a_million_headers_are_refused_long_before_they_are_all_here(program: Program) -> None:
    with bounded(program), attack(program) as line:
        line.sendall(b"GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\n")
        sent, piece = 0, b"".join(b"X-%d: y\r\n" % n for n in range(1000))
        with suppress(ConnectionError):
            while sent < 1_000_000:
                readable, writable, _ = select.select([line], [line], [], 20)
                if readable:
                    break
                if writable:
                    line.sendall(piece)
                    sent += 1000
        assert sent < 1_000_000
        assert rest(line)[9:12] == b"431"


@pytest.mark.parametrize("announced", [10 * GIB, None], ids=["announced", "without end"])
@pytest.mark.parametrize("known", [True, False], ids=["operator", "nobody"])
def test_ten_gigabytes_are_not_taken(program: Program, announced: int | None, known: bool) -> None:
    headers = {"Content-Type": "application/json"}
    if known:
        headers["Authorization"] = f"Bearer {program.token}"
    with bounded(program):
        answer = upload(
            program.url, "POST", "/v1/profiles", headers, announced=announced,
            bytes_max=64 * 1024 * 1024,
        )  # fmt: skip
        assert answer.status == (413 if known else 401)
        assert answer.problem["code"] == ("body-too-large" if known else "unauthenticated")


def test_a_flood_of_connections_is_refused_and_others_are_served(program: Program) -> None:
    with bounded(program):
        for _ in range(3):
            with ExitStack() as opened:
                lines = [opened.enter_context(attack(program)) for _ in range(OF_ONE_ADDRESS)]
                wait_until(lambda: connections(program) > OF_ONE_ADDRESS, what="all of them")
                late = [opened.enter_context(attack(program)) for _ in range(100)]
                answers = Counter(rest(line)[9:12] for line in late)
                assert answers == {b"503": 100}
                assert_served(program)
                for line in lines:
                    # A reset instead of an end: nothing to be polite about.
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_one_address_shuts_nobody_out_with_the_limits_that_nobody_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("defaults") / "data"
    environment = {"HOLDFAST_SERVE_HEADER_SECONDS": "300"}  # none is given up meanwhile
    up = ["up", "--drones", "1", "--port", "0"]
    with started(up, folder, environment=environment) as made, ExitStack() as opened:
        share = CONNECTIONS_BY_DEFAULT * 3 // 4
        lines = [opened.enter_context(attack(made)) for _ in range(CONNECTIONS_BY_DEFAULT)]
        for line in lines[:share]:
            line.sendall(b"GET /health HTTP/1.1\r\n")
        assert Counter(rest(line)[9:12] for line in lines[share:]) == {
            b"503": CONNECTIONS_BY_DEFAULT - share
        }
        for _ in range(14):
            assert_served(made)
        assert connections(made) >= share
        wait_until(
            lambda: [each["status"] for each in made.items("/v1/workers")] == ["alive"],
            what="the drone to be there",
        )


def test_half_closed_connections_are_answered_or_ended(program: Program) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with bounded(program), ExitStack() as opened:
        lines = [opened.enter_context(attack(program)) for _ in range(OF_ONE_ADDRESS - 10)]
        for number, line in enumerate(lines):
            line.sendall(whole if number % 2 else whole[: 10 + number % 20])
            line.shutdown(socket.SHUT_WR)
        for line in lines:
            answered = rest(line)  # it ends: else this waits in vain
            assert answered[:9] in (b"", b"HTTP/1.1 ")


def test_answers_that_nobody_reads_are_given_up(program: Program) -> None:
    request = (
        f"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {program.token}\r\n\r\n"
    ).encode()
    with bounded(program), ExitStack() as opened:
        for _ in range(OF_ONE_ADDRESS // 4):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.bind((ATTACKER, 0))
            line.connect(("127.0.0.1", httpx.URL(program.url).port))
            opened.enter_context(line)
            line.settimeout(20)
            with suppress(ConnectionError, TimeoutError):
                line.sendall(request * 4)
        assert_served(program)
        wait_until(lambda: connections(program) < 10, what="those who do not read to be gone")
