"""A bad disk, a lost tail, flipped bits under the ledger: an error, a report, never a lie."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import open_database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.ids import uuid7
from holdfast.ledger.model import Append
from tests.e2e.test_faults import Disk, full, preloaded
from tests.e2e.test_ledger_kill import SEED
from tests.support.ledger import NOW, ONE, event, everything, ledger_on, one, verdict
from tests.support.program import Program, run_command, start, wait_until
from tests.support.soaking import scale

pytestmark = pytest.mark.timeout(1200)

QUIET = {"HOLDFAST_LOG_LEVEL": "error"}


def numbered(number: int) -> dict[str, Any]:
    id_ = uuid7(1_792_000_000_000 + number, number.to_bytes(10, "big"))
    return {"id": id_, "stream": "faults/one", "type": "n.sent", "payload": {"n": number}}


def append(program: Program, number: int) -> httpx.Response:
    return program.client.post("/v1/ledger/events", json={"events": [numbered(number)]}, timeout=30)


DISKS: dict[str, Callable[[Path], AbstractContextManager[Disk]]] = {
    "full": full,
    "readonly": partial(preloaded, how="readonly"),
    "fsync": partial(preloaded, how="fsync"),
}


@pytest.mark.parametrize("how", sorted(DISKS))
def test_a_bad_disk_is_an_error_and_costs_nothing_acknowledged(tmp_path: Path, how: str) -> None:
    with DISKS[how](tmp_path) as disk:
        environment = QUIET | disk.environment
        program = start(["serve", "ledger", "--port", "0"], disk.data_dir, environment=environment)
        acknowledged: dict[str, int] = {}
        refused: Counter[str] = Counter()

        def tell(number: int) -> bool:
            answer = append(program, number)
            if answer.status_code == 200:
                placed = answer.json()["events"][0]
                acknowledged[placed["id"]] = placed["position"]
                return True
            assert answer.status_code == 503, answer.text
            refused[answer.json()["code"]] += 1
            return False

        try:
            assert all(tell(number) for number in range(10))
            disk.spoil()
            told = [tell(number) for number in range(10, 40)]
            assert not all(told), "the disk was bad, and nobody noticed"
            assert program.process.poll() is None
            disk.mend()
            wait_until(lambda: tell(40), what="the ledger to take events again")
            program.kill()
            program = start(
                ["serve", "ledger", "--port", "0"], disk.data_dir, environment=environment
            )
            found = {e["id"]: e["position"] for e in program.items("/v1/ledger/entries", limit=500)}
            assert {id_: found.get(id_) for id_ in acknowledged} == acknowledged
            assert len(set(found.values())) == len(found)
            again = append(program, 5)
            assert again.json()["events"][0]["position"] == acknowledged[numbered(5)["id"]]
            verdict = run_command("ledger", "verify", "--json", "--data-dir", str(disk.data_dir))
            assert verdict.returncode == 0, verdict.stdout + verdict.stderr
            print(f"{how}: {len(acknowledged)} acknowledged, refused {dict(refused)}")
        finally:
            program.kill()


CALLS_MAX = 200
"""More writes and flushes than an append makes."""
STREAMS_OF_ONE = 3


def test_each_write_and_flush_of_an_append_fails_once_and_none_of_them_lies(tmp_path: Path) -> None:
    """Call after call, until an append is through before the one that was to fail."""
    with preloaded(tmp_path, how="once") as disk:
        environment = QUIET | disk.environment | {"HOLDFAST_LEDGER_CHECKPOINT_SECONDS": "3600"}
        flag = tmp_path / f"{disk.data_dir.name}.once"
        serve = partial(
            start, ["serve", "ledger", "--port", "0"], disk.data_dir, environment=environment
        )
        program = serve()
        acknowledged: dict[str, int] = {}
        appends: list[list[str]] = []
        outcomes: Counter[str] = Counter()

        def tell() -> int:
            """Append an event to each of some streams at once; they are all there, or none."""
            number = STREAMS_OF_ONE * len(appends)
            events = [
                {**numbered(number + n), "stream": f"faults/{n}"} for n in range(STREAMS_OF_ONE)
            ]
            appends.append([str(each["id"]) for each in events])
            answer = program.client.post("/v1/ledger/events", json={"events": events}, timeout=60)
            outcomes[str(answer.status_code)] += 1
            if answer.status_code == 200:
                acknowledged.update({e["id"]: e["position"] for e in answer.json()["events"]})
            else:
                assert answer.status_code == 503, answer.text
                assert answer.json()["detail"], answer.text
            return answer.status_code

        try:
            assert tell() == 200
            failed = 0
            for call in range(1, CALLS_MAX):
                again = tmp_path / "again"
                again.write_text(f"{call} {call}")
                again.rename(flag)
                status = tell()
                fired = not flag.exists()
                flag.unlink(missing_ok=True)
                if not fired:
                    assert status == 200
                    break
                failed += 1
                assert program.process.poll() is None
                wait_until(lambda: tell() == 200, what="the ledger to take events again")
            else:
                raise AssertionError("an append never came through")
            assert failed >= 5, "frames, flush, head file and its flush at least"
            program.kill()
            program = serve()
            found = {e["id"]: e["position"] for e in program.items("/v1/ledger/entries", limit=500)}
            assert {id_: found.get(id_) for id_ in acknowledged} == acknowledged
            assert sorted(found.values()) == list(range(len(found)))
            by_half = [ids for ids in appends if 0 < sum(id_ in found for id_ in ids) < len(ids)]
            assert not by_half
            verdict = run_command("ledger", "verify", "--json", "--data-dir", str(disk.data_dir))
            assert verdict.returncode == 0, verdict.stdout + verdict.stderr
            print(f"{failed} writes and flushes failed once each; answers {dict(outcomes)}")
        finally:
            program.kill()


def test_a_lost_tail_is_told_by_the_served_program_which_goes_on_when_told_to(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    program = start(["serve", "ledger", "--port", "0"], folder, environment=QUIET)
    for number in range(12):
        assert append(program, number).status_code == 200
    assert program.stop() == 0
    with sqlite3.connect(folder / "state" / "holdfast.db") as database:
        database.execute("DELETE FROM ledger_commits WHERE first >= 9")
    database.close()
    for _ in range(2):
        program = start(["serve", "ledger", "--port", "0"], folder, environment=QUIET)
        refusal = append(program, 50)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "ledger-read-only")
        status = program.get("/v1/ledger/status")
        assert status["writable"] is False
        assert status["damage"]["reason"] == "lost-tail"
        assert (status["damage"]["first"], status["damage"]["last"]) == (9, 11)
        ready = program.client.get("/ready").json()
        assert (ready["status"], ready["checks"]["ledger"]["status"]) == ("degraded", "degraded")
        assert b"holdfast_ledger_read_only_logs 1.0" in program.client.get("/metrics").content
        if _ == 0:
            program.kill()
    verdict = run_command("ledger", "verify", "--json", "--data-dir", str(folder))
    assert verdict.returncode == 7
    made = run_command("ledger", "restart", "--reason", "a test", "--data-dir", str(folder))
    assert made.returncode == 0, made.stderr
    # Past the size that was told of what is lost, too: there are other entries now.
    for number in range(50, 54):
        assert append(program, number).status_code == 200
        assert program.get("/ready")["checks"]["ledger"]["status"] == "ok"
        verdict = run_command("ledger", "verify", "--data-dir", str(folder))
        assert verdict.returncode == 0, verdict.stdout
    program.kill()


def test_a_byte_of_a_stored_frame_is_told_though_nobody_reads_and_stays_so(tmp_path: Path) -> None:
    """Under the running program, far from the log's end, where no start looks."""
    folder = tmp_path / "data"
    environment = QUIET | {"HOLDFAST_LEDGER_LOOK_SECONDS": "0.2"}
    serve = partial(start, ["serve", "ledger", "--port", "0"], folder, environment=environment)

    def told(program: Program) -> None:
        wait_until(
            lambda: program.client.get("/ready").json()["checks"]["ledger"]["status"] == "degraded",
            what="the damage to be told",
        )
        assert program.client.get("/ready").json()["status"] == "degraded"
        assert b"holdfast_ledger_read_only_logs 1.0" in program.client.get("/metrics").content
        status = program.get("/v1/ledger/status")
        assert (status["writable"], status["damage"]["reason"]) == (False, "damaged")
        assert status["damage"]["first"] == 30
        refusal = append(program, 1000)
        assert (refusal.status_code, refusal.json()["code"]) == (503, "ledger-read-only")

    program = serve()
    for first in range(0, 320, 10):
        events = [numbered(number) for number in range(first, first + 10)]
        assert program.client.post("/v1/ledger/events", json={"events": events}).status_code == 200
    signed = program.client.get("/v1/ledger/checkpoint").text
    with sqlite3.connect(folder / "state" / "holdfast.db", timeout=60) as database:
        (frame,) = database.execute("SELECT frame FROM ledger_commits WHERE first = 30").fetchone()
        frame = frame[:60] + bytes([frame[60] ^ 8]) + frame[61:]
        database.execute("UPDATE ledger_commits SET frame = ? WHERE first = 30", (frame,))
    database.close()
    told(program)
    program.kill()
    program = serve()
    told(program)
    assert program.client.get("/v1/ledger/checkpoint").text == signed
    backup = partial(run_command, "backup", "create", "--json", "--data-dir", str(folder))
    refused = backup()
    assert refused.returncode == 7, refused.stdout + refused.stderr
    assert "damaged at 30" in refused.stderr
    assert not list((folder / "backups").glob("data-*"))
    made = backup("--damaged-ledger")
    assert made.returncode == 0, made.stderr
    files = json.loads(made.stdout)
    assert "damaged at 30" in files["ledger"]
    master = run_command("key", "export", "--out", str(tmp_path / "m"), "--data-dir", str(folder))
    assert master.returncode == 0, master.stderr
    again = run_command("ledger", "restart", "--reason", "a test", "--data-dir", str(folder))
    assert again.returncode == 0, again.stderr
    # After the entry of the restart; what waited to be told of the backup may come before.
    assert append(program, 1000).json()["events"][0]["position"] > 30
    assert program.get("/ready")["checks"]["ledger"]["status"] == "ok"
    program.kill()
    restored = tmp_path / "restored"
    back = run_command(
        *("backup", "restore", files["data_file"], "--keys", files["keys_file"]),
        *("--recovery", str(tmp_path / "m"), "--data-dir", str(restored)),
    )
    assert back.returncode == 0, back.stderr
    assert "ledger restart" in back.stderr
    program = start(["serve", "ledger", "--port", "0"], restored, environment=QUIET)
    told(program)
    program.kill()


