"""Receipts of what real drones collected, before two verifiers that share no code."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from holdfast.app.commands.verify import _reproduced
from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import HoldfastError, Kind
from holdfast.kernel.principal import Permission
from holdfast.keyring.model import EraseRequest
from holdfast.ledger.model import Append, NewEvent, Trust
from holdfast.ledger.trusting import TrustInvalid, decode_trust
from holdfast.records.errors import NoSuchRecord, ReceiptNotYet, RecordAltered
from holdfast.records.model import RecordFilter
from holdfast.records.receipt import ReceiptRefused, verify_receipt
from tests.integration.collecting import OPERATOR, Collecting, collecting
from tests.support.soaking import scale
from tests.support.verifier import refused_by_both, second
from tests.support.waiting import until

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
FORGERIES = 1000
"""In ``make test``; ``make soak`` multiplies."""
SHARED = ("size", "position", "run", "record", "revision", "content", "raw_digest", "raw_position")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as found:
        yield found


async def receipt(
    bench: Collecting, record: str, revision: int | None = None, principal: Any = OPERATOR
) -> bytes:
    """The receipt, as soon as the relay has brought its event over."""
    made: list[bytes] = []

    async def there() -> bool:
        try:
            made.append(await bench.system.records.receipt(principal, record, revision=revision))
        except ReceiptNotYet:
            return False
        return True

    await until(there)
    return made[0]


async def trust(bench: Collecting) -> bytes:
    return msgspec.json.encode(await bench.system.ledger.trust(OPERATOR))


def both(data: bytes, policy: bytes) -> dict[str, Any]:
    """What both verifiers say, held equal."""
    found = msgspec.to_builtins(verify_receipt(data, decode_trust(policy)))
    (other,) = second([data], policy)
    assert "found" in other, other
    told = other["found"]
    assert {name: found[name] for name in SHARED} == {name: told[name] for name in SHARED}
    assert found["verdicts"][:2] == told["verdicts"]
    assert dict(found, verdicts=[]) == dict(told, verdicts=[])
    return dict(found)


def neither(data: bytes, policy: bytes) -> str:
    """Why both refuse it."""
    with pytest.raises(ReceiptRefused) as refused:
        verify_receipt(data, decode_trust(policy))
    (other,) = second([data], policy)
    assert other.get("kind") == "Refused", other
    return refused.value.detail


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"n{number}", "v": number, **more} for number in range(count)]


async def test_a_receipt_holds_before_and_after_everything_that_comes_later(
    bench: Collecting,
) -> None:
    bench.write("data.json", items(7))
    await bench.publish()
    async with bench.drone():
        run = await bench.collect()
        first = (await bench.records())[3]
        data, policy = await receipt(bench, first.id), await trust(bench)
        found = both(data, policy)
        assert (found["run"], found["revision"], found["withdrawn"]) == (run.id, 1, False)
        assert found["content"]["key"] == ["n3"]
        assert found["raw_digest"] == first.provenance.response_digest  # type: ignore[union-attr]
        assert (found["raw_response"], found["raw_position"]) == (0, 3)
        verdicts = {each["verdict"]: each["holds"] for each in found["verdicts"]}
        assert verdicts == {"recorded": True, "attributed": True, "reproduced": None}
        [worker], _ = await bench.system.fleet.list_workers(OPERATOR)
        assert (found["worker"], found["worker_key"]) == (worker.id, worker.key)

        bench.write("data.json", [{"id": "n3", "v": 33}, *items(3)])
        await bench.collect()
        changed = await receipt(bench, first.id)
        assert both(changed, policy)["content"]["measures"]["v"]["value"] == "33"
        assert both(await receipt(bench, first.id, 1), policy)["content"] == found["content"]
        gone = await receipt(bench, next(r.id for r in await history(bench) if r.withdrawn))
        assert both(gone, policy)["withdrawn"] is True
        with pytest.raises(NoSuchRecord):
            await bench.system.records.receipt(OPERATOR, first.id, revision=9)
        with pytest.raises(NoSuchRecord):
            await bench.system.records.receipt(OPERATOR, "0" * 32)

    await bench.system.ledger.rotate(OPERATOR)
    rotated = await trust(bench)
    event = NewEvent(stream="notes/a", type="note.added", payload={})
    await bench.system.ledger.append(OPERATOR, Append(events=[event]))
    again = await receipt(bench, first.id)
    for each in (data, changed, gone, again):
        both(each, rotated)
    both(data, policy)
    assert "trusted has signed" in neither(again, policy)

    # A retired key signs nothing beyond the size up to which it is valid.
    short = json.loads(rotated)
    short["keys"][0]["valid_to"] = 1
    assert "valid from size" in neither(data, json.dumps(short).encode())


async def test_a_record_that_was_changed_in_the_database_has_no_receipt(bench: Collecting) -> None:
    bench.write("data.json", items(3))
    await bench.publish()
    async with bench.drone():
        await bench.collect()
    first, other, _ = await bench.records()
    await receipt(bench, first.id)
    statement = text(
        'UPDATE record_revisions SET body = replace(body, \'"value":"0"\', \'"value":"9"\')'
        " WHERE tenant = :tenant"
    )
    state = bench.system.state
    assert state is not None
    await state.database.write(
        OPERATOR, lambda conn: conn.execute(statement, {"tenant": OPERATOR.tenant}) and None
    )
    for one in (first, other):  # they share a batch
        with pytest.raises(RecordAltered) as refused:
            await bench.system.records.receipt(OPERATOR, one.id)
        assert refused.value.kind is Kind.CORRUPT
        assert f"cannot give a receipt of {one.id}: what is stored" in refused.value.detail
        assert "restore a backup" in refused.value.hint


async def history(bench: Collecting) -> list[Any]:
    page = await bench.system.records.records(
        OPERATOR, RecordFilter(profile="test", withdrawn=True), limit=100
    )
    return list(page.items)


async def test_trust_comes_from_the_policy_file_alone(bench: Collecting) -> None:
    bench.write("data.json", items(1))
    await bench.publish()
    async with bench.drone():
        await bench.collect()
    data, policy = await receipt(bench, (await bench.records())[0].id), await trust(bench)
    both(data, policy)
    other = msgspec.json.decode(policy, type=Trust)
    renamed = msgspec.structs.replace(other, tenant="other")
    assert "another tenant" in neither(data, msgspec.json.encode(renamed))
    for wrong in (
        b"",
        b"{}",
        policy.replace(b'"format":1', b'"format":2'),
        policy.replace(b'"keys":[{', b'"keys":[],"more":[{'),
        policy.replace(b'"origins":["', b'"origins":["x'),
        data,
    ):
        with pytest.raises(TrustInvalid):
            decode_trust(wrong)
        assert second([data], wrong)[0]["kind"] == "TrustInvalid"


# --- forgeries ----------------------------------------------------------------------------------


def sealed(plain: dict[str, Any]) -> bytes:
    """A receipt as a forger would end it: with the right SHA-256 over what was changed."""
    body = canonical(plain)
    return body[:-1] + b',"sha256":"' + sha256(body).hexdigest().encode() + b'"}\n'


@dataclass
class Forger:
    """Makes one change at a time."""

    dice: random.Random
    receipts: list[bytes]

    def forge(self) -> tuple[str, bytes]:
        data = self.dice.choice(self.receipts)
        kind = self.dice.choice(("byte", "cut", "value", "value", "value", "swap", "member"))
        if kind == "byte":
            at = self.dice.randrange(len(data))
            return kind, data[:at] + bytes([data[at] ^ self.dice.randrange(1, 256)]) + data[
                at + 1 :
            ]
        if kind == "cut":
            at, more = self.dice.randrange(len(data)), self.dice.randrange(1, 40)
            return kind, data[:at] + data[at + more :]
        plain = json.loads(data)
        del plain["sha256"]
        if kind == "value":
            return kind, sealed(self._changed(plain))
        if kind == "swap":
            return kind, sealed(self._swapped(plain))
        return kind, sealed(self._with_member(plain))

    def _places(self, value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        found = [path] if path else []
        if isinstance(value, dict | list):
            steps = value.items() if isinstance(value, dict) else enumerate(value)
            for name, part in steps:
                found += self._places(part, (*path, name))
        return found

    def _at(self, plain: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
        for name in path[:-1]:
            plain = plain[name]
        return plain, path[-1]

    def _changed(self, plain: dict[str, Any]) -> dict[str, Any]:
        holder, name = self._at(plain, self.dice.choice(self._places(plain)))
        holder[name] = self._other(holder[name])
        return plain

    def _other(self, value: Any) -> Any:
        dice = self.dice
        if isinstance(value, bool) or value is None:
            return dice.choice(
                [each for each in (True, False, None, 0, "", []) if each is not value]
            )
        if isinstance(value, int):
            return dice.choice((value + 1, value - 1, value + 2**32, -value - 1, str(value), None))
        if isinstance(value, str):
            at = dice.randrange(len(value) + 1)
            tail = value[at + 1 :]
            made = value[:at] + dice.choice("0123456789abcdefABCDEF \né+=/") + tail
            choices = [made, value.upper(), value + "0", value[:-1], value[::-1], None, len(value)]
            return dice.choice([each for each in choices if each != value])
        if isinstance(value, list):
            return dice.choice([[*value, "0" * 64], value[1:] if value else ["0" * 64], None, {}])
        return dice.choice(([], None, dict(list(value.items())[1:]) if value else {"a": 1}))

    def _swapped(self, plain: dict[str, Any]) -> dict[str, Any]:
        """A part of another receipt in the place of this one's."""
        other = json.loads(self.dice.choice(self.receipts))
        del other["sha256"]
        before = copy.deepcopy(plain)
        places = self._places(plain)
        if plain["record"]["leaf"]["run"] == other["record"]["leaf"]["run"]:
            # The whole record of the same run's other receipt: nothing in that would be untrue.
            places.remove(("record",))
        holder, name = self._at(plain, path := self.dice.choice(places))
        try:
            giver, _ = self._at(other, path)
            holder[name] = giver[name]
        except (KeyError, IndexError, TypeError):
            holder[name] = None
        return self._changed(plain) if plain == before else plain

    def _with_member(self, plain: dict[str, Any]) -> dict[str, Any]:
        holders = [
            part
            for path in [(), *self._places(plain)]
            if isinstance(part := self._value(plain, path), dict)
        ]
        holder = self.dice.choice(holders)
        name = self.dice.choice([*holder, "more", "__proto__", "constructor"])
        if name in holder:
            del holder[name]
        else:
            holder[name] = self.dice.choice((1, "x", None, {}))
        return plain

    def _value(self, plain: Any, path: tuple[Any, ...]) -> Any:
        for name in path:
            plain = plain[name]
        return plain


