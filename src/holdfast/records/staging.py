"""From a batch to the rows that it adds, given what is already there. Pure; no I/O.

A *row* is one revision of one record. Rows are numbered per profile (``sequence``), in the order in
which they were staged, never twice. Three facts decide what a record of a batch becomes:

* the latest row of its key, if there is one: its sequence and the keyed digest of its content
  (empty for a withdrawn one);
* where this attempt's own rows begin: a latest row beyond that was staged by this attempt, so the
  key repeats within the run;
* the *seen* bits of this attempt: one bit for each published row whose key came again. They find
  repeats of unchanged records, and at the end the absent ones. Of published rows whose key stood in
  a row that was rejected a bit of its own is set (*kept*): they came, and say what they said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import msgspec

from holdfast.kernel import merkle
from holdfast.records.content import (
    FieldNames,
    RecordKeys,
    batch_digest,
    check_names,
    content_of,
    encode_sorted,
    leaf_hasher,
    record_leaf_hash,
)
from holdfast.records.model import Batch, Reject
from holdfast.records.personal import (
    Owners,
    Personal,
    sealed_part,
    split,
)
from holdfast.records.reasons import without_value
from holdfast.records.rules import Rules, Violations
from holdfast.records.shape import Shape, shape_of
from holdfast.records.signed import Posted, posted, salts_of

SEEN_BITS = 32_768
SEEN_BYTES = SEEN_BITS // 8

ROW_COLUMNS = (
    "tenant",
    "profile",
    "sequence",
    "record",
    "run",
    "revision",
    "previous",
    "from_publication",
    "withdrawn",
    "content",
    "response",
    "position",
    "period_start",
    "period_end",
    "body",
    "subject",
    "sealed",
    "commitment",
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch after all work that needs nothing but itself."""

    digest: str
    keys: list[bytes]
    contents: list[bytes]
    wholes: list[bytes]
    bodies: list[bytes]
    """What is kept of each record: :func:`~holdfast.records.content.content_of` its whole."""
    places: list[tuple[int, int, str | None, str | None]]
    """Response, position, and the period's start and end."""
    responses: frozenset[int]
    rejects: list[Reject]
    fields: FieldNames
    violations: Violations
    size_bytes: int
    shape: Shape
    posted: Posted
    """Its records as the worker commits to them, those of erased people included."""
    rejected: list[bytes] = field(default_factory=list)
    """The keys of rejected rows, of those that name a record."""
    unkeyed_at: frozenset[int] = frozenset()
    """Which of the rejects nobody can tell the record of."""
    personal: list[Personal] | None = None
    """Of a profile with a subject: whose each record is. ``bodies`` then have no personal field;
    the wholes of erased people neither."""


def prepare(batch: Batch, keys: RecordKeys, rules: Rules, owners: Owners | None = None) -> Prepared:
    """Canonical bytes and keyed digests of every record; :class:`Invalid` for impossible names.

    ``owners`` is needed if the rules mark something as personal. The batch is a signed one.
    """
    if owners is not None:
        return _prepare_personal(batch, keys, rules, owners)
    assert batch.signed is not None
    return _prepared(batch, keys, rules, salts_of(bytes.fromhex(batch.signed.seed)))


def _prepared(
    batch: Batch, keys: RecordKeys, rules: Rules, salt_of: Callable[[int], bytes] | None
) -> Prepared:
    names = check_names(batch.records)
    key_of = keys.key
    wholes = [encode_sorted(record) for record in batch.records]
    bodies = [content_of(whole) for whole in wholes]
    return Prepared(
        digest=batch_digest(batch, wholes),
        keys=[key_of(encode_sorted(record.key)) for record in batch.records],
        contents=list(map(keys.content, bodies)),
        wholes=wholes,
        bodies=bodies,
        places=[
            (r.response, r.position, None, None)
            if r.period is None
            else (r.response, r.position, r.period.start, r.period.end)
            for r in batch.records
        ],
        responses=frozenset(r.response for r in batch.records)
        | frozenset(r.response for r in batch.rejects),
        rejects=batch.rejects,
        fields=names,
        violations=rules.check(batch.records),
        size_bytes=sum(map(len, wholes)),
        shape=shape_of(batch.records),
        posted=_NOTHING if salt_of is None else posted(salt_of, wholes),
        rejected=[key_of(encode_sorted(reject.key)) for reject in batch.rejects if reject.key],
        unkeyed_at=frozenset(
            index for index, reject in enumerate(batch.rejects) if reject.key is None
        ),
    )


