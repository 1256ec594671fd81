"""Behind a proxy that ends TLS: who asks, where links lead, and starts that could not work."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import httpx

from tests.support.program import run_command, started

ORIGIN = "https://data.example.org"
PROXIES = {"HOLDFAST_GATEWAY_TRUSTED_PROXIES": "127.0.0.2/32"}
FRONT = PROXIES | {
    "HOLDFAST_GATEWAY_TERMINATOR": "my-proxy",
    "HOLDFAST_GATEWAY_HOSTS": "data.example.org",
    "PLATFORM_WEBAUTHN_RP_ORIGIN": ORIGIN,
}


def test_links_lead_to_where_people_sign_in_and_the_proxy_is_believed(tmp_path: Path) -> None:
    here = ("--data-dir", str(tmp_path))
    with started(["up", "--drones", "0"], tmp_path, environment=FRONT) as program:
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