@pytest.mark.soak
@pytest.mark.timeout(1200 * scale())
async def test_no_forged_receipt_is_accepted_by_either_verifier(bench: Collecting) -> None:
    bench.write("data.json", items(9))
    await bench.publish()
    async with bench.drone():
        await bench.collect()
        bench.write("data.json", [{"id": "n1", "v": 11}, *items(2), *items(9)[4:]][1:])
        await bench.collect()
    known = [each.id for each in await history(bench)]
    genuine = [await receipt(bench, record) for record in known]
    policy = await trust(bench)
    trusted = decode_trust(policy)
    for data, answer in zip(genuine, second(genuine, policy), strict=True):
        assert "found" in answer, answer
        verify_receipt(data, trusted)
    forger = Forger(random.Random(SEED), genuine)
    made: list[tuple[str, bytes]] = []
    while len(made) < FORGERIES * scale():
        kind, data = forger.forge()
        if data not in genuine:  # a part of another receipt can make it that one
            made.append((kind, data))
    reasons = refused_by_both(made, lambda data: verify_receipt(data, trusted), policy)
    print(f"{len(made)} forgeries refused by both, seed {SEED}: {dict(reasons.most_common())}")
    assert len(reasons) > 12, reasons


# --- people, and mapping again ------------------------------------------------------------------


