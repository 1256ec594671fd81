"""Verifying a log, beside the bare SHA-256 of the same bytes; and what reading a range costs.

    python -m benchmarks.ledger_verify --events 1000000

A log of that many events in a hundred streams, appended by the thousand, each with a payload of
about 150 bytes. Then everything is verified from the stored bytes (``ledger verify``: frames,
headers, sealed payloads and commitments, versions, times, the tree, tiles, index, head file,
checkpoint), once; the bytes of the same commits are read and hashed, and hashed again from memory.
Ranges are read at the beginning, in the middle and at the end. One process, on the disk of the
temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from holdfast.app.compose import open_system
from holdfast.app.settings import resolve
from holdfast.kernel.ids import uuid7
from holdfast.kernel.principal import operator
from holdfast.ledger.model import Append, NewEvent
from holdfast.ledger.service import LedgerService
from holdfast.ledger.verifying import verify

ME = operator()
AT_ONCE = 1000
STREAMS = 100
TEXT = "x" * 120
READS = 20
RANGES = (1, 100, 1000)


async def fill(ledger: LedgerService, events: int) -> float:
    """Append until the log has so many events of ours; how long it took."""
    began = time.perf_counter()
    for first in range(0, events, AT_ONCE):
        made = [
            NewEvent(
                id=uuid7(1_790_000_000_000 + number, number.to_bytes(10, "big")),
                stream=f"measured/{number % STREAMS}",
                type="figure.taken",
                payload={"number": number, "text": TEXT},
            )
            for number in range(first, min(first + AT_ONCE, events))
        ]
        await ledger.append(ME, Append(events=made))
    return time.perf_counter() - began


async def verified(ledger: LedgerService) -> tuple[int, float]:
    """How many entries were found sound, and how long that took."""
    began = time.perf_counter()
    *_, last = [progress async for progress in verify(ledger, ME)]
    assert last.sound, last
    return last.checked, time.perf_counter() - began


async def hashed(ledger: LedgerService) -> tuple[int, float, float]:
    """The commits' bytes: how many, the time to read and hash them, and to hash them alone."""
    commits = ledger.log_of(ME).commits
    began = time.perf_counter()
    end = await commits.end()
    digest, pieces = hashlib.sha256(), []
    async for commit in commits.between(0, end):
        digest.update(commit.frame)
        pieces.append(commit.frame)
    both = time.perf_counter() - began
    began = time.perf_counter()
    alone = hashlib.sha256()
    for piece in pieces:
        alone.update(piece)
    assert alone.digest() == digest.digest()
    return sum(map(len, pieces)), both, time.perf_counter() - began


async def ranged(ledger: LedgerService, size: int) -> None:
    """What it costs to read a range, by its length and its place."""
    print("| range | at the beginning, ms | in the middle | at the end |")
    print("|---|--:|--:|--:|")
    for count in RANGES:
        medians = []
        for start in (0, size // 2, size - count):
            times = []
            for _ in range(READS):
                began = time.perf_counter()
                page = await ledger.read(ME, first=start, limit=count)
                times.append(time.perf_counter() - began)
                assert len(page.items) == count
            medians.append(f"{statistics.median(times) * 1000:.2f}")
        print(f"| {count} | {' | '.join(medians)} |", flush=True)


async def body(events: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-verify-"))
    settings = resolve({}, {"data_dir": str(folder / "data"), "log_level": "error"})
    try:
        async with open_system(settings, ["ledger"]) as system:
            ledger = system.ledger
            took = await fill(ledger, events)
            print(f"{events:,} events appended in {took:.1f} s, {events / took:,.0f}/s", flush=True)
            checked, seconds = await verified(ledger)
            size, both, alone = await hashed(ledger)
            each = seconds / checked * 1e6
            print(
                f"{checked:,} entries verified in {seconds:.1f} s, {each:.1f} µs each; their "
                f"{size / 1e6:,.0f} MB read and hashed in {both:.2f} s, hashed alone in "
                f"{alone:.2f} s: {seconds / both:.1f} and {seconds / alone:.0f} times as long",
                flush=True,
            )
            await ranged(ledger, events)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ledger_verify")
    parser.add_argument("--events", type=int, default=1_000_000)
    asyncio.run(body(parser.parse_args().events))


if __name__ == "__main__":
    main()
