"""Behind a proxy that ends TLS: who asks, where links lead, and starts that could not work."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.program import Program, run_command, started
from tests.support.raw_http import ANSWER_SECONDS, Answer, head, read_answer

ORIGIN = "https://data.example.org"
PROXIES = {"HOLDFAST_GATEWAY_TRUSTED_PROXIES": "127.0.0.2/32"}
FRONT = PROXIES | {
    "HOLDFAST_GATEWAY_TERMINATOR": "my-proxy",
    "HOLDFAST_GATEWAY_HOSTS": "data.example.org",
    "PLATFORM_WEBAUTHN_RP_ORIGIN": ORIGIN,
    "HOLDFAST_SERVE_ADDRESS_REQUESTS_PER_SECOND": "10",
}
QUESTION = b'{"sql":"select 1"}'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    data = tmp_path_factory.mktemp("proxied") / "data"
    with started(["up", "--drones", "0", "--port", "0"], data, environment=FRONT) as made:
        yield made


def test_links_lead_to_where_people_sign_in_and_the_proxy_is_believed(program: Program) -> None:
    here = ("--data-dir", str(program.data_dir))
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    headers = {"host": "data.example.org", "x-forwarded-for": "192.0.2.7"}
    with httpx.Client(transport=transport, base_url=program.url, headers=headers) as proxy:
        assert proxy.get("/login").status_code == 200
    for command in (("login",), ("person", "invite", "Ada", "--role", "viewer")):
        plain = run_command(*command, *here)
        assert plain.returncode == 0, plain.stderr
        assert plain.stdout.startswith(f"{ORIGIN}/{'login' if len(command) == 1 else 'inv'}")
        as_json = run_command(*command, "--json", *here)
        assert json.loads(as_json.stdout)["url"].startswith(f"{ORIGIN}/")


def passed_on(
    program: Program,
    headers: dict[str, str],
    trailers: Sequence[dict[str, str]],
    path: str = "/v1/query",
) -> list[Answer]:
    """What callers get whose requests a proxy passes on with these trailers, one for each."""
    target = urlsplit(program.url)
    sent = headers | {"Transfer-Encoding": "chunked"}
    sent = {"Content-Type": "application/json", **sent}
    with ExitStack() as stack:
        lines = []
        for trailer in trailers:
            line = socket.create_connection(
                (target.hostname, target.port), ANSWER_SECONDS, ("127.0.0.2", 0)
            )
            lines.append(stack.enter_context(line))
            after = "".join(f"{name}: {value}\r\n" for name, value in trailer.items())
            body = b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(QUESTION), QUESTION, after.encode())
            line.sendall(head("POST", path, sent, "data.example.org") + body)
        return [read_answer(line) for line in lines]


def test_what_a_caller_writes_behind_the_body_does_not_say_who_or_where_it_is(
    program: Program,
) -> None:
    wanted = {"name": "office", "roles": ["viewer"], "addresses": ["10.0.0.0/8"]}
    made = program.client.post("/v1/api-keys", json=wanted).json()
    key = {"Authorization": f"Bearer {made['secret']}"}
    outside = key | {"X-Forwarded-For": "203.0.113.5"}
    inside = key | {"X-Forwarded-For": "10.1.1.1"}

    def code(headers: dict[str, str], trailer: dict[str, str]) -> tuple[int, str]:
        (answer,) = passed_on(program, headers, [trailer])
        return answer.status, "" if answer.status < 400 else answer.problem["code"]

    refused = (403, "address-refused")
    assert code(outside, {}) == refused
    assert code(outside, {"X-Forwarded-For": "10.1.1.1"}) == refused
    assert code(outside, {"Forwarded": "for=10.1.1.1"}) == refused
    assert code(inside, {"X-Forwarded-For": "203.0.113.5"})[0] in (200, 404)
    anonymous = {"X-Forwarded-For": "10.1.1.2"}
    assert code(anonymous, {}) == code(anonymous, key) == (401, "unauthenticated")
    assert code(inside, {"Origin": "https://evil.example"})[0] in (200, 404)
    assert code(inside, {"X-Tenant-ID": "another"})[0] in (200, 404)
    text = inside | {"Content-Type": "text/plain"}
    assert code(text, {}) == code(text, {"Content-Type": "application/json"})
    assert code(text, {})[0] == 415


def test_nobody_gets_a_new_allowance_by_an_address_behind_the_body(program: Program) -> None:
    trailers = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(80)]
    answers = passed_on(program, {"X-Forwarded-For": "203.0.113.9"}, trailers)
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {401, 429}, statuses
    assert "198.51.100." not in program.log.read_text()


def test_a_start_that_could_not_work_is_refused(tmp_path: Path) -> None:
    mismatched = {
        "PLATFORM_WEBAUTHN_RP_ID": "example.org",
        "PLATFORM_WEBAUTHN_RP_ORIGIN": "https://other.net",
    }
    for environment, said in (
        (PROXIES, "HOLDFAST_GATEWAY_TERMINATOR"),
        (mismatched, "other.net does not belong to example.org"),
    ):
        stopped = run_command(
            "up", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=environment
        )
        assert stopped.returncode == 2, stopped.stderr
        assert said in stopped.stderr
        assert not (tmp_path / "data").exists(), "of a start that cannot be, nothing is made"


def test_health_of_a_door_that_hangs_up_says_that_it_may_serve_tls(tmp_path: Path) -> None:
    """So does a door that serves TLS, asked in clear."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            caller, _ = listening.accept()
            with caller:
                caller.recv(65536)

        door = threading.Thread(target=hang_up)
        door.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        found = run_command("health", "--control-plane", url, "--data-dir", str(tmp_path))
        door.join(60)
    assert found.returncode != 0
    assert "write https://" in found.stderr
