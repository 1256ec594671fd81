"""The bytes that are compared, kept and committed to: fast ways, held to the slow ones."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.kernel.canonical import canonical
from holdfast.kernel.errors import Invalid
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.secrets import TenantSecrets
from holdfast.records import content
from holdfast.records.model import Batch, MappedRecord, Measure, PeriodValue
from tests.unit.records.helpers import record

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
TEXT = st.text(max_size=20).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | TEXT
DECIMALS = st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", fullmatch=True)
MEASURES = st.builds(Measure, value=st.none() | DECIMALS, unit=TEXT, multiplier=DECIMALS)
PERIODS = st.builds(
    PeriodValue,
    start=st.dates().map(str),
    end=st.dates().map(str),
    frequency=st.sampled_from("ASQMWDHI"),
    text=TEXT,
)
RECORDS = st.builds(
    MappedRecord,
    response=st.integers(0, 2**53 - 1),
    position=st.integers(0, 2**53 - 1),
    key=st.lists(SCALARS, max_size=4),
    dimensions=st.dictionaries(NAMES, SCALARS, max_size=5),
    measures=st.dictionaries(NAMES, MEASURES, max_size=4),
    attributes=st.dictionaries(NAMES, SCALARS, max_size=4),
    period=st.none() | PERIODS,
)


@given(RECORDS)
def test_the_fast_encoding_is_the_canonical_one(one: MappedRecord) -> None:
    assert content.encode_sorted(one) == canonical(one)


@given(RECORDS)
def test_content_leaves_out_the_place_and_nothing_else(one: MappedRecord) -> None:
    whole = content.encode_sorted(one)
    kept = content.content_of(whole)
    plain = msgspec.to_builtins(one)
    del plain["position"], plain["response"]
    assert kept == canonical(plain)
    assert content.whole_of(kept, one.position, one.response) == whole
    decoded = content.decode_content(kept)
    assert (decoded.key, decoded.period) == (one.key, one.period)
    assert (decoded.dimensions, decoded.measures) == (one.dimensions, one.measures)


def test_a_text_that_looks_like_the_place_is_not_taken_for_it() -> None:
    one = record("CA", "1", flag='x","position":5,"response":7}')
    assert content.whole_of(content.content_of(canonical(one)), 0, 0) == canonical(one)


@given(st.binary(max_size=100), st.binary(max_size=40), st.binary(max_size=200))
def test_keyed_mac_is_hmac(key: bytes, prefix: bytes, message: bytes) -> None:
    expected = hmac.digest(key, prefix + message, "sha256")
    assert content.keyed_mac(key, prefix)(message) == expected


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_commitment_is_hmac_under_the_salt(salt: bytes, message: bytes) -> None:
    assert content.commitment(salt, message) == hmac.new(salt, message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_leaf_is_written_canonically(withdrawn: bool) -> None:
    members = {
        "commitment": "a" * 64,
        "profile_digest": f"sha256:{'b' * 64}",
        "record": "c" * 32,
        "revision": 3,
        "run": "01900000-0000-7000-8000-000000000000",
        "withdrawn": withdrawn,
    }
    leaf = content.record_leaf(**members)  # type: ignore[arg-type]
    plain = {**members, "domain": content.LEAF_DOMAIN, "profile": members["profile_digest"]}
    del plain["profile_digest"]
    assert leaf == canonical(plain)


def test_leaves_of_many_rows_are_those_of_each() -> None:
    run, digest = "01900000-0000-7000-8000-000000000000", f"sha256:{'b' * 64}"
    hashed = content.leaf_hasher(run, digest)
    for revision, said in ((1, "a" * 64), (9, "0" * 64)):
        assert hashed(said, "c" * 32, revision) == leaf_hash(
            content.record_leaf(
                commitment=said,
                profile_digest=digest,
                record="c" * 32,
                revision=revision,
                run=run,
                withdrawn=False,
                domain=content.SIGNED_LEAF_DOMAIN,
            )
        )


def test_salts_and_keys_differ_by_tenant_profile_run_and_row() -> None:
    secrets = TenantSecrets(b"s" * 32)
    first = content.RecordKeys(secrets, "a", "p")
    other_tenant = content.RecordKeys(secrets, "b", "p")
    other_profile = content.RecordKeys(secrets, "a", "q")
    salts = {
        content.row_salt(first, "r", 1),
        content.row_salt(first, "r", 2),
        content.row_salt(first, "s", 1),
        content.row_salt(other_tenant, "r", 1),
    }
    assert len(salts) == 4
    keys = {keys.key(b'["x"]') for keys in (first, other_tenant, other_profile)}
    assert len(keys) == 3
    assert first.content(b"x") != other_tenant.content(b"x")


def test_a_batch_digest_is_of_what_it_says() -> None:
    batch = Batch(
        run="01900000-0000-7000-8000-000000000000", fence=1, sequence=0, records=[record("CA", "1")]
    )
    wholes = [content.encode_sorted(one) for one in batch.records]
    found = content.batch_digest(batch, wholes)
    again = msgspec.json.decode(msgspec.json.encode(batch), type=Batch)
    assert content.batch_digest(again, wholes) == found
    later = msgspec.structs.replace(batch, sequence=1)
    assert content.batch_digest(later, wholes) != found
    assert content.batch_digest(batch, []) != found


@pytest.mark.parametrize("name", ["", "A", "a-b", "a b", "é", "1a", "a" * 81, 'a"'])
def test_names_that_no_field_can_have_are_refused(name: str) -> None:
    one = msgspec.structs.replace(record("CA", "1"), attributes={name: "x"})
    with pytest.raises(Invalid) as found:
        content.check_names([one])
    assert len(found.value.problems) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"response":0,"position":0,"key":[9007199254740992]}',
        b'{"response":0,"position":0,"key":[1.5]}',
        b'{"response":0,"position":0,"key":["\\ud800"]}',
        b'{"response":0,"position":-1,"key":[1]}',
        b'{"response":0,"position":0,"key":[1],"measures":{"a":{"value":"1e5"}}}',
        b'{"response":0,"position":0,"key":[1],"extra":1}',
        b'{"response":0,"position":0,"key":[1],"period":{"start":"soon","end":"2","frequency":"A"}}',
    ],
)
def test_what_has_no_canonical_form_is_not_decoded(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(body, type=MappedRecord)
