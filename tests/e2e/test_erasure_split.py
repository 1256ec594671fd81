"""One request about a person where every role has a keyring of its own reaches all of them.

Personal records lie under the aggregator's keyring, events `about` somebody under the ledger's. The
door asks both, before it destroys anything in either, and tells what is done where one is away.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.keyring import MasterKeys
from tests.e2e.test_erasure import JANE, JOE, PROFILE, source
from tests.e2e.test_receipts_split import receipt
from tests.support.postgres import PostgresServer
from tests.support.program import run_command, wait_until
from tests.support.searching import places_of
from tests.support.stack import Stack, running

pytestmark = pytest.mark.timeout(1200)
__all__ = ["source"]

KEYS = [
    {"name": name, "key": f"the-key-of-{name}-".ljust(40, "x"), "tenant": tenant, "roles": [role]}
    for name, tenant, role in (("counsel", "office", "admin"), ("reader", "default", "operator"))
]
KEPT = ("ledger", "registry", "aggregator", "coordinator", "gateway")


def deployed(tmp_path: Path, source: int) -> Stack:
    """What collecting people takes, each role with a data directory, so a keyring, of its own."""
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "clinic.yaml").write_text(PROFILE.format(port=source))
    replay = tmp_path / "replay.json"
    replay.write_text("{}")
    made = Stack(tmp_path / "stack", "split", replay, profiles, drones=1, roles=KEPT)
    made.directory.mkdir()
    (tmp_path / "keys.json").write_text(json.dumps({"keys": KEYS}))
    made.environment = {
        "HOLDFAST_COLLECT_ALLOW": f"127.0.0.1:{source}",
        "HOLDFAST_IDENTITY_KEYS_FILE": str(tmp_path / "keys.json"),
    }
    return made


@pytest.fixture
def stack(tmp_path: Path, source: int) -> Iterator[Stack]:
    with running(deployed(tmp_path, source)) as made:
        yield made


@pytest.fixture
def sharing(tmp_path: Path, source: int, postgres: PostgresServer) -> Iterator[Stack]:
    """The same with one keyring for all, on PostgreSQL."""
    made = deployed(tmp_path, source)
    postgres.execute("CREATE DATABASE erasure_split")
    made.environment = dict(made.environment) | {
        "HOLDFAST_KEYRING_URL": postgres.dsn("erasure_split"),
        "HOLDFAST_KEYRING_MASTER_KEY_FILE": str(MasterKeys.create(tmp_path / "master.key").path),
    }
    # Before there ever was an aggregator somebody is erased at the ledger's own door.
    made.start_role("ledger")
    early = done(made, "erase", "early", "--even-unknown", of="ledger")
    assert (early["state"], early["keys"]) == ("done", 0)
    with running(made):
        yield made


def asked(stack: Stack, *command: str, of: str = "gateway") -> subprocess.CompletedProcess[str]:
    """A command about somebody, as the operator at the door, or at a role's own."""
    reason = ["--reason", "case 12"] if command[0] in ("erase", "hold", "release") else []
    where = ["--data-dir", str(stack.directory / of), "--json"]
    return run_command("ledger", *command, *reason, *where)


def done(stack: Stack, *command: str, of: str = "gateway") -> Any:
    """What a command that succeeds answers."""
    found = asked(stack, *command, of=of)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def refused(found: subprocess.CompletedProcess[str]) -> tuple[int, str, dict[str, str]]:
    """Its status, the code, and what it says of each role."""
    said = json.loads(found.stderr.splitlines()[-1])
    told = {each["path"]: each["message"] for each in said.get("problems", [])}
    return found.returncode, said["code"], told


def events(stack: Stack, stream: str) -> list[tuple[bool, Any]]:
    """Whether each event of a stream is erased, and its payload."""
    found = stack.door.items("/v1/ledger/entries", stream=stream)
    return [(each.get("erased", False), each.get("payload")) for each in found]


def patients(stack: Stack) -> set[str]:
    """Whom the records name."""
    rows = stack.door.items("/v1/records", profile="clinic")
    return {row["dimensions"]["patient"] for row in rows if "patient" in row["dimensions"]}


def by_role(answer: Any) -> dict[str, Any]:
    return {" ".join(each["roles"]): each for each in answer["keyrings"]}


