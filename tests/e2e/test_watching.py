"""A source that changes its shape, through the served program: nothing is published, everybody who
should know is told, and one command accepts it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import Program, run_command, started, wait_until

SECRET = b"a secret of at least 24 bytes"
PROFILE = """
version: 1
name: rain
publisher: Somebody
licence: Public domain
source: {{url: "http://127.0.0.1:{port}/rain.json", format: {{type: json}}}}
key: [dimensions.station]
dimensions: {{station: $.station}}
measures: {{rain: {{path: $.rain, unit: mm}}}}
freshness: 1h
"""


@dataclass
class Outside:
    """A source and a webhook's receiver in one."""

    port: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    forged: int = 0


@pytest.fixture
def outside() -> Iterator[Outside]:
    found = Outside()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps(found.rows).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
            digest = hmac.new(SECRET, signed + body, hashlib.sha256).digest()
            good = self.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
            found.forged += not good
            found.told.append(json.loads(body))
            self.answer(204, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def rain(scale: float) -> list[dict[str, Any]]:
    return [{"station": f"S{n:02d}", "rain": round((n + 3) * scale, 2)} for n in range(40)]


def rains(program: Program) -> list[float]:
    rows = program.items("/v1/records", profile="rain")
    return [float(row["measures"]["rain"]["value"]) for row in rows]


def test_a_changed_shape_is_told_everywhere_and_accepted_by_hand(
    tmp_path: Path, outside: Outside
) -> None:
    data_dir, profiles = tmp_path / "data", tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "rain.yaml").write_text(PROFILE.format(port=outside.port))
    (tmp_path / "secret").write_bytes(SECRET)
    here = f"127.0.0.1:{outside.port}"
    environment = {
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
        "HOLDFAST_COLLECT_ALLOW": here,
        "HOLDFAST_WATCH_WEBHOOK_URL": f"http://{here}/hook",
        "HOLDFAST_WATCH_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
        "HOLDFAST_WATCH_WEBHOOK_ALLOW": here,
    }

    def command(*arguments: str) -> Any:
        return run_command(*arguments, "--data-dir", str(data_dir))

    def collect() -> Any:
        return command("profile", "run", "rain", "--wait")

    outside.rows = rain(1)
    with started(["up", "--drones", "1", "--port", "0"], data_dir, environment=environment) as up:
        wait_until(lambda: list(up.items("/v1/profiles")), what="the profile")
        assert collect().returncode == 0
        quiet = command("status")
        assert (quiet.returncode, "!" in quiet.stderr) == (0, False), quiet.stderr
        outside.rows = rain(1000)
        told = collect()
        assert (told.returncode, "rejects" in told.stdout) == (1, True)
        assert "measures.rain is 1,000 times as large" in told.stderr
        assert "hint: `holdfast run show" in told.stderr
        assert "holdfast run accept" in told.stderr
        loud = command("status")
        assert loud.returncode == 1
        assert "! rain: the last run is failed: the source changed its shape" in loud.stderr
        wait_until(lambda: len(outside.told) == 2, what="the webhook")
        assert {one["type"] for one in outside.told} == {"source.drifted", "run.failed"}
        assert outside.forged == 0
        wait_until(lambda: all(n["delivered_at"] for n in up.items("/v1/notices")), what="notices")
        assert "told" in command("notice", "list").stdout
        failed = next(up.items("/v1/runs"))
        shown = command("run", "show", failed["id"])
        assert "unit-jumped" in shown.stdout
        assert max(rains(up)) < 100, "nothing of it was published"
        assert command("run", "accept", failed["id"]).returncode == 0
        assert command("status").returncode == 0
        assert collect().returncode == 0
        assert min(rains(up)) > 1000
        outside.rows = [{**row, "rain": "wet"} for row in rain(1000)]
        assert "holdfast reject list --profile rain" in collect().stderr
        assert command("status").returncode == 1, "the last run failed"
        ill = command("doctor")
        assert (ill.returncode, "✗ sources: rain: the last run is failed" in ill.stdout) == (
            1,
            True,
        )
        command("profile", "pause", "rain")
        assert "it is paused\nhint: holdfast profile resume rain" in collect().stderr
        out = str(tmp_path / "nowhere" / "rain.csv")
        unwritten = command("record", "export", "--profile", "rain", "--out", out)
        assert len(unwritten.stderr.splitlines()) == 2, "an error and its hint, no traceback"
        metrics = up.client.get("/metrics").text
        assert 'holdfast_profile_age_seconds{profile="rain",tenant="default"}' in metrics
