"""A backfill of a source that is asked in windows over time, through the served program.

The source is a small server of this test's own: it answers with the days that it is asked for,
counts what it is asked, and says when nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.support.program import Program, run_command, started, wait_until

pytestmark = pytest.mark.timeout(1200)

Window = tuple[str, str]


class Days(ThreadingHTTPServer):
    """Answers ``/days?from=…&until=…`` with one row a day, the end left out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Window] = []
        self.sent_bytes = 0
        self.changed: dict[str, int] = {}

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def rows(self, begin: date, end: date) -> list[dict[str, Any]]:
        days = [begin + timedelta(days=n) for n in range((end - begin).days)]
        return [
            {"day": day.isoformat(), "v": self.changed.get(day.isoformat(), day.toordinal())}
            for day in days
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Days
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path != "/days":
            self._answer(404, b"")
            return
        window = (query["from"][0], query["until"][0])
        self.server.asked.append(window)
        rows = self.server.rows(*map(date.fromisoformat, window))
        body = json.dumps(rows).encode()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.headers.get("If-None-Match") == etag:
            self._answer(304, b"", etag)
            return
        self.server.sent_bytes += len(body)
        self._answer(200, body, etag)

    def _answer(self, status: int, body: bytes, etag: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        if status != 304:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def days() -> Iterator[Days]:
    server = Days()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


PROFILE = {
    "version": 1,
    "name": "days",
    "publisher": "p",
    "licence": "l",
    "mode": "incremental",
    "cursor": {"path": "$.day", "parameter": "from", "start": "2025-11-01", "format": "%Y-%m-%d"},
    "key": ["period"],
    "measures": {"v": "$.v"},
    "period": {"path": "$.day", "frequency": "D"},
}
WINDOWS = {
    "start_parameter": "from",
    "end_parameter": "until",
    "start": "2025-11-01",
    "span": "1mo",
}
RANGE = ("--from", "2019-11-15", "--to", "2020-03-01")
WANTED: list[Window] = [
    ("2019-11-15", "2019-12-15"),
    ("2019-12-15", "2020-01-15"),
    ("2020-01-15", "2020-02-15"),
    ("2020-02-15", "2020-03-01"),
]


def run(program: Program, data: Path, *words: str, name: str = "days") -> dict[str, Any]:
    done = run_command("profile", "run", name, *words, "--wait", "--json", "--data-dir", str(data))
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = program.get(f"/v1/runs/{json.loads(done.stdout)['payload']['run']}")
    return found


def stored(program: Program, name: str = "days") -> dict[str, str]:
    rows = program.items("/v1/records", profile=name, limit=1000)
    return {row["period"]["start"]: row["measures"]["v"]["value"] for row in rows}


def test_a_backfill_asks_for_the_windows_of_its_range_and_for_no_other(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    with days() as source:
        form = {"type": "json", "records": "$[*]"}
        url = f"http://{source.host_port}/days"
        document = PROFILE | {"source": {"url": url, "format": form, "windows": WINDOWS}}
        (profiles / "days.yaml").write_text(yaml.safe_dump(document))
        whole = {**document, "name": "whole", "mode": "snapshot"}
        del whole["cursor"]
        (profiles / "whole.yaml").write_text(yaml.safe_dump(whole))
        environment = {
            "HOLDFAST_COLLECT_ALLOW": source.host_port,
            "HOLDFAST_REGISTRY_PROFILES_DIR": str(profiles),
            "HOLDFAST_LOG_LEVEL": "warning",
        }
        data = tmp_path / "data"
        arguments = ["up", "--drones", "1", "--port", "0"]
        with started(arguments, data, environment=environment) as program:
            wait_until(lambda: len(list(program.items("/v1/profiles"))) == 2, what="the profiles")
            ordinary = run(program, data)
            assert ordinary["status"] == "succeeded"
            first = stored(program)
            assert min(first) == "2025-11-01"
            cursor = ordinary["cursor"]

            source.asked.clear()
            back = run(program, data, *RANGE)
            assert source.asked == WANTED
            assert (back["kind"], back["status"], back["pages"]) == ("backfill", "succeeded", 4)
            wanted = {
                row["day"]: str(row["v"])
                for row in source.rows(date(2019, 11, 15), date(2020, 3, 1))
            }
            assert (back["new"], back["records"]) == (len(wanted), len(wanted))
            assert stored(program) == first | wanted

            # Asked again: the same windows, and nothing is new.
            source.asked.clear()
            again = run(program, data, *RANGE)
            assert source.asked == WANTED
            counts = [again[name] for name in ("new", "changed", "withdrawn", "rejects")]
            assert (again["status"] in ("succeeded", "unchanged"), counts) == (True, [0] * 4)
            assert stored(program) == first | wanted

            # A day was corrected since: that is all that changes, and the cursor stays.
            source.changed["2020-02-29"] = 7
            source.asked.clear()
            mended = run(program, data, "--from", "2020-02-01", "--to", "2020-03-01")
            assert source.asked == [("2020-02-01", "2020-03-01")]
            assert (mended["new"], mended["changed"], mended["unchanged"]) == (0, 1, 28)
            assert stored(program) == first | wanted | {"2020-02-29": "7"}
            source.asked.clear()
            last = run(program, data)
            assert last["cursor"] >= cursor
            assert all(begin >= "2025-11" for begin, _ in source.asked)

            # Of a source that each run asks for everything again, from where its windows begin.
            run(program, data, name="whole")
            back = run(program, data, "--from", "2020-02-01", "--to", "2020-03-01", name="whole")
            assert (back["new"], back["withdrawn"]) == (29, 0)
            source.changed["2025-11-01"] = 8
            last = run(program, data, name="whole")
            counts = [last[name] for name in ("new", "changed", "withdrawn", "unasked")]
            assert counts == [0, 1, 0, 29]
            kept = {day: value for day, value in stored(program, "whole").items() if day < "2025"}
            assert kept == {
                day: v for day, v in stored(program).items() if "2020-02" <= day < "2020-03"
            }