FLIPS = 40


@pytest.mark.soak
def test_a_flipped_bit_in_any_file_is_an_error_or_harmless_never_a_wrong_answer(
    tmp_path: Path,
) -> None:
    """Flips one bit of one file, opens the ledger on it, and holds every answer to the truth."""
    chance = random.Random(SEED)
    outcomes: Counter[str] = Counter()

    async def body() -> None:
        original = tmp_path / "original"
        truth, root = await make(original)
        files = [path for path in sorted(original.rglob("*")) if path.is_file()]
        files = [path for path in files if not path.name.endswith(".lock")]
        for number in range(FLIPS * scale()):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(original, copy)
            # The database is the largest file by far; the small ones get their share.
            weights = [8 if path.suffix == ".db" else 1 for path in files]
            victim = copy / chance.choices(files, weights)[0].relative_to(original)
            data = bytearray(victim.read_bytes())
            at = chance.randrange(len(data))
            data[at] ^= 1 << chance.randrange(8)
            victim.write_bytes(bytes(data))
            try:
                outcome = await judged(copy, truth, root)
            except AssertionError as error:
                raise AssertionError(f"flip {number}: {victim.name} at {at}: {error}") from error
            outcomes[outcome] += 1

    asyncio.run(body())
    print(dict(outcomes))
    assert outcomes["seen"]
    assert outcomes["harmless"]