_NOTHING = Posted([], [], [])


def _prepare_personal(batch: Batch, keys: RecordKeys, rules: Rules, owners: Owners) -> Prepared:
    """:func:`prepare` of records about people: what is theirs goes apart, and nowhere else."""
    parts = [split(record, owners.marks) for record in batch.records]
    clear = [record for record, _ in parts]
    whole = prepare(batch, keys, rules)
    public = _prepared(
        msgspec.structs.replace(
            batch,
            records=clear,
            rejects=[
                msgspec.structs.replace(
                    reject, reason=without_value(reject.reason), excerpt="", key=None
                )
                for reject in batch.rejects
            ],
        ),
        keys,
        rules,
        None,
    )
    personal = [
        Personal(token, owners.keys[token], part)
        for token, (_, part) in zip(owners.tokens, parts, strict=True)
    ]
    return dataclasses.replace(
        public,
        # Unkeyed, it would tell whoever guesses a batch's only record.
        digest=f"hmac-sha256:{keys.salt(whole.digest.encode()).hex()}",
        keys=whole.keys,
        # Of an erased person nothing may change any more: what is left of the record decides.
        contents=[
            public.contents[index] if each.key is None else whole.contents[index]
            for index, each in enumerate(personal)
        ],
        wholes=[
            public.wholes[index] if each.key is None else whole.wholes[index]
            for index, each in enumerate(personal)
        ],
        fields=whole.fields,
        violations=whole.violations,
        size_bytes=whole.size_bytes,
        posted=whole.posted,
        rejected=whole.rejected,
        unkeyed_at=whole.unkeyed_at,
        personal=personal,
    )


class Latest(NamedTuple):
    """The latest row of a key. ``content`` is empty if it is a withdrawal."""

    sequence: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is there, as one snapshot of the database shows it.

    ``revisions`` has the revision number of every latest row that may get a successor. ``bases``
    has, for rows of this attempt whose key comes again, the row they replaced (or ``None``).
    """

    first: int
    """The sequence at which this attempt's rows begin."""
    next: int
    """The next free sequence."""
    latest: Mapping[bytes, Latest]
    revisions: Mapping[int, int]
    bases: Mapping[int, Latest | None]
    seen: Mapping[int, bytes]
    kept: Mapping[int, bytes] = field(default_factory=dict)
    destroyed: Mapping[int, str] = field(default_factory=dict)
    """In a re-mapping: the published rows whose bytes were destroyed, and when these were fetched.
    What older bytes say of their keys was corrected by what nobody can read any more."""
    fetched: Mapping[int, str] = field(default_factory=dict)
    """When the responses of the batch were fetched."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whose rows these are."""

    tenant: str
    profile: str
    profile_digest: str
    run: str
    run_number: int
    publication: int
    """The publication they will belong to if the run is published."""


@dataclass(slots=True)
class Change:
    """What a batch does to the staged state: written in one transaction, or not at all."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    supersede: list[int] = field(default_factory=list)
    """Published rows that end where the new ones begin."""
    release: list[int] = field(default_factory=list)
    """Published rows that do not end after all: a later row of the batch took its change back."""
    hide: list[int] = field(default_factory=list)
    """Staged rows that a later one of the same key replaces."""
    places: list[int] = field(default_factory=list)
    """Which records of the batch became the rows, in order."""
    signed: list[int] = field(default_factory=list)
    """Of these, those whose rows commit to what the worker signed: all but erased people's."""
    seen: dict[int, bytearray] = field(default_factory=dict)
    kept: dict[int, bytearray] = field(default_factory=dict)
    records: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    present: int = 0
    """Published, not withdrawn records that came again for the first time in this attempt."""
    duplicates: int = 0
    repeat: str = ""
    root: str = ""


def classify(
    prepared: Prepared,
    known: Known,
    target: Target,
    rules: Rules,
    keys: RecordKeys,
) -> Change:
    """The change that the batch makes. The same arguments give the same change."""
    return _Classifier(prepared, known, target, rules, keys).run()