async def test_what_is_sealed_stays_sealed_for_who_may_not_see_it(bench: Collecting) -> None:
    bench.write("data.json", items(3, name="Ada Lovelace"))
    await bench.publish(
        key=["dimensions.id"],
        dimensions={"id": "$.id", "name": "$.name"},
        subject="dimensions.name",
        personal=["measures.v"],
    )
    async with bench.drone():
        await bench.collect()
    record = (await bench.records())[1].id
    policy = await trust(bench)
    stranger = replace(OPERATOR, permissions=OPERATOR.permissions - {Permission.RECORDS_PERSONAL})
    data = await receipt(bench, record, principal=stranger)
    assert b"Ada Lovelace" not in data
    shown = both(data, policy)
    assert (shown["content"], shown["raw_digest"]) == (None, "")
    assert "sealed" in shown["verdicts"][0]["means"]
    opened = both(await receipt(bench, record), policy)
    assert opened["content"]["dimensions"]["name"] == "Ada Lovelace"
    assert opened["raw_position"] == 1

    await bench.system.subjects.erase(
        OPERATOR, EraseRequest(subject="Ada Lovelace", reason="asked")
    )
    both(data, policy)
    erased = await receipt(bench, record)
    assert b"Ada Lovelace" not in erased
    assert both(erased, policy)["content"] is None


