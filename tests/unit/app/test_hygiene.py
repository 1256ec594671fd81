"""The guard that looks for secrets finds them; and the repository holds none."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from holdfast.identity.operator import new_token
from holdfast.kernel.credentials import make_secret
from holdfast.kernel.ids import uuid7
from holdfast.kernel.signing import SigningKey
from tests.support import hygiene
from tests.support.attacks import jwt
from tests.support.hygiene import Guard, shapes_in

ROOT = Path(__file__).parents[3]
KEY = make_secret("hf", uuid7(1_700_000_000_000, bytes(10)), os.urandom(32))
PLAIN = "a secret of the client/with+signs"


def issued() -> dict[str, str]:
    """One of everything that has a shape."""
    random = os.urandom
    prefixed = {
        f"{prefix}_": make_secret(prefix, uuid7(1_700_000_000_000, bytes(10)), random(32))
        for prefix in ("hf", "hfw", "hfj", "hfi", "hfs")
    }
    return prefixed | {
        "hfo_": new_token("hfo", random),
        "signed token": SigningKey.from_seed(random(32)).sign({"sub": "x"}, typ="grant"),
        "private key": f"-----BEGIN {'PRIVATE KEY'}-----\n{base64.b64encode(random(48)).decode()}",
        "login link": f"http://127.0.0.1/login#{random(32).hex()}",
    }


def found_in(folder: Path, guard: Guard | None = None) -> list[str]:
    return (guard or Guard()).settle([folder])


@pytest.mark.parametrize("kind", hygiene.SHAPES)
def test_whatever_is_issued_is_found_and_not_shown(tmp_path: Path, kind: str) -> None:
    secret = issued()[kind]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "holdfast.db-wal").write_bytes(b"\0" * 1001 + secret.encode() + b"\xff")
    [told] = found_in(tmp_path)
    assert told.startswith(f"{kind} in {tmp_path}/state/holdfast.db-wal, byte ")
    assert secret[-12:] not in told
    assert {what for _, what in shapes_in(jwt(b"x" * 32, {"sub": "y"}).encode())} == {
        "signed token"
    }


def test_what_the_readme_has_written_into_a_checkout_git_leaves_alone() -> None:
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    commands = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"holdfast worker token .*--out (\S+)", commands)
    assert named
    assert {f"/{name}" for name in named} <= set(ignored)


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: base64.b64encode(text),
        lambda text: base64.urlsafe_b64encode(text),
        lambda text: text.hex().encode(),
        lambda text: text.hex().upper().encode(),
        lambda text: quote(text, safe="").encode(),
    ],
)
def test_an_encoded_secret_is_found(tmp_path: Path, spelled, before: int) -> None:  # type: ignore[no-untyped-def]
    guard = Guard()
    guard.configured({"HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET": PLAIN})
    name = "the value of HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET"
    around = b"x" * before, b" is what it is"
    (tmp_path / "log").write_bytes(b"said " + spelled(around[0] + PLAIN.encode() + around[1]))
    assert any(told.startswith(name) for told in found_in(tmp_path, guard))
    # Of what is issued nobody needs to know one to know its encoding.
    text = spelled(around[0] + KEY.encode() + around[1])
    if KEY.encode() not in text:
        (tmp_path / "log").write_bytes(b"said " + text)
        assert [told.partition(" in ")[0] for told in found_in(tmp_path)] == ["hf_ encoded"]


def test_what_a_file_holds_may_stand_nowhere_else(tmp_path: Path) -> None:
    holders = {
        "operator.token": new_token("hfo", os.urandom), "keys/key-pepper.v1": os.urandom(32).hex(),
        "drones/a.credential": f'{{"credential":{{"credential":"{issued()["hfw_"]}"}}}}',
    }  # fmt: skip
    for name, text in holders.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    assert found_in(tmp_path) == []
    half = tmp_path / "drones" / ".a.credential.4711.0123abcd"
    (tmp_path / "drones" / "a.credential").rename(half)
    assert found_in(tmp_path) == []
    half.rename(tmp_path / "drones" / "a.credential")
    copied = tmp_path / "backup"
    pepper, token = holders["keys/key-pepper.v1"], holders["operator.token"]
    credential = holders["drones/a.credential"].split('"')[5][-52:-9]
    for written in (
        pepper.encode(), bytes.fromhex(pepper), base64.b64encode(bytes.fromhex(pepper)),
        token.encode(), token[4:68].encode(), credential.encode(),
        base64.urlsafe_b64decode(f"{credential}="),
    ):  # fmt: skip
        copied.write_bytes(b"." * 7 + written)
        assert found_in(tmp_path), written
    copied.unlink()
    # One kind of secret is no excuse for another, nor is a holder that others may read.
    (tmp_path / "operator.token").write_text(KEY)
    assert [told.partition(" in ")[0] for told in found_in(tmp_path)] == ["hf_"]
    (tmp_path / "operator.token").write_text(holders["operator.token"])
    (tmp_path / "operator.token").chmod(0o644)
    assert "hfo_" in {told.partition(" in ")[0] for told in found_in(tmp_path)}


def test_a_secret_across_two_pieces_of_a_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hygiene, "PIECE_BYTES", 16_384)
    for at in (16_300, 16_384, 32_700):
        (tmp_path / "holdfast.db").write_bytes(b"-" * at + KEY.encode() + b"-" * 20_000)
        assert found_in(tmp_path) == [f"hf_ in {tmp_path}/holdfast.db, byte {at}"]


def test_what_is_said_elsewhere_is_looked_through() -> None:
    guard = Guard()
    url = "postgresql://holdfast:correct%20horse@127.0.0.1/db"
    guard.configured({"HOLDFAST_DATABASE_URL": url})
    guard.command(["config", "show"], f"database_url {url}", "")
    guard.command(["apikey", "create"], KEY, "made")
    guard.command(["apikey", "list"], "", f"cannot do it: {KEY}")
    guard.hear("/metrics", 'x{password="correct horse"} 1')
    assert guard.settle([]) == [
        "the value of HOLDFAST_DATABASE_URL in output of config show, byte 35",
        "hf_ in standard error of apikey list, byte 14",
        "the value of HOLDFAST_DATABASE_URL in /metrics, byte 12",
    ]
    assert guard.settle([]) == []


LEAK = """
from pathlib import Path
from tests.support.program import clean_environment

