"""A plain model of the ledger and the real one are given the same seeded operations.

The same on both databases, with the ledger opened anew in between; answers and snapshots are
compared, at the end and as of every position and moment on the way: reading the past is replaying
up to it.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError
from holdfast.ledger.model import Append
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, event, everything, ledger_on, verdict
from tests.support.soaking import scale

OPERATIONS = 250
STREAMS = ("notes/a", "notes/b", "deep/one/two")


@dataclass
class Model:
    """What the ledger is, in a list and two dictionaries."""

    entries: list[tuple[str, str, int, Any, str]] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    places: dict[str, int] = field(default_factory=dict)

    def append(self, append: Append, recorded: str) -> tuple[str, Any]:
        known = [each for each in append.events if each.id in self.places]
        for each in known:
            _, stream, _, payload, _ = self.entries[self.places[each.id]]
            if (stream, payload) != (each.stream, each.payload):
                return "event-id-reused", None
        if known and len(known) < len(append.events):
            return "append-partly-known", None
        if not known:
            for stream, expected in append.expected.items():
                if self.versions[stream] != expected:
                    return "version-conflict", None
            for each in append.events:
                self.versions[each.stream] += 1
                self.places[each.id] = len(self.entries)
                version = self.versions[each.stream]
                self.entries.append((each.id, each.stream, version, each.payload, recorded))
        return "ok", [self.places[each.id] for each in append.events]


def wanted(chance: random.Random, model: Model) -> Append:
    """An append that is fine, late, doubled, changed or half known."""
    events = []
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        number = chance.randrange(OPERATIONS)
        stream = chance.choice(STREAMS)
        payload = {"n": chance.choice((number, number, number, 0))}
        events.append(event(number, stream if chance.random() < 0.3 else STREAMS[number % 3]))
        if payload["n"] != number:
            events[-1] = event(number, events[-1].stream, payload=payload)
    unique = list({each.id: each for each in events}.values())
    expected = {}
    if chance.random() < 0.5:
        stream = chance.choice(STREAMS)
        expected[stream] = max(0, model.versions[stream] + chance.choice((0, 0, 0, 1, -1)))
    return Append(events=unique, expected=expected)


async def told(ledger: LedgerService, append: Append) -> tuple[str, list[int] | None]:
    """The answer in the model's words."""
    try:
        answer = await ledger.append(ONE, append)
    except HoldfastError as error:
        return error.code, None
    return "ok", [placed.position for placed in answer.events]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2 * scale()))
async def test_the_ledger_is_the_model(database: Database, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    clock, model = ManualClock(NOW), Model()
    outcomes: Counter[str] = Counter()
    moments: list[tuple[Any, int]] = []
    remaining = OPERATIONS
    while remaining:
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            for _ in range(min(remaining, chance.randrange(10, 80))):
                remaining -= 1
                if chance.random() < 0.3:
                    moments.append((clock.now(), len(model.entries)))
                    clock.advance(chance.choice((0.5, 1, 3600)))
                append = wanted(chance, model)
                expected, places = model.append(append, timestamp(clock.now()))
                outcomes[expected] += 1
                assert await told(ledger, append) == (expected, places)
            found = [
                (e.id, e.stream, e.version, e.payload, e.recorded) for e in await everything(ledger)
            ]
            assert found == model.entries
    assert set(outcomes) == {"ok", "event-id-reused", "append-partly-known", "version-conflict"}
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for moment, size in moments:
            past = [e.id for e in await everything(ledger, as_of=moment)]
            assert past == [entry[0] for entry in model.entries[:size]]
        for stream in STREAMS:
            of_stream = [e.id for e in await everything(ledger, stream=stream)]
            assert of_stream == [entry[0] for entry in model.entries if entry[1] == stream]
        assert (await verdict(ledger)).sound