class _Classifier:
    """One walk over the records of a batch."""

    def __init__(
        self,
        prepared: Prepared,
        known: Known,
        target: Target,
        rules: Rules,
        keys: RecordKeys,
    ) -> None:
        self._prepared = prepared
        self._known = known
        self._target = target
        self._keep_last = rules.duplicates == "last"
        self._keys = keys
        self._leaf_hash = leaf_hasher(target.run, target.profile_digest)
        self._change = Change()
        self._leaves: list[bytes] = []
        self._sequence = known.next

    def run(self) -> Change:
        chosen = self._chosen()
        simple = not self._known.latest and self._prepared.personal is None
        if simple and len(chosen) == len(self._prepared.keys):
            self._add_all_new()
            return self._change
        keys, contents = self._prepared.keys, self._prepared.contents
        latest, first = self._known.latest, self._known.first
        for index in chosen:
            found = latest.get(keys[index])
            if found is None:
                self._add_new(index, None)
            elif found.sequence >= first:
                self._repeat(index)
                if self._keep_last:
                    self._replace_staged(index, found)
            elif not found.content:
                self._add_new(index, found)
            else:
                self._compare(index, found, self._content(index, found, contents[index]))
        self._keep()
        self._change.root = merkle.root(self._leaves).hex()
        return self._change

    def _add_all_new(self) -> None:
        """The usual case of a first collection, in two sweeps."""
        prepared, target, first = self._prepared, self._target, self._sequence
        change, leaf_hash = self._change, self._leaf_hash
        change.rows = [
            (
                target.tenant,
                target.profile,
                sequence,
                key,
                target.run_number,
                1,
                None,
                target.publication,
                False,
                content,
                response,
                position,
                start,
                end,
                body.decode(),
                None,
                None,
                None,
            )
            for sequence, key, content, (response, position, start, end), body in zip(
                count(first),
                prepared.keys,
                prepared.contents,
                prepared.places,
                prepared.bodies,
                strict=False,
            )
        ]
        leaves = [
            leaf_hash(said, key.hex(), 1)
            for said, key in zip(prepared.posted.commitments, prepared.keys, strict=True)
        ]
        change.places = change.signed = list(range(len(leaves)))
        change.records = change.new = len(change.rows)
        change.root = merkle.root(leaves).hex()

    def _chosen(self) -> list[int]:
        """The records that count, of those with equal keys in this batch one."""
        keys = self._prepared.keys
        if len(set(keys)) == len(keys):
            return list(range(len(keys)))
        by_key: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            if key in by_key:
                self._repeat(index)
                if not self._keep_last:
                    continue
            by_key[key] = index
        return sorted(by_key.values())

    def _repeat(self, index: int) -> None:
        change = self._change
        if not change.duplicates:
            response, position, _, _ = self._prepared.places[index]
            change.repeat = f"response {response}, position {position}"
            if self._prepared.personal is None:  # else a key may be a person's name
                key = msgspec.json.decode(self._prepared.wholes[index])["key"]
                change.repeat = f"{', '.join(map(str, key))[:200]} ({change.repeat})"
        change.duplicates += 1

    def _content(self, index: int, found: Latest, content: bytes) -> bytes:
        """What the record says; what is published, if it says what was corrected since."""
        last = self._known.destroyed.get(found.sequence)
        if last is None or self._known.fetched[self._prepared.places[index][0]] >= last:
            return content
        return found.content

    def _compare(self, index: int, found: Latest, content: bytes) -> None:
        again = self._mark(found.sequence)
        change = self._change
        if again:
            self._repeat(index)
            if self._keep_last and found.content != content:
                change.unchanged -= 1
                self._add_changed(index, found)
            return
        change.records += 1
        change.present += 1
        if found.content == content:
            change.unchanged += 1
        else:
            self._add_changed(index, found)

    def _replace_staged(self, index: int, staged: Latest) -> None:
        """The last of equal keys counts: undo the earlier row, then look at what it replaced."""
        content = self._prepared.contents[index]
        if staged.content == content:
            return
        change = self._change
        base = self._known.bases[staged.sequence]
        change.hide.append(staged.sequence)
        if base is None or not base.content:
            change.new -= 1
            change.records -= 1
            self._add_new(index, base)
            return
        change.changed -= 1
        if base.content == content:
            change.unchanged += 1
            change.release.append(base.sequence)
        else:
            self._add_changed(index, base)

    def _keep(self) -> None:
        """Note the published records whose rows were rejected. Whether a good row of the same key
        comes as well, before or after, shows when the attempt ends."""
        for key in self._prepared.rejected:
            found = self._known.latest.get(key)
            if found is not None and found.sequence < self._known.first and found.content:
                _set(self._change.kept, self._known.kept, found.sequence)

    def _mark(self, sequence: int) -> bool:
        """Set the row's seen bit; whether it was set before."""
        return _set(self._change.seen, self._known.seen, sequence)

    def _add_new(self, index: int, previous: Latest | None) -> None:
        self._change.records += 1
        self._change.new += 1
        self._add(index, previous)

    def _add_changed(self, index: int, previous: Latest) -> None:
        self._change.changed += 1
        self._add(index, previous)

    def _add(self, index: int, previous: Latest | None) -> None:
        prepared, target, sequence = self._prepared, self._target, self._sequence
        key, whole = prepared.keys[index], prepared.wholes[index]
        response, position, start, end = prepared.places[index]
        before, revision = None, 1
        if previous is not None:
            before = previous.sequence
            self._change.supersede.append(before)
            revision = self._known.revisions[before] + 1
        self._change.rows.append(
            (
                target.tenant,
                target.profile,
                sequence,
                key,
                target.run_number,
                revision,
                before,
                target.publication,
                False,
                prepared.contents[index],
                response,
                position,
                start,
                end,
                prepared.bodies[index].decode(),
                *self._sealed(index, sequence, key.hex(), revision, whole),
            )
        )
        self._change.places.append(index)
        self._sequence = sequence + 1

    def _sealed(
        self, index: int, sequence: int, record: str, revision: int, whole: bytes
    ) -> tuple[str | None, bytes | None, bytes | None]:
        """Add the row's leaf; its subject, sealed part and commitment, if it is about somebody."""
        prepared, target = self._prepared, self._target
        mine = None if prepared.personal is None else prepared.personal[index]
        if mine is not None and mine.key is None:
            # They are erased: nothing that the worker committed to may be found in what is kept.
            self._leaves.append(
                record_leaf_hash(
                    self._keys,
                    run=target.run,
                    profile_digest=target.profile_digest,
                    sequence=sequence,
                    record=record,
                    revision=revision,
                    withdrawn=False,
                    whole=whole,
                )
            )
            return mine.token, None, None
        said = prepared.posted.commitments[index]
        self._leaves.append(self._leaf_hash(said, record, revision))
        self._change.signed.append(index)
        if mine is None or mine.key is None:
            return None, None, None
        salt = prepared.posted.salts[index]
        sealed = sealed_part(target.tenant, target.profile, sequence, mine.key, salt, mine.part)
        return mine.token, sealed, bytes.fromhex(said)


