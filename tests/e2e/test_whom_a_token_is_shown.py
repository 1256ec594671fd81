"""A data directory's token is for its own system: nobody else is shown it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from holdfast.app.datadir import held
from holdfast.kernel.cli import RunningProgram
from tests.support.program import run_command

TOKEN = "hf_op_of-the-data-directory"


class Server(ThreadingHTTPServer):
    """Where it is told to listen."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)


def port_of(url: str) -> int:
    """The port that it names."""
    return urlsplit(url).port or 0


@contextmanager
def foreign(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """A server that is no Holdfast, and the credentials it was shown."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("authorization", ""))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = Server(host, port, Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        shown_host = f"[{host}]" if ":" in host else host
        yield f"http://{shown_host}:{server.server_port}", shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "state").mkdir(parents=True)
    (tmp_path / "data" / "operator.token").write_text(f"{TOKEN}\n")
    return tmp_path / "data"


def test_a_foreign_server_gets_no_token_and_is_told_apart(data: Path) -> None:
    here = ["--data-dir", str(data)]
    with foreign() as (url, shown):
        asked = run_command("run", "list", "--control-plane", url, *here)
        assert "as no Holdfast does" in asked.stderr
        assert "names the gateway of a Holdfast" in asked.stderr
        run_command("doctor", "--control-plane", url, *here)
        assert set(shown) == {""}, shown

        # What was named for it, and what its own system wrote down, it is shown.
        (data / "own").write_text("an-api-key")
        named = {"HOLDFAST_OPERATOR_TOKEN_FILE": str(data / "own")}
        run_command("run", "list", "--control-plane", url, *here, environment=named)
        assert shown[-1] == "Bearer an-api-key"
        mark = RunningProgram(url=url, pid=os.getpid(), started_at="")
        (data / "holdfast.json").write_bytes(msgspec.json.encode(mark))
        shown.clear()
        run_command("run", "list", "--control-plane", url, *here)
        assert set(shown) == {""}, "there is a process of that number, which is another"
        same = url.replace("127.0.0.1", "localhost")
        lines = [["run", "list"], ["run", "list", "--control-plane", same]]
        with held(data):
            for line in lines:
                run_command(*line, *here)
                assert shown.pop() == f"Bearer {TOKEN}", line


@pytest.mark.parametrize(("mine", "theirs"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_whoever_has_the_port_at_another_address_is_not_taken_for_the_system(
    data: Path, mine: str, theirs: str
) -> None:
    """Of the two, a machine's resolver gives one first for ``localhost``."""
    here = ["--data-dir", str(data)]
    with (
        foreign(mine) as (url, shown),
        foreign(theirs, port_of(url)) as (other, others),
        held(data),
    ):
        mark = RunningProgram(url=url, pid=os.getpid(), started_at="")
        (data / "holdfast.json").write_bytes(msgspec.json.encode(mark))
        run_command("run", "list", "--control-plane", other, *here)
        assert set(others) == {""}
        others.clear()
        by_name = f"http://localhost:{port_of(url)}"
        run_command("run", "list", "--control-plane", by_name, *here)
        assert (set(shown), others) == ({f"Bearer {TOKEN}"}, [])


def test_nothing_goes_unencrypted_beyond_this_machine(data: Path) -> None:
    (data / "own").write_text("an-api-key")
    for environment in ({}, {"HOLDFAST_OPERATOR_TOKEN_FILE": str(data / "own")}):
        said = run_command(
            *("run", "list", "--control-plane", "http://10.1.2.3:8090", "--data-dir", str(data)),
            environment=environment,
        )
        assert (said.returncode, "without TLS" in said.stderr) == (2, True), said.stderr


@pytest.mark.parametrize(("held", "what"), [("", "is empty"), ("a b", "holds something else")])
def test_a_file_without_a_token_is_said_to_be_so(data: Path, held: str, what: str) -> None:
    (data / "wrong").write_text(held)
    said = run_command(
        *("run", "list", "--control-plane", "http://127.0.0.1:9", "--data-dir", str(data)),
        environment={"HOLDFAST_OPERATOR_TOKEN_FILE": str(data / "wrong")},
    )
    assert (said.returncode, f"wrong {what}" in said.stderr) == (2, True), said.stderr
