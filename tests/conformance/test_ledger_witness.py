"""Cosigning by a witness that checks what it signs, over HTTP; and by ones that are dead or lie."""

from __future__ import annotations

import asyncio
import base64
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Corrupt, Invalid
from holdfast.kernel.ids import id_source
from holdfast.kernel.signing import SigningKey
from holdfast.ledger import notes, tree
from holdfast.ledger import witness as witness_module
from holdfast.ledger.errors import WitnessDisagrees
from holdfast.ledger.log.publishing import DISPUTE_SECONDS
from holdfast.ledger.notes import COSIGNATURE, VerifierKey, verifier_key
from holdfast.ledger.service import LedgerService
from holdfast.ledger.witness import Witness, Witnesses
from tests.support.ledger import NOW, ONE, everything, one, parts_on, verdict
from tests.support.ledger_damage import brought_back, kept
from tests.support.waiting import until

KEY = SigningKey.from_seed(b"w" * 32)
NAME = "witness.example"


@dataclass
class Seen:
    """A witness: the last size and root it signed, and how it was asked."""

    size: int = 0
    root: bytes = b""
    lies: bool = False
    encodes: bool = False
    asked: list[int] = field(default_factory=list)
    url: str = ""
    goes_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, body: str) -> tuple[int, str, str]:
        head, _, note_text = body.partition("\n\n")
        first, *proof = head.split("\n")
        old = int(first.removeprefix("old "))
        self.asked.append(old)
        assert self.goes_on.wait(600)
        said = notes.parse_checkpoint(notes.parse_note(note_text).text)
        if old != self.size:
            return 409, "text/x.tlog.size", f"{self.size}\n"
        try:
            tree.check_consistency(
                old,
                said.size,
                self.root or said.root,
                said.root,
                list(map(base64.b64decode, proof)),
            )
        except Corrupt as error:
            if old:
                return 422, "text/plain", str(error)
        self.size, self.root = said.size, said.root
        note = notes.parse_note(note_text)
        signature = notes.cosign(note, NAME, KEY, 1_790_000_000)
        if self.lies:
            signature = replace(signature, signature=bytes(72))
        return 200, "text/plain", signature.line()


@pytest.fixture
def witness() -> Iterator[Seen]:
    seen = Seen()
    seen.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            status, kind, text = seen.answer(body)
            sent = gzip.compress(text.encode()) if seen.encodes else text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(sent)))
            if seen.encodes:
                self.send_header("content-encoding", "gzip")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


