"""What workers sign of batches: what is refused, what is kept, and what that proves later."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fleet.model import Grant
from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import HoldfastError, Invalid, Unauthenticated
from holdfast.kernel.signing import SigningKey
from holdfast.records import store
from holdfast.records.content import commitment, whole_of
from holdfast.records.errors import BatchConflict, SignatureRefused
from holdfast.records.model import Batch, Reject
from holdfast.records.signed import (
    SignedBatch,
    decode_places,
    encode_places,
    header_digest,
    plain_header,
    posted_leaf,
    salts_of,
)
from tests.support.signing import PUBLIC_KEY, REGISTRATION, WORKER_KEY, signed
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, record
from tests.unit.records.test_service import bench as bench
from tests.unit.records.test_service import events, working
from tests.unit.records.test_service import quick as quick

FOREIGN = SigningKey.from_seed(b"f" * 32)
Change = Callable[[Batch, Grant, dict[int, str]], Batch]


def resigned(member: str, value: Any) -> Change:
    """The batch with something else signed, and signed well."""

    def change(batch: Batch, claim: Grant, digests: dict[int, str]) -> Batch:
        assert batch.signed is not None
        text = canonical({**json.loads(batch.signed.header), member: value})
        return msgspec.structs.replace(
            batch,
            signed=msgspec.structs.replace(
                batch.signed, header=text.decode(), signature=WORKER_KEY.sign_bytes(text).hex()
            ),
        )

    return change


def text_signed(make: Callable[[str], str]) -> Change:
    def change(batch: Batch, claim: Grant, digests: dict[int, str]) -> Batch:
        assert batch.signed is not None
        text = make(batch.signed.header)
        return msgspec.structs.replace(
            batch,
            signed=msgspec.structs.replace(
                batch.signed,
                header=text,
                signature=WORKER_KEY.sign_bytes(text.encode()).hex(),
            ),
        )

    return change


WRONG: dict[str, Change] = {
    "foreign key": lambda b, c, d: signed(b, c, d, FOREIGN),
    "damaged signature": lambda b, c, d: msgspec.structs.replace(
        b,
        signed=msgspec.structs.replace(b.signed, signature="0" * 128),  # type: ignore[type-var]
    ),
    "other records": lambda b, c, d: msgspec.structs.replace(b, records=[record("CA", "2")]),
    "one record more": lambda b, c, d: msgspec.structs.replace(b, records=[*b.records] * 2),
    "other seed": lambda b, c, d: msgspec.structs.replace(
        b,
        signed=msgspec.structs.replace(b.signed, seed="1" * 64),  # type: ignore[type-var]
    ),
    "other raw bytes": lambda b, c, d: signed(b, c, {0: f"sha256:{'1' * 64}"}),
    "no raw bytes": resigned("responses", []),
    "another root": resigned("root", "0" * 64),
    "another run": resigned("run", REGISTRATION),
    "another task": resigned("task", REGISTRATION),
    "another fence": resigned("fence", 2),
    "another sequence": resigned("sequence", 1),
    "another profile": resigned("profile", f"sha256:{'0' * 64}"),
    "another worker": resigned("worker", "worker-2"),
    "another domain": resigned("domain", "holdfast-batch-header/v2"),
    "a member more": resigned("more", 1),
    "spaces in the text": text_signed(lambda text: text.replace(":", ": ")),
    "no object": text_signed(lambda text: "[]"),
    "no JSON": text_signed(lambda text: text[:-1]),
}


async def kept(bench: Bench) -> int:
    """Rows that tell of any batch."""

    def count(conn: Any) -> int:
        tables = (store.batches, store.revisions, store.rejects, store.shapes)
        return sum(
            len(conn.execute(each.select().where(each.c.tenant == OPERATOR.tenant)).all())
            for each in tables
        )

    return await bench.db.read(OPERATOR, count)


@pytest.mark.parametrize("name", WRONG)
async def test_a_batch_that_is_not_what_its_worker_signed_is_refused(
    quick: Bench, name: str
) -> None:
    attempt = await working(quick)
    batch = attempt.batch([record("CA", "1")])
    wrong = WRONG[name](batch, attempt.claim, attempt.digests)
    with pytest.raises(SignatureRefused) as refused:
        await quick.service.post_batch(OPERATOR, attempt.grant, wrong)
    assert refused.value.code == "signature-refused"
    assert await kept(quick) == 0
    assert (await attempt.post([record("CA", "1")])).new == 1, "the right one is taken"


async def test_a_batch_without_a_signature_or_a_grant_without_a_key_is_refused(
    quick: Bench,
) -> None:
    attempt = await working(quick)
    batch = attempt.batch([record("CA", "1")], rejects=[Reject(
        response=0, position=1, field="f", reason="r"
    )])  # fmt: skip
    bare = msgspec.structs.replace(batch, signed=None)
    with pytest.raises(Invalid) as refused:
        await quick.service.post_batch(OPERATOR, attempt.grant, bare)
    assert refused.value.code == "signature-missing"
    assert refused.value.hint
    attempt.claim = msgspec.structs.replace(attempt.claim, key="")
    with pytest.raises(Unauthenticated) as unknown:
        await quick.service.post_batch(OPERATOR, attempt.grant, batch)
    assert unknown.value.code == "grant-without-key"
    assert await kept(quick) == 0


async def test_a_repeat_under_a_new_key_is_the_same_batch(quick: Bench) -> None:
    """The answer was lost, and the drone has registered again meanwhile."""
    attempt = await working(quick)
    await attempt.post([record("CA", "1")])
    attempt.claim = msgspec.structs.replace(attempt.claim, key=FOREIGN.public_bytes().hex())
    again = attempt.batch([record("CA", "1")], key=FOREIGN)
    assert (await quick.service.post_batch(OPERATOR, attempt.grant, again)).repeated
    other = attempt.batch([record("CA", "2")], key=FOREIGN)
    with pytest.raises(BatchConflict):
        await quick.service.post_batch(OPERATOR, attempt.grant, other)
    [batch] = await batches(quick, attempt)
    assert batch.signing_key == PUBLIC_KEY, "as it was kept first"


async def batches(bench: Bench, attempt: Attempt) -> list[Any]:
    def unit(conn: Any) -> list[Any]:
        key = store.of_key(store.batches, OPERATOR.tenant, run=attempt.run)
        return list(conn.execute(store.batches.select().where(key)).all())

    return await bench.db.read(OPERATOR, unit)


async def test_what_was_signed_is_kept_and_in_the_evidence(bench: Bench) -> None:
    attempt = await working(bench)
    await attempt.post([record("CA", "1"), record("NV", "2")])
    await attempt.finish()
    [batch] = await batches(bench, attempt)
    header = plain_header(batch.header)
    assert header["responses"] == [{"digest": attempt.digests[0], "response": 0}]
    told = (header["run"], header["task"], header["fence"], header["profile"], header["worker"])
    claim = attempt.claim
    assert told == (claim.run, claim.task, claim.fence, claim.digest, claim.worker)
    assert (batch.signing_key, batch.registration) == (PUBLIC_KEY, REGISTRATION)
    [event] = await events(bench, "records.ingested")
    assert [each["header"] for each in event.event.payload["batches"]] == [
        header_digest(batch.header)
    ]


@pytest.mark.parametrize("changed", [(), (0,), (11,), (3, 4, 19), tuple(range(20))])
async def test_each_row_of_a_batch_is_proven_in_the_tree_that_was_signed(
    bench: Bench, changed: tuple[int, ...]
) -> None:
    states = [f"S{number}" for number in range(20)]
    await bench.collect([record(state, "1") for state in states])
    attempt = await working(bench, fence=2)
    sent = [
        record(state, "2" if number in changed else "1", position=number)
        for number, state in enumerate(states)
    ]
    await attempt.post(sent)
    await attempt.finish()
    [batch] = await batches(bench, attempt)
    rows = await bench.db.read(OPERATOR, lambda conn: _rows(conn, batch))
    known, header = SignedBatch(batch), plain_header(batch.header)
    assert [known.index(row) for row in rows] == list(changed)
    assert len(bytes(batch.cover)) // 32 <= 5 * len(changed)
    for row in rows:
        index, salt = known.index(row), known.salt(row)
        assert index is not None
        assert salt == salts_of(bytes(batch.seed))(index)
        said = commitment(salt, whole_of(row.body.encode(), row.position, row.response))
        merkle.check_inclusion(
            merkle.leaf_hash(posted_leaf(said)),
            index,
            header["records"],
            known.path(rows, index),
            bytes.fromhex(header["root"]),
        )
    if rows:
        damaged = [other_row(rows[0], body=rows[0].body.replace("2", "3")), *rows[1:]]
        with pytest.raises(HoldfastError):
            known.path(damaged, changed[0])


def _rows(conn: Any, batch: Any) -> list[Any]:
    table = store.revisions
    end = batch.first_row + batch.rows
    chosen = table.c.sequence.between(batch.first_row, end - 1)
    key = store.of_key(table, OPERATOR.tenant, profile="rates")
    return list(conn.execute(table.select().where(key, chosen).order_by(table.c.sequence)).all())


def other_row(row: Any, **changes: Any) -> Any:
    """A row with something else in it."""

    class Row:
        def __getattr__(self, name: str) -> Any:
            return changes[name] if name in changes else getattr(row, name)

    return Row()


@given(st.lists(st.integers(0, 300), unique=True), st.integers(0, 300))
def test_places_are_read_back(chosen: list[int], more: int) -> None:
    places = sorted(chosen)
    records = max([*places, -1]) + 1 + more
    assert decode_places(encode_places(places, records), records) == places
