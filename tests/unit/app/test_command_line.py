"""What the command line takes before it asks anybody, and what it reads."""

from __future__ import annotations

import importlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

import holdfast
from holdfast.app.commandline import COMMANDS, app
from holdfast.app.commands.backup import _made_in, _recovered
from holdfast.app.commands.key import FORMAT, RECOVERY_BYTES_MAX, Recovery, read_recovery
from holdfast.app.commands.status import _print_overview
from holdfast.app.line import line_of
from holdfast.app.settings import resolve
from holdfast.console.overview import Overview, ServiceLine, nothing
from holdfast.kernel.cli import checked_address, read_file
from holdfast.kernel.errors import EXIT_STATUS, Invalid
from holdfast.keyring.lines import add_restrictions, read_restrictions
from holdfast.keyring.master import MasterKey, MasterKeys, render_master
from holdfast.keyring.model import Restriction, RestrictionLine


@pytest.mark.parametrize(
    ("address", "lacks"),
    [
        ("127.0.0.1:8090", "it lacks http:// or https://"),
        ("example.org", "it lacks http:// or https://"),
        ("ftp://example.org", "it is no http:// or https:// address"),
        ("http://", "it is no http:// or https:// address"),
        ("http://[::1", "it is no http:// or https:// address"),
    ],
)
def test_an_address_that_lacks_something_is_told_what(address: str, lacks: str) -> None:
    result = CliRunner().invoke(app, ["--control-plane", address, "status"])
    assert (result.exit_code, lacks in result.stderr) == (2, True), result.stderr
    assert "hint: write " in result.stderr
    result = CliRunner().invoke(app, ["status"], env={"HOLDFAST_URL": address})
    assert (result.exit_code, lacks in result.stderr) == (2, True), result.stderr


def test_a_whole_address_is_taken_as_it_is() -> None:
    for address in ("http://127.0.0.1:8090", "https://example.org/holdfast/", "http://[::1]:80"):
        assert checked_address(address, "--control-plane") == address
    with pytest.raises(Invalid):
        checked_address("", "--control-plane")


def test_tenant_and_token_of_commands_can_stand_in_the_file_and_the_environment_outranks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOLDFAST_TENANT", "HOLDFAST_OPERATOR_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    key, other, file = tmp_path / "key", tmp_path / "other", tmp_path / "holdfast.toml"
    key.write_text("key-of-the-file\n")
    other.write_text("key-of-the-variable\n")
    file.write_text(f'tenant = "press"\noperator_token_file = "{key}"\n')
    line, away = line_of(data_dir=tmp_path), "https://holdfast.example.org"
    assert (line.tenant(), line.shown(away)) == ("press", (away, "key-of-the-file"))
    shown = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "config", "show", "--json"])
    said = {row["name"]: row for row in msgspec.json.decode(shown.stdout)}
    assert (said["HOLDFAST_TENANT"]["value"], said["HOLDFAST_TENANT"]["origin"]) == (
        "press",
        str(file),
    )
    monkeypatch.setenv("HOLDFAST_TENANT", "radio")
    monkeypatch.setenv("HOLDFAST_OPERATOR_TOKEN_FILE", str(other))
    assert (line.tenant(), line.shown(away)) == ("radio", (away, "key-of-the-variable"))
    monkeypatch.delenv("HOLDFAST_TENANT")
    monkeypatch.delenv("HOLDFAST_OPERATOR_TOKEN_FILE")
    file.write_text('tenant = "No Name"\noperator_token_file = "gone"\n')
    with pytest.raises(Invalid, match="no name of a tenant") as refused:
        line.tenant()
    assert f"tenant in {file}" in refused.value.detail
    with pytest.raises(Invalid, match="gone does not exist") as refused:
        line.operator_token()
    assert refused.value.hint == f"operator_token_file in {file} names it"
    file.write_text("tenant = ")  # then nobody knows whose token it would have been
    with pytest.raises(Invalid, match="cannot use the settings"):
        line.tenant()
    monkeypatch.setenv("HOLDFAST_TENANT", "radio")
    assert line.tenant() == "radio"


def test_what_a_source_says_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _print_overview(
        Overview(
            status="degraded",
            version="0",
            services=[],
            profiles=[],
            workers=[],
            runs=[],
            reports=[],
            problems=["rain: \x1b[2J is no number"],
        )
    )
    assert capsys.readouterr().err.splitlines()[-1] == r"! rain: \x1b[2J is no number"