async def make(folder: Path) -> tuple[list[Any], str]:
    from holdfast.kernel.clock import SystemClock
    from holdfast.kernel.database import create_schema
    from holdfast.migrations import load_tables

    load_tables()
    folder.mkdir()
    async with open_database(f"sqlite:///{folder / 'x.db'}", clock=SystemClock()) as database:
        await create_schema(database)
        async with ledger_on(database, folder, clock=ManualClock(NOW)) as ledger:
            for at in range(0, 400, 20):
                events = [event(n, f"notes/{n % 5}") for n in range(at, at + 20)]
                await ledger.append(ONE, Append(events=events))
            await ledger.checkpoint(ONE)
            return await everything(ledger), (await ledger.status(ONE)).root


async def judged(folder: Path, truth: list[Any], root: str) -> str:
    """``seen`` if something said that it is wrong, ``harmless`` if everything is as it was."""
    from holdfast.kernel.clock import SystemClock

    seen = False
    try:
        async with (
            open_database(f"sqlite:///{folder / 'x.db'}", clock=SystemClock()) as database,
            ledger_on(database, folder, clock=ManualClock(NOW)) as ledger,
        ):

            async def ask(question: Any, right: Any) -> None:
                nonlocal seen
                try:
                    answer = await question
                except HoldfastError:
                    seen = True
                else:
                    assert answer == right, f"{answer} is not {right}"

            await ask(everything(ledger), truth)
            for number in range(5):
                mine = [e for e in truth if e.stream == f"notes/{number}"]
                await ask(everything(ledger, stream=f"notes/{number}"), mine)
            try:
                appended = await ledger.append(ONE, one(9999, "notes/new"))
                assert appended.events[0].position == len(truth)
                assert (await ledger.inclusion(ONE, 3, len(truth))).root == root
            except HoldfastError:
                seen = True
            last = await verdict(ledger)
            seen = seen or not last.sound
            if last.sound:
                assert (await everything(ledger))[: len(truth)] == truth
    except HoldfastError:
        seen = True
    return "seen" if seen else "harmless"


