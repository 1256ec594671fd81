"""An export is checked elsewhere: whole, or refused with the entry that does not fit."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.database import create_schema, open_database
from holdfast.ledger.errors import ExportRefused
from holdfast.ledger.exported import CheckedExport, check_export
from holdfast.ledger.exporting import export
from holdfast.ledger.model import Append, Trust
from tests.support.ledger import NOW, ONE, event, ledger_on

ENTRIES = 40
EDITS = 1500


async def exported(folder: Path, origin: str = "example.org/ledger") -> tuple[list[bytes], Trust]:
    folder.mkdir()
    async with open_database(f"sqlite:///{folder / 'x.db'}", clock=SystemClock()) as database:
        await create_schema(database)
        async with ledger_on(database, folder, clock=ManualClock(NOW), origin=origin) as ledger:
            for at in range(0, ENTRIES, 10):
                events = [event(n, f"notes/{n % 3}") for n in range(at, at + 10)]
                await ledger.append(ONE, Append(events=events))
            lines = [msgspec.json.encode(line) + b"\n" async for line in export(ledger, ONE)]
            return lines, await ledger.trust(ONE)


def refusal(lines: list[bytes], trust: Trust) -> str:
    with pytest.raises(ExportRefused) as caught:
        check_export(lines, trust)
    return caught.value.detail


async def test_a_whole_export_holds_and_a_part_of_one_does_not(tmp_path: Path) -> None:
    lines, trust = await exported(tmp_path / "a")
    found = check_export(lines, trust)
    assert (found.entries, found.erased, found.streams) == (ENTRIES, 0, 3)
    assert "the checkpoint at its end is missing" in refusal(lines[:-1], trust)
    assert "cut off" in refusal([*lines[:-2], lines[-2][:50]], trust)
    assert "cut off" in refusal([], trust)
    assert "entry 7 is missing" in refusal(lines[:7] + lines[8:], trust)
    assert "begins at entry 1" in refusal(lines[1:], trust)
    assert "something follows" in refusal([*lines, lines[0]], trust)
    shorter = [*lines[:-2], lines[-1]]
    assert f"has {ENTRIES - 1} entries" in refusal(shorter, trust)


async def test_a_line_says_nothing_that_nobody_checks(tmp_path: Path) -> None:
    lines, trust = await exported(tmp_path / "a")
    entry, last = msgspec.json.decode(lines[3]), msgspec.json.decode(lines[-1])
    for more in ("position", "leaf", "salt", "payload"):
        forged = msgspec.json.encode(last | {more: entry[more]}) + b"\n"
        assert "holds more than the checkpoint" in refusal([*lines[:-1], forged], trust)
    forged = msgspec.json.encode(entry | {"entries": 1}) + b"\n"
    assert "says how many there are" in refusal([*lines[:3], forged, *lines[4:]], trust)


async def test_another_logs_checkpoint_or_policy_is_refused(tmp_path: Path) -> None:
    lines, trust = await exported(tmp_path / "a")
    others, other_trust = await exported(tmp_path / "b", "example.org/other")
    assert "no key that is trusted" in refusal(lines, other_trust)
    assert "no key that is trusted" in refusal([*lines[:-1], others[-1]], trust)
    both = msgspec.structs.replace(
        trust, origins=trust.origins + other_trust.origins, keys=trust.keys + other_trust.keys
    )
    assert "not those that were signed" in refusal([*lines[:-1], others[-1]], both)
    foreign = msgspec.structs.replace(trust, tenant="other")
    assert "of another tenant" in refusal(lines, foreign)


async def test_no_single_edit_is_accepted(tmp_path: Path) -> None:
    """Byte by byte: whatever is still accepted says the same as before."""
    lines, trust = await exported(tmp_path / "a")
    chance, right, refused = random.Random(20261127), check_export(lines, trust), 0
    for _ in range(EDITS):
        forged = list(lines)
        at = chance.randrange(len(lines))
        data = bytearray(forged[at])
        data[chance.randrange(len(data) - 1)] ^= 1 << chance.randrange(7)
        forged[at] = bytes(data)
        if forged == lines:
            continue
        try:
            found: CheckedExport = check_export(forged, trust)
        except ExportRefused:
            refused += 1
        else:
            # Hexadecimal may be written in capitals, and white space may stand between.
            assert found == right
            same = [msgspec.json.decode(line.lower()) for line in forged]
            assert same == [msgspec.json.decode(line.lower()) for line in lines]
    assert refused > 0.9 * EDITS