def test_an_address_is_the_same_with_a_slash_at_its_end() -> None:
    assert line_of(control_plane="http://127.0.0.1:1/").control_plane == "http://127.0.0.1:1"


def test_of_keys_that_cannot_all_be_put_back_none_is(tmp_path: Path) -> None:
    recovery = Recovery(
        format=FORMAT, master_key=render_master([MasterKey(1, bytes(32))]), tenant_secret="s"
    )
    (tmp_path / "r.json").write_bytes(msgspec.json.encode(recovery))
    data = tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    (data / "keys" / "master.key").write_text("another")
    said = ["--data-dir", str(data), "key", "import", str(tmp_path / "r.json")]
    result = CliRunner().invoke(app, said)
    assert (result.exit_code, "another one is there" in result.stderr) == (2, True), result.stderr
    assert not (data / "secrets").exists()


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("none.json", 4, "no such file"),
        ("folder", 2, "Is a directory"),
        ("env.sh", 2, "no recovery"),
    ],
)
def test_what_is_no_recovery_file_is_said_in_one_line(
    tmp_path: Path, name: str, status: int, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "env.sh").write_text("export A=b\n")
    for noun, *more in (["key", "import"], ["backup", "restore", "data.hfb", "--recovery"]):
        line = ["--data-dir", str(tmp_path / "data"), noun, *more, str(tmp_path / name)]
        result = CliRunner().invoke(app, line)
        assert result.exit_code == status, result.stderr
        error, hint = result.stderr.splitlines()
        assert said in error
        assert "holdfast key export --out FILE" in hint


def test_a_receipt_comes_from_standard_input_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: Any = io.TextIOWrapper(io.BytesIO(b"a receipt"))
    monkeypatch.setattr("sys.stdin", given)
    assert read_file(Path("-"), 100) == b"a receipt"
    with pytest.raises(Invalid, match="No such file"):
        read_file(tmp_path / "r.json", 100)


def test_nothing_is_not_said_of_what_nobody_could_tell() -> None:
    def seen(registry: str) -> Overview:
        lines = [ServiceLine(name="registry", status=registry)]
        return Overview(
            status="", version="", services=lines, profiles=[], workers=[], runs=[], reports=[]
        )

    assert nothing(seen("ok"), "registry", "no profiles") == "no profiles"
    assert nothing(seen("degraded"), "registry", "no profiles") == "no profiles"
    told = nothing(seen("unreachable"), "registry", "no profiles")
    assert told == "profiles not known: the registry is unreachable"


def test_keys_that_are_not_there_are_told_with_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_DATA_DIR", raising=False)
    out = tmp_path / "safe.json"
    for words in ([], ["--data-dir", str(tmp_path / "wrong")]):
        result = CliRunner().invoke(app, [*words, "key", "export", "--out", str(out)])
        looked_at = tmp_path / ("wrong" if words else "data")
        assert result.exit_code == 4
        assert f"cannot export the keys of {looked_at}: there is no " in result.stderr
        assert "--data-dir" in result.stderr.splitlines()[-1]
    assert not out.exists()


def test_keys_are_exported_although_nobody_can_bring_it_on_the_record(tmp_path: Path) -> None:
    """Whoever reads the files can copy them: to refuse would keep nobody from it. It is said."""
    data, out = tmp_path / "data", tmp_path / "safe.json"
    MasterKeys.create(data / "keys" / "master.key")
    (data / "secrets").mkdir()
    (data / "secrets" / "tenant-secrets").write_text("s")
    result = CliRunner().invoke(app, ["--data-dir", str(data), "key", "export", "--out", str(out)])
    assert (result.exit_code, out.exists()) == (0, True), result.stderr
    assert "not on the record: cannot find a system" in result.stderr