def test_that_passes(tmp_path: Path) -> None:
    clean_environment({"HOLDFAST_GATEWAY_ADMIN_KEY": "an admin key of the test"})
    (tmp_path / "data.log").write_text("signed in with an admin key of the test")
"""


def test_a_test_whose_programs_leak_fails(tmp_path: Path) -> None:
    (tmp_path / "test_leak.py").write_text(LEAK)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "--rootdir", tmp_path, "--basetemp", tmp_path / "base", tmp_path / "test_leak.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        # On a CI's machine pytest repeats in its summary all that a failure said.
        env={n: v for n, v in os.environ.items() if n not in ("CI", "BUILD_NUMBER")}
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    [told] = [line for line in done.stdout.splitlines() if line.startswith("the value of")]
    assert told.startswith("the value of HOLDFAST_GATEWAY_ADMIN_KEY in ")
    assert told.endswith("/data.log, byte 15")
    assert "1 passed, 1 error" in done.stdout


def test_no_file_of_the_repository_holds_a_secret() -> None:
    listed = (
        subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        if (ROOT / ".git").exists()
        else [str(path.relative_to(ROOT)) for path in ROOT.rglob("[!.]*")]
    )
    assert "pyproject.toml" in listed
    found = [
        f"{what} in {name}, byte {at}"
        for name in listed
        if name and (ROOT / name).is_file()
        for at, what in shapes_in((ROOT / name).read_bytes())
    ]
    assert found == []
