"""The client by itself: what it needs, what it refuses, how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.client import Client
from holdfast.kernel.errors import Invalid, NotFound, Unavailable

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("not installed: " + name)

sys.meta_path.insert(0, Blocker())
from holdfast.client import Client

client = Client("http://127.0.0.1:9")
try:
    client.table("rain")
except Exception as error:
    print(type(error).__name__, error.hint)
client.close()
"""
SERVER_ONLY = {
    "litestar", "uvicorn", "uvloop", "httptools", "sqlalchemy", "pysqlite3", "alembic", "jinja2",
    "zstandard", "authlib", "webauthn", "duckdb", "pyarrow", "scipy", "numpy", "asyncpg", "obstore",
    "redis", "nats",
}  # fmt: skip


def test_the_base_install_is_enough_and_a_table_says_what_it_lacks() -> None:
    code = BLOCKED.replace("{blocked!r}", repr(SERVER_ONLY))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Unsupported pip install 'holdfast[reports]'")


def test_it_refuses_what_is_no_address_and_finds_no_program_where_none_runs(
    tmp_path: Path,
) -> None:
    with pytest.raises(Invalid, match="no http"):
        Client("localhost:8090")
    with pytest.raises(Unavailable, match="cannot find a running system"):
        Client.of(tmp_path)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8090", "http://holdfast.example.org", "http://localhost.example.org"]
)
def test_without_tls_nothing_is_sent_beyond_this_machine_unless_it_is_said(url: str) -> None:
    with pytest.raises(Invalid, match="without TLS"):
        Client(url, token="t")
    Client(url, token="t", insecure=True).close()
    for near in ("http://localhost:9", "http://127.0.0.2:9", "http://[::1]:9", "https://192.0.2.1"):
        Client(near, token="t").close()


def test_an_address_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot use the address"):
        Client("http://[::1")


@pytest.mark.parametrize("name", ["freshness", "export", "datapackage", "..", "", "0F3C"])
def test_what_is_no_id_of_a_record_asks_for_nothing_else(name: str) -> None:
    with (
        Client("http://127.0.0.1:9", timeout_seconds=1) as client,
        pytest.raises(NotFound, match="cannot find the record"),
    ):
        client.record(name)


def test_closing_ends_its_thread_and_nothing_is_asked_afterwards() -> None:
    before = threading.active_count()
    client = Client("http://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(Unavailable):
        client.run("x")
    client.close()
    client.close()
    assert threading.active_count() == before
    with pytest.raises(Unavailable, match="closed"):
        client.run("x")


def test_whoever_waits_when_another_thread_closes_it_is_told() -> None:
    heard: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")

        def ask() -> None:
            try:
                client.run("x")
            except Exception as error:  # whatever it is, it is looked at below
                heard.append(error)

        waiting = threading.Thread(target=ask, daemon=True)
        waiting.start()
        asked, _ = silent.accept()
        with asked:
            asked.recv(1)
            client.close()
            waiting.join(timeout=30)
        assert not waiting.is_alive()
    assert isinstance(heard[0], Unavailable)
    assert "closed meanwhile" in heard[0].detail


def test_what_cannot_be_used_is_told_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("none.pem", "ca.pem"):
        with pytest.raises(Invalid, match="certificates"):
            Client("https://127.0.0.1:9", ca_file=tmp_path / name)
    with Client("http://127.0.0.1:9") as client:
        for path in (tmp_path / "none" / "rain.csv", tmp_path / "none" / ".."):
            with pytest.raises(Invalid, match="cannot write"):
                client.export("rain", path)
        with pytest.raises(Unavailable):
            client.export("rain", tmp_path / "rain.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]
    assert threading.active_count() == before