def test_reasons_in_any_script_are_exported_and_put_back(tmp_path: Path) -> None:
    data, other, out = tmp_path / "data", tmp_path / "other", tmp_path / "safe.json"
    MasterKeys.create(data / "keys" / "master.key")
    (data / "secrets").mkdir()
    (data / "secrets" / "tenant-secrets").write_text("s")
    held = Restriction(
        subject="ab" * 16,
        kind="hold",
        reason="Prüfung läuft: 調査中\u2028",
        until="",
        placed_by="operator",
        placed_at="2026-11-01T00:00:00.000000Z",
    )
    add_restrictions(data / "keys", [RestrictionLine(tenant="default", placed=held)])
    for words in (["key", "export", "--out", str(out)], ["key", "import", str(out)]):
        folder = data if "export" in words else other
        result = CliRunner().invoke(app, ["--data-dir", str(folder), *words])
        assert result.exit_code == 0, result.output
    assert read_restrictions(other / "keys") == read_restrictions(data / "keys")
    third = resolve({}, {"data_dir": str(tmp_path / "third")})
    with _recovered(third, out) as (master, lists, exported_at):
        assert master
        assert exported_at.endswith("Z")
        assert lists is not None
        assert read_restrictions(lists) == read_restrictions(data / "keys")


class _HalfWay(BaseHTTPRequestHandler):
    """A door behind which one role answers, and the next does not know what it is asked."""

    def do_POST(self) -> None:
        there = self.path.startswith("/v1/prune/registry")
        body = b'{"role": "registry", "dry_run": false, "idempotency_keys": 7}' if there else b"{}"
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_earlier_roles_pruned_is_said_when_a_later_one_fails(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _HalfWay) as door:
        answering = threading.Thread(target=door.serve_forever)
        answering.start()
        try:
            said = ["--data-dir", str(tmp_path), "--control-plane",
                    f"http://127.0.0.1:{door.server_port}", "prune", "--json"]  # fmt: skip
            result = CliRunner().invoke(app, said)
        finally:
            door.shutdown()
            answering.join()
    assert result.exit_code != 0
    [done] = msgspec.json.decode(result.stdout)["roles"]
    assert (done["role"], done["idempotency_keys"]) == ("registry", 7)


def test_a_recovery_file_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with path.open("wb") as stream:
        stream.truncate(RECOVERY_BYTES_MAX + 1)
    with pytest.raises(Invalid, match="too large"):
        read_recovery(path)


@pytest.mark.parametrize(
    ("typed", "said"), [("statsu", "Did you mean 'status'?"), ("xyzzy", "command 'xyzzy'.")]
)
def test_a_noun_that_is_mistyped_is_told_the_one_that_was_meant(typed: str, said: str) -> None:
    result = CliRunner().invoke(app, [typed], env={"COLUMNS": "100"})
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("noun", sorted(COMMANDS))
def test_the_help_of_each_noun_has_an_example(noun: str) -> None:
    shown = CliRunner().invoke(app, [noun, "--help"]).stdout
    assert "Example" in shown or "Begin with" in shown


class _LosesAnswers(BaseHTTPRequestHandler):
    """A door that takes what is sent, and hangs up."""

    taken: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.taken.append(msgspec.json.decode(self.rfile.read(int(self.headers["content-length"]))))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_an_append_whose_answer_is_lost_says_how_it_is_repeated(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _LosesAnswers) as door:
        answering = threading.Thread(target=door.serve_forever)
        answering.start()
        said = ["--data-dir", str(tmp_path), "--control-plane",
                f"http://127.0.0.1:{door.server_port}", "ledger", "append", "notes/a",
                "note.added", "{}"]  # fmt: skip
        try:
            first = CliRunner().invoke(app, said)
            (named,) = {each["events"][0]["id"] for each in _LosesAnswers.taken}
            assert f"append it again with --id {named}" in first.stderr
            CliRunner().invoke(app, [*said, "--id", named])
            # A reused variable that is empty would leave the payload to nobody's erasure.
            nobody = CliRunner().invoke(app, [*said, "--about", ""])
        finally:
            door.shutdown()
            answering.join()
    assert {each["events"][0]["id"] for each in _LosesAnswers.taken} == {named}
    assert (nobody.exit_code, "--about names nobody" in nobody.stderr) == (2, True), nobody.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", ["version", "profile --help"])
def test_a_full_output_is_told_in_a_line(line: str, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.app.main", *line.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    told, hint = done.stderr.splitlines()
    assert told == "error: cannot write standard output: No space left on device"
    assert hint.startswith("hint: where it leads")
    assert done.returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("line", "status"),
    [
        (["version"], 0),
        (["--help"], 0),
        (["profile", "--help"], 0),
        (["config", "show"], 0),
        (["config", "show", "--json"], 0),
        (["doctor"], 1),
    ],
)
def test_a_reader_that_went_away_is_told_nothing(
    line: list[str], status: int, unbuffered: str, tmp_path: Path
) -> None:
    """Not even by the status, unless there is something to tell by it."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "holdfast.app.main",
                *line,
                "--data-dir",
                str(tmp_path / "none"),
            ],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(theirs)
    if not unbuffered or not status:
        assert done.returncode == status
    assert done.stderr == ""


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {interrupt}

from holdfast.app import main
sys.meta_path.insert(0, Interrupt())
sys.argv = ["holdfast", *{line!r}]
main.main()
"""