def _set(changed: dict[int, bytearray], known: Mapping[int, bytes], sequence: int) -> bool:
    """Set a row's bit; whether it was set before."""
    chunk, bit = divmod(sequence, SEEN_BITS)
    bits = changed.get(chunk)
    if bits is None:
        bits = changed[chunk] = bytearray(known.get(chunk, bytes(SEEN_BYTES)))
    byte, mask = bit >> 3, 1 << (bit & 7)
    before = bits[byte] & mask
    bits[byte] |= mask
    return bool(before)


def kept_count(kept: Mapping[int, bytes], seen: Mapping[int, bytes]) -> int:
    """How many published rows were met in rejected rows only."""
    return sum(
        (int.from_bytes(bits) & ~int.from_bytes(seen.get(chunk, b""))).bit_count()
        for chunk, bits in kept.items()
    )


def chunks_of(sequences: list[int]) -> list[int]:
    """The chunks of seen bits that these rows fall into."""
    return sorted({sequence // SEEN_BITS for sequence in sequences})


def is_seen(seen: Mapping[int, bytes], sequence: int) -> bool:
    """Whether the row's key came again in this attempt."""
    bits = seen.get(sequence // SEEN_BITS)
    if bits is None:
        return False
    bit = sequence % SEEN_BITS
    return bool(bits[bit >> 3] & (1 << (bit & 7)))