def test_one_erasure_reaches_every_keyring_or_says_which_it_did_not(
    stack: Stack, tmp_path: Path
) -> None:
    stack.collect_all()
    stack.settle()
    for who in (JANE, JOE, "jim"):
        done(
            stack,
            "append",
            f"people/{who[:3]}",
            "person.added",
            f'{{"m": "{who}"}}',
            "--about",
            who,
        )
    assert patients(stack) == {JANE, JOE}
    here = (False, {"m": JANE})

    # A name that is misspelt is held, and said to be nobody's.
    typo = asked(stack, "hold", JANE.title())
    assert (typo.returncode, json.loads(typo.stdout)["known"]) == (0, False)
    held = done(stack, "hold", JANE)
    assert held["known"] is True
    assert {role: each["known"] for role, each in by_role(held).items()} == {
        "aggregator": True, "ledger": True,
    }  # fmt: skip

    # Held: nothing is erased anywhere, and at the ledger's own door neither.
    for door in ("gateway", "ledger"):
        assert refused(asked(stack, "erase", JANE, of=door))[:2] == (5, "subject-held")
    assert (patients(stack), events(stack, "people/jan")) == ({JANE, JOE}, [here])

    others_ask_as_themselves(stack)

    # A role that is away: what is not done is said, and nothing is erased.
    stack.kill("ledger")
    status, code, told = refused(asked(stack, "release", JANE))
    assert (status, code) == (6, "released-in-part")
    assert told["aggregator"].startswith("released")
    assert told["ledger"].startswith("not released: cannot reach the ledger")
    tax = ["retain", "somebody", "--until", "2090-01-01T00:00:00Z", "--reason", "tax law"]
    status, code, told = refused(asked(stack, *tax))
    assert (status, code) == (6, "retained-in-part")
    assert told["aggregator"].startswith("retained since ")
    assert told["ledger"].startswith("not retained: cannot reach the ledger")
    status, code, told = refused(asked(stack, "erase", JANE))
    assert (status, code) == (6, "role-unreachable")
    assert told == {
        "aggregator": "not erased",
        "ledger": "not erased: cannot reach the ledger: it does not answer",
    }
    assert patients(stack) == {JANE, JOE}
    stack.start_role("ledger")
    assert [*by_role(done(stack, *tax))] == ["aggregator", "ledger"]
    assert refused(asked(stack, "erase", JANE))[:2] == (5, "subject-held")  # in the ledger still
    assert patients(stack) == {JANE, JOE}

    receipts = [receipt_of(stack, who) for who in (JANE, JOE)]
    left = done(stack, "release", JANE)
    kept = [each["reason"] for each in left["restrictions"]]
    assert kept == ["case 12", "tax law"] * 2  # of the typo, and of somebody
    erased = done(stack, "erase", JANE)
    assert (erased["state"], erased["keys"], erased["repeated"]) == ("done", 2, False)
    parts = by_role(erased)
    assert {role: each["erasure"]["keys"] for role, each in parts.items()} == {
        "aggregator": 1, "ledger": 1,
    }  # fmt: skip
    assert patients(stack) == {JOE}
    assert events(stack, "people/jan") == [(True, None)]
    assert events(stack, "people/joe") == [(False, {"m": JOE})]
    more = asked(stack, "append", "people/jan", "person.added", "{}", "--about", JANE)
    assert refused(more)[:2] == (5, "subject-erased")
    assert done(stack, "erase", JANE)["repeated"] is True
    told_to_a_person(stack)

    # Begun where only the ledger was asked, with the aggregator away: said, and finished later.
    assert done(stack, "erase", "jim", of="ledger")["keyrings"] == []
    stack.kill("aggregator")
    status, code, told = refused(asked(stack, "erase", "jim"))
    assert (status, code) == (6, "erased-in-part")
    assert told["ledger"].startswith("erased since ")
    assert told["aggregator"] == "not erased: cannot reach the aggregator: it does not answer"
    stack.start_role("aggregator")
    finished = by_role(done(stack, "erase", "jim"))
    assert {role: each["erasure"]["repeated"] for role, each in finished.items()} == {
        "aggregator": False, "ledger": True,
    }  # fmt: skip

    # The evidence: an event for each keyring, by its own name of her, and nothing of hers left.
    tokens = [each["erasure"]["subject"] for each in parts.values()]
    wait_until(lambda: set(tokens) <= of_type(stack, "subject.erased"), what="the events")
    listed = run_command("key", "subjects", "--json", "--data-dir", str(stack.door.data_dir))
    shown = by_role(json.loads(listed.stdout))
    assert {role: len(each["erasures"]) for role, each in shown.items()} == {
        "aggregator": 2, "ledger": 2,
    }  # fmt: skip
    assert places_of(stack.directory, JANE) == []
    where = ["--data-dir", str(stack.door.data_dir)]
    assert json.loads(run_command("ledger", "verify", "--json", *where).stdout)["sound"]

    # Receipts hold: Joe's, and hers from before.
    (tmp_path / "trust").write_bytes(stack.door.client.get("/v1/ledger/trust").content)
    for made in (*receipts, receipt_of(stack, JOE)):
        (tmp_path / "r.json").write_bytes(made)
        checked = run_command("verify", "r.json", "--trust", "trust", cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_roles_that_share_a_keyring_erase_once_whichever_is_asked(sharing: Stack) -> None:
    stack = sharing
    stack.collect_all()
    stack.settle()
    for who in (JANE, JOE):
        words = ["append", f"people/{who[:3]}", "person.added", "{}", "--about", who]
        done(stack, *words)
    again = "erasures that others ended are taken up again"
    assert (stack.directory / "aggregator.log").read_text().count(again) == 1
    [run] = [each["id"] for each in stack.door.items("/v1/runs")]
    [response] = stack.door.get(f"/v1/runs/{run}/responses")
    raw = f"/v1/runs/{run}/responses/{response['response']['sequence']}/content"
    assert JANE in stack.door.client.get(raw).text

    # The ledger has no copies beside the keys: it leaves them to the aggregator, which looks.
    assert done(stack, "erase", JOE, of="ledger")["state"] == "erasing"
    over = lambda: done(stack, "erase", JOE, of="ledger")["state"] == "done"  # noqa: E731
    wait_until(over, what="the aggregator to remove what lies beside the key")
    gone = stack.door.client.get(raw)
    assert (gone.status_code, JANE in gone.text) == (404, False), gone.text
    assert (patients(stack), events(stack, "people/joe")) == ({JANE}, [(True, None)])

    held = done(stack, "hold", JANE)
    assert (held["known"], held["keyrings"]) == (True, [])
    for door in ("gateway", "ledger"):
        assert refused(asked(stack, "erase", JANE, of=door))[:2] == (5, "subject-held")
    assert done(stack, "release", JANE)["restrictions"] == []
    erased = done(stack, "erase", JANE)
    assert (erased["state"], erased["keys"], erased["keyrings"]) == ("done", 1, [])
    assert (patients(stack), events(stack, "people/jan")) == (set(), [(True, None)])
    wait_until(lambda: len(of_type(stack, "subject.erased")) == 3, what="one event for each")
    stack.settle()
    streamed = stack.door.items("/v1/ledger/entries", stream="subjects")
    kinds = Counter(each["type"] for each in streamed)
    assert kinds == {"subject.erased": 3, "subject.held": 1, "subject.released": 1}
    for role in ("aggregator", "ledger"):
        checks = httpx.get(f"{stack.running[role].url}/ready").json()["checks"]
        bad = {name for name, one in checks.items() if one["status"] != "ok"}
        assert bad == {"durability"}, "told twice it is one"  # the tests' server flushes nothing


def told_to_a_person(stack: Stack) -> None:
    """A line for each keyring, and in words what a name is that nobody knows, or that is gone."""
    where = ["--data-dir", str(stack.door.data_dir)]
    why = ["--reason", "case 13"]

    def said(*command: str) -> tuple[list[str], str]:
        found = run_command("ledger", *command, *why, *where)
        assert found.returncode == 0, found.stderr
        roles = [line.split()[0] for line in found.stdout.splitlines()]
        return [role for role in roles if role in KEPT], found.stderr

    both = ["aggregator", "ledger"]
    roles, words = said("hold", "nobody-yet")
    assert roles == both
    assert "nobody of that name is known here: the hold waits for them" in words
    until = ["--until", "2090-01-01T00:00:00Z"]
    roles, words = said("retain", JANE, *until)
    assert roles == both
    assert "nothing is left for the retention to keep" in words
    roles, words = said("erase", JANE)
    assert roles == both
    assert "erased before, on " in words
    roles, words = said("release", "nobody-yet")
    # The typo's, the two retentions, her erasure.
    assert roles == ["aggregator"] * 4 + ["ledger"] * 4


def others_ask_as_themselves(stack: Stack) -> None:
    """By way of the door nobody has more rights at a role, nor another tenant, than at the door."""
    counsel, reader = (
        httpx.Client(
            base_url=stack.door.url, headers={"authorization": f"Bearer {each['key']}"}, timeout=60,
            trust_env=False,
        )
        for each in KEYS
    )  # fmt: skip
    with counsel, reader:
        jane = {"subject": JANE, "reason": "asked"}
        for verb in ("erase", "hold", "release", "look"):
            body = {"subject": JANE} if verb == "look" else jane
            assert reader.post(f"/v1/subjects/{verb}", json=body).status_code == 403
        unknown = counsel.post("/v1/subjects/erase", json=jane)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "subject-unknown")
        held = counsel.post("/v1/subjects/hold", json=jane).json()
        assert held["known"] is False
        by = {each["restriction"]["placed_by"] for each in held["keyrings"]}
        assert by == {counsel.get("/v1/whoami").json()["subject"]}
        listed = counsel.get("/v1/subjects").json()
        assert [len(each["restrictions"]) for each in listed["keyrings"]] == [1, 1]
        released = counsel.post("/v1/subjects/release", json=jane).json()
        assert released["restrictions"] == []


def receipt_of(stack: Stack, who: str) -> bytes:
    """The receipt of somebody's record."""
    rows = stack.door.items("/v1/records", profile="clinic")
    [record] = [row["id"] for row in rows if row["dimensions"].get("patient") == who]
    return receipt(stack.door.client, f"/v1/records/{record}/receipt")


def of_type(stack: Stack, type_: str) -> set[str]:
    """The keyed names in the events of a type."""
    found = stack.door.items("/v1/ledger/entries", stream="subjects")
    return {each["payload"]["subject"] for each in found if each["type"] == type_}