@pytest.mark.parametrize(
    "interrupt",
    ["raise KeyboardInterrupt", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"],
)
@pytest.mark.parametrize(
    ("line", "module"),
    [
        (["version"], "holdfast.kernel.interrupts"),
        (["status"], "holdfast.app.straight"),
        (["status"], "holdfast.app.commandline"),
        (["status"], "holdfast.app.commands.status"),
        (["up", "--data-dir", "never-made"], "holdfast.app.household"),
    ],
)
def test_an_interrupt_while_modules_are_loaded_is_one(
    line: list[str], module: str, interrupt: str
) -> None:
    code = INTERRUPTED.format(line=line, module=module, interrupt=interrupt)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


FIRST_LINES = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "holdfast.kernel.importing":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = [{program!r}, "status"]
try:
    import holdfast.app.main
except KeyboardInterrupt:
    print("raised")
"""


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [("/usr/bin/holdfast", -signal.SIGINT, ""), ("/usr/bin/another", 0, "raised\n")],
)
def test_an_interrupt_in_the_first_lines_ends_our_own_program_and_is_raised_in_others(
    program: str, status: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_LINES.format(program=program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, said, "")


FORGETTING = """
import os, signal, sys
from holdfast.app import main

class Forgetting:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):
            pass

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "holdfast.app.commandline":
            Forgetting()

sys.meta_path.insert(0, Interrupt())
sys.argv = ["holdfast", "--help"]
main.main()
"""


def test_an_interrupt_where_python_can_raise_none_is_not_forgotten() -> None:
    """In a callback of the import system it is printed, and the program goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FORGETTING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_hardly_anything_is_loaded_before_an_interrupt_is_one() -> None:
    source = str(Path(holdfast.__file__).parents[1])
    code = (
        "import sys; before = set(sys.modules); import holdfast.app.main; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert loaded & {"typing", "re", "enum", "contextlib", "threading", "collections"} == set()
    assert len(loaded) < 20, loaded


def test_the_page_for_scripts_has_every_exit_status() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "command-line.md"
    rows = [line.split("|") for line in page.read_text("utf-8").replace("\\|", "").splitlines()]
    told = {
        kind.strip(" `"): int(row[1])
        for row in rows
        if len(row) == 5 and row[1].strip().isdecimal()
        for kind in row[3].split(",")
        if kind.strip()
    }
    assert told == {kind.value: status for kind, status in EXIT_STATUS.items()}


def test_no_help_is_taken_for_markup() -> None:
    """What stands in square brackets would not be shown: a default is told as one."""

    def helps(command: Any) -> Iterator[str]:
        told = (command, *command.params)
        yield from (text for each in told if (text := getattr(each, "help", None)))
        yield command.epilog or ""
        for inner in getattr(command, "commands", {}).values():
            yield from helps(inner)

    texts = []
    for where, _ in COMMANDS.values():
        module, _, attribute = where.partition(":")
        texts += helps(get_command(getattr(importlib.import_module(module), attribute)))
    assert len(texts) > 300
    assert [text for text in texts if Text.from_markup(text).plain != text] == []


@pytest.mark.parametrize(
    ("file", "made_in"),
    [
        ("/x/data/aggregator/backups/data-1.hfb", "/x/data/aggregator"),
        ("/x/data/gateway/backups/data-1.hfb", "/x/data/gateway"),
        ("/elsewhere/data-1.hfb", "/x/data/gateway"),
    ],
)
def test_the_keys_of_a_backup_are_where_it_was_made(file: str, made_in: str) -> None:
    assert _made_in(file, Path("/x/data/gateway")) == Path(made_in)


def test_a_backfill_from_what_is_no_day_is_told_so(tmp_path: Path) -> None:
    line = ["--data-dir", str(tmp_path), "profile", "run", "rain", "--from", "x"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2, result.stderr
    assert "--from 'x' is no day" in result.stderr