async def test_checkpoints_are_cosigned_by_who_checked_that_the_log_grew(
    sqlite_database: Database, tmp_path: Path, witness: Seen
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        key = verifier_key(NAME, KEY, COSIGNATURE)
        asked = Witnesses([Witness(witness.url, key)], client)
        parts = replace(parts_on(sqlite_database, tmp_path), witnesses=asked)
        ledger = LedgerService(parts, id_source(parts.clock))
        try:
            for number in range(7):
                await ledger.append(ONE, one(number))
                await _signed(ledger, key)
            assert witness.size == 7
            trust = await ledger.trust(ONE)
            assert trust.witnesses == [key.text()]
            # A witness that comes back with less, or that we have forgotten, says where it is.
            asked._seen.clear()
            await ledger.append(ONE, one(8))
            await _signed(ledger, key)
            assert witness.asked[-2:] == [0, 7]
            # Nothing that expands is taken, however well it is signed.
            witness.encodes = True
            await ledger.append(ONE, one(10))
            assert len(notes.parse_note(await ledger.checkpoint(ONE)).signatures) == 1
            witness.encodes = False
            # One that lies or is dead is done without, and the checkpoint goes out all the same.
            witness.lies = True
            await ledger.append(ONE, one(9))
            note = notes.parse_note(await ledger.checkpoint(ONE))
            assert len(note.signatures) == 1
        finally:
            await ledger.close()


async def test_nobody_waits_to_append_while_a_rotation_asks_a_witness(
    sqlite_database: Database, tmp_path: Path, witness: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_module, "WITNESS_SECONDS", 600.0)
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        key = verifier_key(NAME, KEY, COSIGNATURE)
        asked = Witnesses([Witness(witness.url, key)], client)
        parts = replace(parts_on(sqlite_database, tmp_path), witnesses=asked)
        ledger = LedgerService(parts, id_source(parts.clock))
        try:
            for number in range(3):
                await ledger.append(ONE, one(number))
            witness.goes_on.clear()
            rotating = asyncio.create_task(ledger.rotate(ONE))
            try:
                await until(lambda: bool(witness.asked))
                async with asyncio.timeout(120):
                    await ledger.append(ONE, one(3))
                assert not rotating.done()
            finally:
                witness.goes_on.set()
            trust = await rotating
            # The old key signs a last time under the locks: of those four no witness is asked.
            assert [(k.valid_from, k.valid_to) for k in trust.keys] == [(0, 4), (4, None)]
            assert (witness.size, witness.asked) == (5, [0, 3])
            _, signers = notes.open_note(await ledger.checkpoint(ONE), [key])
            assert signers == [key]
            assert (await verdict(ledger)).sound
        finally:
            await ledger.close()


async def test_of_a_log_from_before_what_a_witness_has_seen_nothing_is_told(
    sqlite_database: Database, tmp_path: Path, witness: Seen
) -> None:
    """On a machine that never published anything: only the witness knows that there was more."""
    key = verifier_key(NAME, KEY, COSIGNATURE)
    clock = ManualClock(NOW)

    def instance(client: httpx.AsyncClient, folder: str) -> LedgerService:
        parts = parts_on(sqlite_database, tmp_path / folder, keys=tmp_path / "keys", clock=clock)
        asked = Witnesses([Witness(witness.url, key)], client)
        return LedgerService(replace(parts, witnesses=asked), id_source(parts.clock))

    async with httpx.AsyncClient(trust_env=False) as client:
        first = instance(client, "first")
        for number in range(3):
            await first.append(ONE, one(number))
        backup = await kept(sqlite_database)
        for number in range(3, 7):
            await first.append(ONE, one(number))
        await _signed(first, key)
        await first.close()
        await brought_back(sqlite_database, backup)
        # Also once there are more than it has seen, and after another start.
        for attempt, said in ((1, "has seen 7"), (2, "does not go on from the 7"), (3, "7")):
            later = instance(client, "second")
            try:
                for number in range(10 * attempt, 10 * attempt + (0 if attempt == 3 else 3)):
                    await later.append(ONE, one(number))
                with pytest.raises(WitnessDisagrees, match=f"witness {NAME} says .*{said}"):
                    await later.checkpoint(ONE)
                assert await later.check() == "degraded"
                status = await later.status(ONE)
                assert (status.writable, status.damage) == (True, None)
                assert NAME in status.withheld
                with pytest.raises(WitnessDisagrees):
                    await later.trust(ONE)
                assert (await verdict(later)).sound
                if attempt < 3:
                    continue
                restarted = await later.restart(ONE, "the backup of the test")
                assert restarted.origin.endswith("/1")
                assert (restarted.withheld, await later.check()) == ("", None)
                cited = (await everything(later))[-1].payload
                assert cited is not None
                assert (cited["damage"], NAME in cited["detail"]) == ("witness-disagrees", True)
                witness.size, witness.root = 0, b""  # of that origin it has seen nothing
                note = notes.parse_note(await later.checkpoint(ONE))
                assert len(note.signatures) == 2
                assert notes.parse_checkpoint(note.text).origin == restarted.origin
                assert (await verdict(later)).sound
            finally:
                await later.close()


async def test_what_a_witness_says_unsigned_counts_while_it_says_so_and_is_not_kept(
    sqlite_database: Database, tmp_path: Path, witness: Seen
) -> None:
    key = verifier_key(NAME, KEY, COSIGNATURE)
    clock = ManualClock(NOW)
    whole = witness.answer
    async with httpx.AsyncClient(trust_env=False) as client:
        parts = parts_on(sqlite_database, tmp_path, clock=clock)
        asked = Witnesses([Witness(witness.url, key)], client)
        ledger = LedgerService(replace(parts, witnesses=asked), id_source(clock))
        try:
            await ledger.append(ONE, one(0))
            witness.answer = lambda _: (409, "text/x.tlog.size", "999999999999999\n")  # type: ignore[method-assign]
            with pytest.raises(WitnessDisagrees, match=f"{NAME} says that it has seen 9{{15}}"):
                await ledger.checkpoint(ONE)
            await ledger.append(ONE, one(1))
            # Its last word counts until it has another.
            clock.advance(DISPUTE_SECONDS)
            witness.answer = lambda _: (500, "text/plain", "")  # type: ignore[method-assign]
            with pytest.raises(WitnessDisagrees):
                await ledger.checkpoint(ONE)
            witness.answer = whole  # type: ignore[method-assign]
            asked_before = len(witness.asked)
            with pytest.raises(WitnessDisagrees):
                await ledger.checkpoint(ONE)
            assert len(witness.asked) == asked_before, "not again within a moment"
            clock.advance(DISPUTE_SECONDS)
            await _signed(ledger, key)
            assert await ledger.check() is None
            assert "999" not in (tmp_path / "published" / f"{ONE.tenant}.json").read_text()
            with pytest.raises(Conflict, match="nothing is wrong"):
                await ledger.restart(ONE, "for nothing")
        finally:
            await ledger.close()


async def test_what_was_kept_back_is_not_told_by_the_next_process(
    sqlite_database: Database, tmp_path: Path, witness: Seen
) -> None:
    """It was made durable before the witness was asked, but nobody was given it."""
    key = verifier_key(NAME, KEY, COSIGNATURE)
    witness.answer = lambda _: (409, "text/x.tlog.size", "8\n")  # type: ignore[method-assign]
    async with httpx.AsyncClient(trust_env=False) as client:
        for number in range(2):
            parts = parts_on(sqlite_database, tmp_path)
            asked = Witnesses([Witness(witness.url, key)], client)
            ledger = LedgerService(replace(parts, witnesses=asked), id_source(parts.clock))
            try:
                if not number:
                    await ledger.append(ONE, one(0))
                with pytest.raises(WitnessDisagrees):
                    await ledger.checkpoint(ONE)
            finally:
                await ledger.close()


async def _signed(ledger: LedgerService, key: VerifierKey) -> None:
    mine = [VerifierKey.parse(each.key) for each in (await ledger.trust(ONE)).keys]
    _, signers = notes.open_note(await ledger.checkpoint(ONE), [*mine, key])
    assert signers == [*mine, key]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "witness.example",
        verifier_key(NAME, KEY, COSIGNATURE).text(),
        f"{verifier_key(NAME, KEY, COSIGNATURE).text()}@ftp://x",
        f"{verifier_key(NAME, KEY).text()}@https://witness.example",
        f"{verifier_key(NAME, KEY, COSIGNATURE).text()}@http://witness.example",
    ],
)
def test_what_is_no_witness_stops_the_start(text: str) -> None:
    with pytest.raises(Invalid):
        Witness.parse(text)


def test_a_witness_is_a_key_and_an_address() -> None:
    key = verifier_key(NAME, KEY, COSIGNATURE)
    assert Witness.parse(f"{key.text()}@https://w.example/") == Witness("https://w.example", key)