async def test_raw_bytes_are_mapped_again_to_the_same_record(
    bench: Collecting, tmp_path: Path
) -> None:
    bench.write("data.json", items(5))
    await bench.publish()
    async with bench.drone():
        run = await bench.collect()
    version = await bench.system.registry.show(OPERATOR, "test")
    record = (await bench.records())[4].id
    found = verify_receipt(await receipt(bench, record), decode_trust(await trust(bench)))
    body = await bench.system.records.response_body(OPERATOR, run.id, 0)
    raw, profile = tmp_path / "raw", tmp_path / "profile.yaml"
    raw.write_bytes(b"".join([chunk async for chunk in body.chunks]))
    profile.write_bytes(msgspec.json.encode(version.profile))
    assert _reproduced(found, raw, profile, "").holds is True

    bench.write("wide.json", [{"id": number, "y2001": 5, "y2002": number} for number in range(3)])
    await bench.publish(
        "wide",
        "wide.json",
        key=["dimensions.id", "dimensions.year"],
        dimensions={"id": "$.id", "year": "#column"},
        measures={"v": "#value"},
        unpivot={"columns": "y[0-9]+"},
    )
    async with bench.drone():
        run = await bench.collect("wide")
    policy = decode_trust(await trust(bench))
    version = await bench.system.registry.show(OPERATOR, "wide")
    body = await bench.system.records.response_body(OPERATOR, run.id, 0)
    folder = tmp_path / "wide"
    folder.mkdir()
    (folder / "raw").write_bytes(b"".join([chunk async for chunk in body.chunks]))
    (folder / "profile").write_bytes(msgspec.json.encode(version.profile))
    for one in await bench.records("wide"):
        each = verify_receipt(await receipt(bench, one.id), policy)
        assert _reproduced(each, folder / "raw", folder / "profile", "").holds is True

    other = msgspec.structs.replace(found, raw_position=0)
    with pytest.raises(HoldfastError, match="another record"):
        _reproduced(other, raw, profile, "")
    with pytest.raises(HoldfastError, match="there is no row 99"):
        _reproduced(msgspec.structs.replace(found, raw_position=99), raw, profile, "")
    raw.write_bytes(raw.read_bytes() + b" ")
    with pytest.raises(HoldfastError, match="raw bytes are others"):
        _reproduced(found, raw, profile, "")