SERVED_FLIPS = 4
EVENTS = 60


@pytest.mark.soak
def test_a_flipped_bit_in_any_file_under_the_served_ledger_is_told_or_harmless(
    tmp_path: Path,
) -> None:
    """The program is killed, a bit of one of its files flips, and it is started again."""
    chance = random.Random(SEED + 1)
    original, outcomes = tmp_path / "original", Counter[str]()
    program = start(["serve", "ledger", "--port", "0"], original, environment=QUIET)
    for number in range(EVENTS):
        assert append(program, number).status_code == 200
    assert program.client.get("/v1/ledger/checkpoint").status_code == 200
    truth = list(program.items("/v1/ledger/entries", limit=500))
    program.kill()
    files = [path for path in sorted(original.rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix != ".lock" and path.stat().st_size]
    weights = [4 if path.suffix in (".db", ".db-wal") else 1 for path in files]
    for number in range(SERVED_FLIPS * scale()):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(original, copy)
        victim = copy / chance.choices(files, weights)[0].relative_to(original)
        data = bytearray(victim.read_bytes())
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        victim.write_bytes(bytes(data))
        try:
            outcome = told_by_the_program(copy, truth)
        except AssertionError as error:
            raise AssertionError(f"flip {number}: {victim.name} at {at}: {error}") from error
        outcomes[f"{outcome} ({victim.name if outcome == 'refused' else victim.suffix})"] += 1
        shutil.rmtree(copy)
    print(f"{sum(outcomes.values())} flips: {dict(outcomes)}")
    # Of so many some hit what is read; of a few all may be in what nobody reads.
    assert scale() == 1 or any(not each.startswith("harmless") for each in outcomes)


def started_or_refused(folder: Path) -> Program | None:
    """The program; none if it refused to start, which it must have said clearly."""
    try:
        return start(["serve", "ledger", "--port", "0"], folder, environment=QUIET, ready="/health")
    except AssertionError as error:
        died = str(error)
    said = (folder.parent / f"{folder.name}.log").read_text(errors="replace")
    assert "died with" in died, died
    assert "error: " in said, said
    assert "Traceback" not in said, said
    return None


def told_by_the_program(folder: Path, truth: list[Any]) -> str:
    """``refused`` at the start, ``seen`` by an answer, or ``harmless``; never a wrong answer."""
    program = started_or_refused(folder)
    if program is None:
        return "refused"
    seen = lost = False
    try:
        for first in range(0, EVENTS, 10):
            answer = program.client.get("/v1/ledger/entries", params={"first": first, "limit": 10})
            if answer.status_code == 200:
                items, right = answer.json()["items"], truth[first : first + 10]
                assert items == right[: len(items)]
                lost = lost or len(items) < len(right)
            else:
                assert answer.status_code >= 500, answer.text
                assert answer.json()["code"] != "internal", answer.text + program.tail()
                seen = True
        if lost:  # that is said, with positions, and nothing is appended behind it
            status = program.get("/v1/ledger/status")
            assert (status["writable"], status["damage"]["reason"]) == (False, "lost-tail")
        taken = append(program, EVENTS + 1)
        if taken.status_code == 200:
            assert taken.json()["events"][0]["position"] >= len(truth)
        else:
            assert taken.status_code >= 500, taken.text
            assert taken.json()["code"] != "internal", taken.text + program.tail()
            seen = True
        lines = program.client.get("/v1/ledger/verify", timeout=60).text.splitlines()
        sound = '"sound":true' in lines[-1]
        seen = seen or not sound
        if sound:
            entries = list(program.items("/v1/ledger/entries", limit=500))
            assert entries[: len(truth)] == truth
        return "seen" if seen else "harmless"
    finally:
        if program.process.poll() is None:
            program.kill()
